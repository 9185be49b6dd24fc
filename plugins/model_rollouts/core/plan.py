"""The plan of a rollout: ordered stages, validated before anything moves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

from model_rollouts.core.calendar import Calendar
from model_rollouts.core.checks import choice, flag, names, number
from model_rollouts.core.combination import levels
from model_rollouts.core.data_rollback import DataRollback
from model_rollouts.core.drift_plan import DriftPlan
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Gate, Metric
from model_rollouts.core.readiness import Readiness

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

    @property
    def dag_id(self) -> str:
        """The DAG that runs a pattern's stages."""
        return self.value.replace("-", "_")


class Underpowered(StrEnum):
    """What happens when a stage can't come to a verdict by its deadline at the traffic that it gets."""

    WAIT = "wait"  # says so, and waits for the deadline: harm is still seen
    HOLD = "hold"
    ASK = "ask"  # a person decides; nobody answering means hold


class Advance(StrEnum):
    """What opens the next stage once one has passed."""

    AT_ONCE = "at_once"
    ON_SCHEDULE = "on_schedule"  # the DAG scheduled_expansion, at its next tick that the calendar allows


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
        mirror_percent: At a share of 0: percentage of the requests that the challenger answers too, unseen by callers.
        control_group: Compare with a group of champion units that is as large as the challenger's, dealt like it, and
            not with everybody else. For shares up to 50.
        offline: At a share of 0: score logged requests of the champion in a task; no gateway is needed.
        pattern: Which pattern the stage is of, in a plan that chains patterns. None: the plan's.
        at_deadline: What happens when the stage's deadline comes and nothing is proven. None: what the plan says.
    """

    share: float
    gates: tuple[Gate, ...]
    bake_seconds: float
    deadline_seconds: float
    control_percent: float = 0.0
    approval: bool = False
    mirror_percent: float = 0.0
    control_group: bool = False
    offline: bool = False
    pattern: Pattern | None = None
    at_deadline: AtDeadline | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        number("challenger share", self.share, 0, FULL_SHARE)
        number("control_percent", self.control_percent, 0, 50)
        number("bake_seconds", self.bake_seconds, 0, LONGEST_SECONDS)
        number("deadline_seconds", self.deadline_seconds, 0, LONGEST_SECONDS)
        number("mirror_percent", self.mirror_percent, 0, 100)
        for name in ("approval", "control_group", "offline"):
            flag(name, getattr(self, name))
        self._check_kinds()
        self._check_comparison()
        if not self.deadline_seconds > self.bake_seconds:
            raise PlanError(
                f"deadline_seconds is {self.deadline_seconds:g}, must be above bake_seconds ({self.bake_seconds:g})"
            )
        self._check_gates()

    def _check_kinds(self) -> None:
        for name, kind in (("pattern", Pattern), ("at_deadline", AtDeadline)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise PlanError(f"{name} of a stage is {value!r}, must be of type {kind.__name__} or None")

    def _check_comparison(self) -> None:
        """Refuse a stage in which nothing could be compared."""
        if self.share == FULL_SHARE and self.control_percent == 0:
            raise PlanError(
                "control_percent is 0 at a share of 100: nothing would be left to compare the challenger with; "
                "set it between 1 and 50"
            )
        if self.share == 0 and not self.offline and self.mirror_percent == 0:
            raise PlanError(
                "mirror_percent is 0 at a share of 0: the challenger would answer nothing; set it to up to 100, or "
                "offline to score logged requests"
            )
        if self.share > 0 and (self.mirror_percent or self.offline):
            raise PlanError(
                f"mirror_percent is {self.mirror_percent:g} and offline is {self.offline} at a share of "
                f"{self.share:g}, must be 0 and false: the challenger answers callers of its own there"
            )
        if self.offline and self.mirror_percent:
            raise PlanError(
                f"mirror_percent is {self.mirror_percent:g} in an offline stage, must be 0: nothing is live"
            )
        if self.control_group and not 0 < self.share <= FULL_SHARE / 2:
            raise PlanError(
                f"control_group is set at a share of {self.share:g}, must be at one above 0 and at most 50: a group as "
                "large as the challenger's has no room otherwise"
            )

    def _check_gates(self) -> None:
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
    def dealt_percent(self) -> float:
        """The challenger's part of the units that count for either version, in percent."""
        return FULL_SHARE / 2 if self.control_group else self.share

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
        advance: What opens the next stage once one has passed.
        calendar: When a schedule may open it.
        keep_previous_seconds: How long the old champion stays loaded after the cut-over, ready to take over again.
        readiness: What must hold before anything moves.
        data_rollback: What is undone with the model when it is rolled back, in order.
        drift: Limits and roles of drift, by column.
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
    advance: Advance = Advance.AT_ONCE
    calendar: Calendar = field(default_factory=Calendar)
    keep_previous_seconds: float = 7 * 86_400.0
    readiness: Readiness = field(default_factory=Readiness)
    data_rollback: tuple[DataRollback, ...] = ()
    drift: DriftPlan = field(default_factory=DriftPlan)

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
        self._check_settings()
        if not isinstance(self.stages, tuple) or not all(isinstance(stage, Stage) for stage in self.stages):
            raise PlanError(f"stages is {self.stages!r}, must be a tuple of stages; use Plan.from_dict for plain data")
        if not self.stages:
            raise PlanError("the plan has no stages: give at least one share")
        for one, other in pairwise(self.stages):
            chained = (one.pattern or self.pattern) is not (other.pattern or self.pattern)
            if not (other.share > one.share or (chained and other.share == one.share)):
                raise PlanError(
                    f"shares must increase from stage to stage: {one.share:g} is followed by {other.share:g}"
                    + ("" if chained else "; only another pattern may go on at the same share")
                )
        number("look_seconds", self.look_seconds, 0.5, 86_400)
        number("grace_seconds", self.grace_seconds, 0, 3_600)
        number("label_maturity_seconds", self.label_maturity_seconds, 0, 90 * 86_400)
        number("alpha", self.alpha, 1e-6, 0.2)
        number("beta", self.beta, 1e-6, 0.2)
        self._budgets()
        self._check_deal()
        for position, stage in enumerate(self.stages):
            for gate in stage.gates:
                self._check_time(position, gate)

    def _check_settings(self) -> None:
        kinds = {"underpowered": Underpowered, "advance": Advance, "calendar": Calendar, "readiness": Readiness}
        kinds["drift"] = DriftPlan
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise PlanError(f"{name} is {getattr(self, name)!r}, must be of type {kind.__name__}")
        number("keep_previous_seconds", self.keep_previous_seconds, 0, LONGEST_SECONDS)
        if not isinstance(self.data_rollback, tuple) or not all(
            isinstance(step, DataRollback) for step in self.data_rollback
        ):
            raise PlanError(f"data_rollback is {self.data_rollback!r}, must be a tuple of DataRollback")

    def _check_deal(self) -> None:
        """Refuse a sample ratio gate where nobody knows the ratio.

        Units that a control group left out are first counted in a later stage, and then by where they stand: between
        the group's two ends. Only where both versions get the same number of units are they dealt like the others.
        """
        grouped = False
        for position, stage in enumerate(self.stages):
            if grouped and stage.gate(Metric.SAMPLE_RATIO) and stage.dealt_percent != FULL_SHARE / 2:
                raise PlanError(
                    f"share of stage {position} is {stage.share:g} without a control group and after a stage with one, "
                    "must be 50 or 100: in between, units that the group left out are not dealt as the share says, and "
                    "the sample_ratio gate would take it for a mistake"
                )
            grouped = grouped or stage.control_group

    def _check_time(self, position: int, gate: Gate) -> None:
        """Refuse a gate that the stage has to pass and that could not be judged before its deadline."""
        if self.stages[position].offline:
            return  # logged requests have waited for their labels already
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

    def pattern_of(self, stage: int) -> Pattern:
        """Which pattern a stage is of."""
        return self.stage(stage).pattern or self.pattern

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        data = asdict(self)
        for shown, stage in zip(data["stages"], self.stages, strict=True):
            shown["gates"] = [gate.to_dict() for gate in stage.gates]
        data["drift"] = self.drift.to_dict()
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
        if "advance" in values:
            values["advance"] = choice("advance", values["advance"], Advance)
        if "calendar" in values:
            values["calendar"] = Calendar.from_dict(values["calendar"])
        if "readiness" in values:
            values["readiness"] = Readiness.from_dict(values["readiness"])
        if "data_rollback" in values:
            steps = _items("data_rollback", values["data_rollback"])
            values["data_rollback"] = tuple(DataRollback.from_dict(step) for step in steps)
        if "drift" in values:
            values["drift"] = DriftPlan.from_dict(values["drift"])
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
        if data.get("pattern") is not None:
            pattern = choice("pattern of a stage", data["pattern"], Pattern)
        gates = default_gates(pattern, float(str(share)), offline=data.get("offline") is True)
        data = {**data, "gates": [gate.to_dict() for gate in gates]}
    values = dict(names("stage", data, Stage))
    if values.get("pattern") is not None:
        values["pattern"] = choice("pattern of a stage", values["pattern"], Pattern)
    if values.get("at_deadline") is not None:
        values["at_deadline"] = choice("at_deadline of a stage", values["at_deadline"], AtDeadline)
    values["gates"] = tuple(Gate.from_dict(gate) for gate in _items("gates", values["gates"]))
    return Stage(**values)


def _items(name: str, value: object) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be a list")
