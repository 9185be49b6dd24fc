"""Gradual: everything at once, watched closely, with an instant way back."""

from dataclasses import dataclass

from model_rollouts.core.gates import Metric, Role
from model_rollouts.core.patterns.common import CommonParameters, asked, harm_gates, plan_of, with_role
from model_rollouts.core.plan import FULL_SHARE, Pattern, Plan, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class GradualParameters(CommonParameters):
    """What a person may set. Looks are short: everybody is exposed.

    Attributes:
        look_seconds: Length of a look.
        bake_seconds: Least time of the watch.
        deadline_seconds: Latest time of the verdict.
        control_percent: Percentage of requests that the old version also answers, to compare with.
        approval: Ask a person before the victory.
    """

    look_seconds: float = 30.0
    bake_seconds: float = 3600.0
    deadline_seconds: float = 86_400.0
    control_percent: float = 20.0
    approval: bool = False


def plan_gradual(p: GradualParameters) -> Plan:
    """One stage with all the traffic: every metric is judged, and what full traffic can prove must be proven.

    The median latency rolls back, too, where other patterns hold: to hold would leave everybody where they are.

    Raises:
        PlanError: A parameter is out of its bounds; the message states the value and the bound.
    """
    stage = Stage(
        share=float(FULL_SHARE),
        gates=tuple(with_role(harm_gates(p), Role.TRIPWIRE, Metric.LATENCY_P50)),
        bake_seconds=p.bake_seconds,
        deadline_seconds=p.deadline_seconds,
        control_percent=p.control_percent,
        approval=asked("approval", p.approval),
    )
    return plan_of(Pattern.GRADUAL, p, (stage,))
