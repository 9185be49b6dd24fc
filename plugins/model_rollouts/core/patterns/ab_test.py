"""A/B test: both versions serve, each its own units, until one is proven to be worth more."""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.checks import number
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Gate, Metric, Role
from model_rollouts.core.patterns.common import CommonParameters, asked, harm_gates, plan_of, with_role
from model_rollouts.core.plan import FULL_SHARE, LONGEST_SECONDS, Pattern, Plan, Stage

_MATCHED_POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ABTestParameters(CommonParameters):
    """What a person may set.

    Attributes:
        share: The challenger's share of the units, in percent.
        horizon_seconds: When the test ends without a winner. None: from the power calculation, for
            `detectable_lift` at the champion's traffic of the last day.
        bake_seconds: Least time before a winner is named: a whole week, where days of the week differ.
        detectable_lift: Relative lift of business value per request that the test is to see in four of five cases.
        pass_lift: The challenger wins when its lift is proven to be above this.
        rollback_lift: It is rolled back when its lift is proven to be below this.
        min_units: Least number of units with a value in each arm.
        at_deadline: What happens at the horizon without a winner: the champion stays (roll_back), or hold, or ask.
        approval: Ask a person before the winner takes over.
    """

    share: float = 50.0
    horizon_seconds: float | None = None
    bake_seconds: float = 86_400.0
    detectable_lift: float = 0.05
    pass_lift: float = 0.0
    rollback_lift: float = -0.01
    min_units: int = 400
    at_deadline: AtDeadline | str = AtDeadline.ROLL_BACK
    approval: bool = False


def plan_ab_test(p: ABTestParameters) -> Plan:
    """One stage: business value is the objective, everything else must not be harmed.

    A loss of value that is proven rolls back through the same gate: an objective's miss ends the wait with what the
    deadline says, so `at_deadline` decides what a loser comes to as well.

    Raises:
        PlanError: A parameter is out of its bounds; the message states the value and the bound.
    """
    number("share", p.share, 0, FULL_SHARE)
    number("detectable_lift", p.detectable_lift, 0.0001, 10)
    if not 0 < p.share < FULL_SHARE:
        raise PlanError(f"share is {p.share:g}, must be above 0 and below 100: both versions need units of their own")
    if p.horizon_seconds is None:
        raise PlanError("horizon_seconds is not set; set it, or have it worked out from the champion's logged values")
    number("horizon_seconds", p.horizon_seconds, 0, LONGEST_SECONDS)
    value = Gate(
        Metric.VALUE,
        Role.OBJECTIVE,
        pass_lift=p.pass_lift,
        rollback_lift=p.rollback_lift,
        min_units=p.min_units,
        coverage=p.label_coverage,
        min_requests=p.min_requests,
    )
    watched = with_role(
        harm_gates(p), Role.TRIPWIRE, Metric.ERROR_RATE, Metric.WRONG_RATE, Metric.LATENCY_P95, Metric.LATENCY_P99
    )
    stage = Stage(
        share=float(p.share),
        gates=(value, *watched, Gate(Metric.SAMPLE_RATIO, Role.SIGNAL)),
        bake_seconds=p.bake_seconds,
        deadline_seconds=p.horizon_seconds,
        approval=asked("approval", p.approval),
    )
    return plan_of(Pattern.AB_TEST, p, (stage,))


def horizon(p: ABTestParameters, baseline: Baseline) -> float:
    """Seconds until a lift of `detectable_lift` is seen in four of five tests, at the champion's traffic.

    The usual sample size for a difference of means, with the price of a bound that holds at any time: about
    sqrt(2 ln(1/beta) + 2) standard errors where a single look needs 1.64 at beta 0.05 (the width of a normal mixture's
    boundary near the time it is tuned for; Howard et al., Time-uniform confidence sequences, 2021). Never too short for
    `min_units` in each arm, never below the bake time, and with the time that labels take on top. Requests count as
    independent: where a unit's requests resemble each other, the same lift takes longer.

    Args:
        p: The parameters.
        baseline: The champion's recent requests and values.

    Raises:
        PlanError: A parameter is out of its bounds, the log has no values to plan by, or the horizon would be beyond a
            year.
    """
    plan_ab_test(replace(p, horizon_seconds=LONGEST_SECONDS))  # refuses what could not be reckoned with
    mean, spread = baseline.value_mean, baseline.value_sd
    if mean is None or spread is None or not mean > 0 or not baseline.due:
        raise PlanError(
            f"no horizon can be worked out: the champion has {baseline.valued:,} logged values with mean {mean}; log "
            "values with the outcomes, or set horizon_seconds"
        )
    needed = math.sqrt(2 * math.log(1 / p.beta) + 2) + NormalDist().inv_cdf(_MATCHED_POWER)
    part = p.share / FULL_SHARE
    distance = needed * spread / (p.detectable_lift * mean)
    requests = max(distance * distance / (part * (1 - part)), p.min_units / min(part, 1 - part))
    valued_per_second = baseline.requests / baseline.seconds * baseline.valued / baseline.due
    seconds = requests / valued_per_second + p.label_maturity_seconds + p.look_seconds + p.grace_seconds
    if seconds > LONGEST_SECONDS:
        raise PlanError(
            f"a lift of {p.detectable_lift:g} takes {requests:,.0f} requests with a value, {seconds / 86_400:,.0f} "
            "days at this traffic, must be at most 366; look for a larger lift, or set horizon_seconds"
        )
    return max(seconds, p.bake_seconds + p.look_seconds)
