"""Blue-green: the new version is tested beside the old one with no live traffic, then takes everything at once."""

from dataclasses import dataclass

from model_rollouts.core.checks import number
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import Metric, Role
from model_rollouts.core.patterns.common import CONTROL_PERCENT, CommonParameters, asked, harm_gates, plan_of, with_role
from model_rollouts.core.plan import FULL_SHARE, LONGEST_SECONDS, Pattern, Plan, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueGreenParameters(CommonParameters):
    """What a person may set.

    Attributes:
        mirror_percent: Green: percentage of the live requests that it answers too, unseen.
        green_seconds: Least time of the green tests.
        green_deadline_seconds: Latest time of their verdict.
        switch_approval: Ask a person before the switch.
        bake_seconds: Least time of the watch after the switch.
        deadline_seconds: Latest time of its verdict.
        control_percent: After the switch, percentage of requests that blue also answers.
    """

    mirror_percent: float = 20.0
    green_seconds: float = 900.0
    green_deadline_seconds: float = 6 * 3600.0
    switch_approval: bool = False
    bake_seconds: float = 1800.0
    deadline_seconds: float = 86_400.0
    control_percent: float = CONTROL_PERCENT


def plan_blue_green(p: BlueGreenParameters) -> Plan:
    """Two stages: green beside blue with no live traffic, and everything on green with blue warm.

    Of accuracy nothing has to be proven: labels come late, and a switch that waits for days is none. The least number
    of them has to come, though, and what they show may not be harm; `label_coverage` 0 goes without. What matures later
    is watched after the promotion. After the switch the median latency rolls back, too: to hold would leave everybody
    on green.

    Raises:
        PlanError: A parameter is out of its bounds; the message states the value and the bound.
    """
    number("green_seconds", p.green_seconds, 0, LONGEST_SECONDS)
    number("green_deadline_seconds", p.green_deadline_seconds, 0, LONGEST_SECONDS)
    if not p.green_deadline_seconds > p.green_seconds:
        raise PlanError(
            f"green_deadline_seconds is {p.green_deadline_seconds:g}, must be above green_seconds ({p.green_seconds:g})"
        )
    gates = tuple(with_role(harm_gates(p), Role.TRIPWIRE, Metric.WRONG_RATE))
    green = Stage(
        share=0.0,
        gates=gates,
        bake_seconds=p.green_seconds,
        deadline_seconds=p.green_deadline_seconds,
        mirror_percent=p.mirror_percent,
        approval=asked("switch_approval", p.switch_approval),
    )
    switched = Stage(
        share=float(FULL_SHARE),
        gates=tuple(with_role(gates, Role.TRIPWIRE, Metric.LATENCY_P50)),
        bake_seconds=p.bake_seconds,
        deadline_seconds=p.deadline_seconds,
        control_percent=p.control_percent,
    )
    return plan_of(Pattern.BLUE_GREEN, p, (green, switched))
