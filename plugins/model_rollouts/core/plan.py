"""The plan of a rollout: ordered stages, validated before anything moves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from model_rollouts.core.checks import choice, flag, names, number
from model_rollouts.core.combination import levels
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Gate, Metric

FULL_SHARE = 100
LONGEST_SECONDS = 366 * 86_400.0
_SAMPLE_RATIO_ALPHA = 0.001  # what people look at by hand; it holds the stage, so it may not cry wolf


class Pattern(StrEnum):
    """The five ways to bring a version to production."""

    BLUE_GREEN = "blue-green"
    SHADOW = "shadow"
    CANARY = "canary"
    AB_TEST = "ab-test"
    GRADUAL = "gradual"


class Underpowered(StrEnum):
    """What happens when a stage can't come to a verdict by its deadline at the traffic that it gets."""

    WAIT = "wait"  # says so, and waits for the deadline: harm is still seen
    HOLD = "hold"
    ASK = "ask"  # a person decides; nobody answering means hold


@dataclass(frozen=True, slots=True)
class Stage:
    """One traffic setting and the gates to leave it.

    Attributes:
        share: The challenger's share of the units, in percent, 0 to 100.
        gates: What is judged in this stage.
        bake_seconds: Least time in the stage, however good the evidence.
        deadline_seconds: Latest time of a verdict; counted from the moment the traffic moved.
        control_percent: At a share of 100 nobody is left to compare with: this percentage of the requests is
            also answered by the champion in the background and counted as the champion's cohort.
        approval: Ask a person before leaving the stage.
    """

    share: float
    gates: tuple[Gate, ...]
    bake_seconds: float
    deadline_seconds: float
    control_percent: float = 0.0
    approval: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        number("challenger share", self.share, 0, FULL_SHARE)
        number("control_percent", self.control_percent, 0, 50)
        number("bake_seconds", self.bake_seconds, 0, LONGEST_SECONDS)
        number("deadline_seconds", self.deadline_seconds, 0, LONGEST_SECONDS)
        flag("approval", self.approval)
        if self.share == FULL_SHARE and self.control_percent == 0:
            raise PlanError(
                "control_percent is 0 at a share of 100: nothing would be left to compare the challenger with; "
                "set it between 1 and 50"
            )
        if not self.deadline_seconds > self.bake_seconds:
            raise PlanError(
                f"deadline_seconds is {self.deadline_seconds:g}, must be above bake_seconds ({self.bake_seconds:g})"
            )
        if not isinstance(self.gates, tuple) or not all(isinstance(gate, Gate) for gate in self.gates):
            raise PlanError(f"gates is {self.gates!r}, must be a tuple of gates; use Plan.from_dict for plain data")
        if not any(gate.role.holds_up for gate in self.gates):
            raise PlanError(
                "a stage has no gate that it has to pass: give at least one a role other than signal or muted"
            )
        metrics = [gate.metric for gate in self.gates]
        if len(set(metrics)) != len(metrics):
            raise PlanError(f"gates name a metric twice: {', '.join(metrics)}")
        if Metric.SAMPLE_RATIO in metrics and self.share in (0, FULL_SHARE):
            raise PlanError(
                f"the sample_ratio gate is in a stage with a share of {self.share:g}, must be in one between 0 and "
                "100, both excluded: where all units go one way, nothing is dealt"
            )
        if Metric.VALUE in metrics and self.share in (0, FULL_SHARE):
            raise PlanError(
                f"the value gate is in a stage with a share of {self.share:g}, must be in one between 0 and 100, both "
                "excluded: where all callers get one version's answers, no value is the other one's"
            )
        if Metric.AGREEMENT in metrics and 0 < self.share < FULL_SHARE:
            raise PlanError(
                f"the agreement gate is in a stage with a share of {self.share:g}, must be in one of 0 or 100: in "
                "between no request is answered by both versions"
            )
        for gate in self.gates:
            if gate.deadline_seconds is not None and not gate.deadline_seconds <= self.deadline_seconds:
                raise PlanError(
                    f"{gate.metric} gate: deadline_seconds is {gate.deadline_seconds:g}, must be at most the stage's "
                    f"({self.deadline_seconds:g})"
                )

    @property
    def rolling_back(self) -> tuple[Gate, ...]:
        """The gates whose proven harm rolls back: they share the plan's alpha."""
        return tuple(gate for gate in self.gates if gate.role.rolls_back)

    def gate(self, metric: Metric) -> Gate | None:
        """The gate of a metric, if the stage has one."""
        return next((gate for gate in self.gates if gate.metric is metric), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """The ordered stages of a rollout.

    Attributes:
        pattern: Which pattern made the plan.
        stages: In order; shares increase.
        look_seconds: Length of a look.
        grace_seconds: How long after its end a look is closed: the log's own delay.
        label_maturity_seconds: Age at which a request's label is due.
        alpha: Bound on rolling back a challenger that is as good as the champion, over the whole rollout.
        beta: Bound on passing one that is worse than the margin, per gate and stage.
        at_deadline: What happens when a deadline comes and nothing is proven.
        underpowered: What happens when a stage's traffic can't bring a proof before its deadline.
    """

    pattern: Pattern
    stages: tuple[Stage, ...]
    look_seconds: float = 60.0
    grace_seconds: float = 5.0
    label_maturity_seconds: float = 3600.0
    alpha: float = 0.01
    beta: float = 0.05
    at_deadline: AtDeadline = AtDeadline.HOLD
    underpowered: Underpowered = Underpowered.WAIT

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        if not isinstance(self.pattern, Pattern) or not isinstance(self.at_deadline, AtDeadline):
            raise PlanError(
                f"pattern is {self.pattern!r} and at_deadline is {self.at_deadline!r}, must be a Pattern and an "
                "AtDeadline; use Plan.from_dict for plain text"
            )
        if not isinstance(self.underpowered, Underpowered):
            raise PlanError(f"underpowered is {self.underpowered!r}, must be an Underpowered")
        if not isinstance(self.stages, tuple) or not all(isinstance(stage, Stage) for stage in self.stages):
            raise PlanError(f"stages is {self.stages!r}, must be a tuple of stages; use Plan.from_dict for plain data")
        if not self.stages:
            raise PlanError("the plan has no stages: give at least one share")
        for before, after in pairwise(s.share for s in self.stages):
            if not after > before:
                raise PlanError(f"shares must increase from stage to stage: {before:g} is followed by {after:g}")
        number("look_seconds", self.look_seconds, 0.5, 86_400)
        number("grace_seconds", self.grace_seconds, 0, 3_600)
        number("label_maturity_seconds", self.label_maturity_seconds, 0, 90 * 86_400)
        number("alpha", self.alpha, 1e-6, 0.2)
        number("beta", self.beta, 1e-6, 0.2)
        self._budgets()
        for position, stage in enumerate(self.stages):
            for gate in stage.gates:
                self._check_time(position, gate)

    def _check_time(self, position: int, gate: Gate) -> None:
        """Refuse a gate that the stage has to pass and that could not be judged before its deadline."""
        ripe = self.look_seconds + self.grace_seconds
        known = "look_seconds + grace_seconds"
        hint = "give it more time"
        if gate.metric.matures:
            ripe += self.label_maturity_seconds
            known += " + label_maturity_seconds"
            hint += ", or set label_coverage to 0 to go without labels"
        deadline = self.deadline_of(position, gate)
        if deadline < ripe and gate.role.holds_up and (gate.metric.matures or gate.deadline_seconds is not None):
            raise PlanError(
                f"deadline_seconds of stage {position} is {deadline:g} for {gate.metric}, must be at least {ripe:g} "
                f"({known}): nothing would be known before it; {hint}"
            )

    def _budgets(self) -> dict[tuple[object, ...], float]:
        """The error budget of each test against harm of the whole plan.

        A gate that is the same test in every stage has one budget; one with another margin is another test. The sum
        over all tests of all stages is at most alpha, so the bound is of the rollout, not of a stage.
        """
        tests: dict[tuple[object, ...], Gate] = {}
        for stage in self.stages:
            tests |= {_test_of(gate): gate for gate in stage.rolling_back}
        shares = levels(self.alpha, [gate.alpha for gate in tests.values()])
        return dict(zip(tests, shares, strict=True))

    def stage(self, index: int) -> Stage:
        """The stage at a position.

        Raises:
            PlanError: There is no such stage.
        """
        if not 0 <= index < len(self.stages):
            raise PlanError(f"stage is {index}, must be between 0 and {len(self.stages) - 1}")
        return self.stages[index]

    def alpha_of(self, stage: int, gate: Gate) -> float:
        """The error budget against harm of a gate of a stage: its own, or its part of what the plan's tests share."""
        if gate in self.stage(stage).rolling_back:
            return self._budgets()[_test_of(gate)]
        return gate.alpha or (_SAMPLE_RATIO_ALPHA if gate.metric is Metric.SAMPLE_RATIO else self.alpha)

    def beta_of(self, gate: Gate) -> float:
        """The error budget of a gate against passing what is worse than the margin."""
        return gate.beta or self.beta

    def deadline_of(self, stage: int, gate: Gate) -> float:
        """Latest time of a gate's proof, in seconds from the moment the stage's traffic moved."""
        return self.stage(stage).deadline_seconds if gate.deadline_seconds is None else gate.deadline_seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        data = asdict(self)
        for shown, stage in zip(data["stages"], self.stages, strict=True):
            shown["gates"] = [gate.to_dict() for gate in stage.gates]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """Build and validate a plan from JSON types. A stage without gates gets those of its pattern.

        Raises:
            PlanError: A value is out of its bounds or of the wrong type, or a name is unknown or missing.
        """
        values = dict(names("plan", data, cls))
        values["pattern"] = choice("pattern", values["pattern"], Pattern)
        values["stages"] = tuple(_stage(stage, values["pattern"]) for stage in _items("stages", values["stages"]))
        if "at_deadline" in values:
            values["at_deadline"] = choice("at_deadline", values["at_deadline"], AtDeadline)
        if "underpowered" in values:
            values["underpowered"] = choice("underpowered", values["underpowered"], Underpowered)
        return cls(**values)


def _test_of(gate: Gate) -> tuple[object, ...]:
    """What makes two gates the same test against harm."""
    margins = (gate.rollback_odds, gate.latency_margin, gate.latency_slack_ms, gate.floor, gate.tolerance)
    return (gate.metric, *margins, gate.rollback_lift, gate.min_units, gate.alpha)


def _stage(data: object, pattern: Pattern) -> Stage:
    from model_rollouts.core.default_gates import default_gates  # which knows the patterns

    if isinstance(data, Mapping) and "gates" not in data:
        share = data.get("share")
        number("challenger share", share, 0, FULL_SHARE)
        data = {**data, "gates": [gate.to_dict() for gate in default_gates(pattern, float(str(share)))]}
    values = dict(names("stage", data, Stage))
    values["gates"] = tuple(Gate.from_dict(gate) for gate in _items("gates", values["gates"]))
    return Stage(**values)


def _items(name: str, value: object) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be a list")
