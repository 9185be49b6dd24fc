"""Shadow: the new version answers the same requests as the old one, and nobody sees its answers."""

from dataclasses import dataclass

from model_rollouts.core.checks import flag, number
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.patterns.common import CommonParameters, asked, harm_gates, plan_of, with_role
from model_rollouts.core.plan import LONGEST_SECONDS, Pattern, Plan, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowParameters(CommonParameters):
    """What a person may set.

    Attributes:
        mirror_percent: Percentage of the live requests that the challenger answers too.
        agreement: Share of equal answers that must be proven, 0 to 1.
        tolerance: Answers are numbers, and equal when they differ by at most this much. None: equal text.
        pair_coverage: Least share of the champion's answers that the challenger must have given too, of those that
            were mirrored.
        bake_seconds: Least time of the comparison.
        deadline_seconds: Latest time of the verdict.
        approval: Ask a person before the cut-over.
        offline: Score logged requests of the champion in a task instead: no gateway is needed.
    """

    mirror_percent: float = 100.0
    agreement: float = 0.98
    tolerance: float | None = None
    pair_coverage: float = 0.5
    bake_seconds: float = 3600.0
    deadline_seconds: float = 7 * 86_400.0
    approval: bool = False
    offline: bool = False


def plan_shadow(p: ShadowParameters) -> Plan:
    """One stage with no live traffic: it is left when agreement is proven, and rolled back on harm.

    What is worse for callers (errors, latency) rolls back; accuracy can only hold, for a person to look. Offline there
    is no latency that a caller would have met, so it is not judged.

    Raises:
        PlanError: A parameter is out of its bounds; the message states the value and the bound.
    """
    flag("offline", p.offline)
    # Reckoned with, or left out offline, before the plan could judge them.
    number("mirror_percent", p.mirror_percent, 0, 100)
    number("pair_coverage", p.pair_coverage, 0, 1)
    number("bake_seconds", p.bake_seconds, 0, LONGEST_SECONDS)
    agreement = Gate(
        Metric.AGREEMENT,
        Role.OBJECTIVE,
        floor=p.agreement,
        tolerance=p.tolerance,
        coverage=p.pair_coverage if p.offline else p.pair_coverage * p.mirror_percent / 100,
        min_requests=p.min_requests,
    )
    harm = with_role(harm_gates(p), Role.SIGNAL, Metric.WRONG_RATE)
    if p.offline:
        harm = with_role(harm, Role.MUTED, Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.LATENCY_P99)
    stage = Stage(
        share=0.0,
        gates=(agreement, *harm),
        bake_seconds=0.0 if p.offline else p.bake_seconds,
        deadline_seconds=p.deadline_seconds,
        mirror_percent=0.0 if p.offline else p.mirror_percent,
        offline=p.offline,
        approval=asked("approval", p.approval),
    )
    return plan_of(Pattern.SHADOW, p, (stage,))
