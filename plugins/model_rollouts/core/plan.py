"""The plan of a rollout: ordered stages, validated before anything moves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from model_rollouts.core.checks import choice, flag, names, number
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import Gate, Role

FULL_SHARE = 100
LONGEST_SECONDS = 366 * 86_400.0


class Pattern(StrEnum):
    """The five ways to bring a version to production."""

    BLUE_GREEN = "blue-green"
    SHADOW = "shadow"
    CANARY = "canary"
    AB_TEST = "ab-test"
    GRADUAL = "gradual"


class AtDeadline(StrEnum):
    """What happens when a stage's deadline comes and nothing is proven."""

    HOLD = "hold"
    ROLL_BACK = "roll_back"


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
        if all(gate.role is Role.MUTED for gate in self.gates):
            raise PlanError("a stage has no gate that can stop it: give at least one a role other than muted")
        metrics = [gate.metric for gate in self.gates]
        if len(set(metrics)) != len(metrics):
            raise PlanError(f"gates name a metric twice: {', '.join(metrics)}")


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
    """

    pattern: Pattern
    stages: tuple[Stage, ...]
    look_seconds: float = 60.0
    grace_seconds: float = 5.0
    label_maturity_seconds: float = 3600.0
    alpha: float = 0.01
    beta: float = 0.05
    at_deadline: AtDeadline = AtDeadline.HOLD

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
        ripe = self.look_seconds + self.grace_seconds + self.label_maturity_seconds
        for position, stage in enumerate(self.stages):
            if stage.deadline_seconds < ripe and any(gate.coverage > 0 for gate in stage.gates):
                raise PlanError(
                    f"deadline_seconds of stage {position} is {stage.deadline_seconds:g}, must be at least {ripe:g} "
                    "(look_seconds + grace_seconds + label_maturity_seconds): the labels of no look would be due "
                    "before it; give it more time, or set label_coverage to 0 to go without labels"
                )

    def stage(self, index: int) -> Stage:
        """The stage at a position.

        Raises:
            PlanError: There is no such stage.
        """
        if not 0 <= index < len(self.stages):
            raise PlanError(f"stage is {index}, must be between 0 and {len(self.stages) - 1}")
        return self.stages[index]

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """Build and validate a plan from JSON types.

        Raises:
            PlanError: A value is out of its bounds or of the wrong type, or a name is unknown or missing.
        """
        values = dict(names("plan", data, cls))
        values["pattern"] = choice("pattern", values["pattern"], Pattern)
        values["stages"] = tuple(_stage(stage) for stage in _items("stages", values["stages"]))
        if "at_deadline" in values:
            values["at_deadline"] = choice("at_deadline", values["at_deadline"], AtDeadline)
        return cls(**values)


def _stage(data: object) -> Stage:
    values = dict(names("stage", data, Stage))
    values["gates"] = tuple(Gate.from_dict(gate) for gate in _items("gates", values["gates"]))
    return Stage(**values)


def _items(name: str, value: object) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be a list")
