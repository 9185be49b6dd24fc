"""Canary: the challenger's share grows step by step, each step earned by proof."""

from collections.abc import Sequence
from dataclasses import dataclass

from model_rollouts.core.checks import number
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.patterns.common import CONTROL_PERCENT, CommonParameters, asked, harm_gates, plan_of
from model_rollouts.core.plan import FULL_SHARE, Pattern, Plan, Stage

_MOST_STEPS = 100

#: Challenger requests until the default steps pass a version as good as the champion, at 2 % errors: for the form,
#: which can't wait for core/power.py; a test holds the two together.
DEFAULT_NEED = (200, 350, 950, 3_200, 48_000)
POWER_HELP = (
    f"With 2 % errors, the default margins need about {', '.join(f'{n:,}' for n in DEFAULT_NEED)} of the challenger's "
    "requests at 1, 5, 25, 50, 100 % to pass a version as good as the champion. Preflight says it for your traffic."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryParameters(CommonParameters):
    """What a person may set.

    A small share sees few requests, so what it can prove is coarse. `first_pass_odds` is the margin at the first
    step; it tightens geometrically to `pass_odds` at the last one. Harm needs no such help: the rollback margin
    is the same everywhere.

    Attributes:
        steps: The challenger's shares in percent, increasing.
        bake_seconds: Least time at each step.
        deadline_seconds: Latest time of a verdict at each step.
        first_pass_odds: Margin of non-inferiority at the first step.
        control_percent: At a share of 100, percentage of requests that the champion also answers.
        control_group: At shares up to 50, compare with a group of the champion's units that is as large as the
            challenger's, not with all of them. No step may then be between 50 and 100.
        value_loss: Largest relative loss of business value per request that is accepted, such as 0.05; half of it,
            proven, rolls back. That there is no larger loss must be proven at the last step below 100, where both
            versions still have callers of their own. None: business value is not judged.
        approval_from_share: Ask a person before leaving a step of this share or more. None: never.
    """

    steps: Sequence[float] = (1, 5, 25, 50, 100)
    bake_seconds: float = 3600.0
    deadline_seconds: float = 86_400.0
    first_pass_odds: float = 4.0
    control_percent: float = CONTROL_PERCENT
    control_group: bool = False
    value_loss: float | None = None
    approval_from_share: float | None = None


def plan_canary(parameters: CanaryParameters) -> Plan:
    """Make the plan.

    Raises:
        PlanError: A parameter is out of its bounds; the message states the value and the bound.
    """
    p = parameters
    _check_steps(p.steps)
    grouped = asked("control_group", p.control_group)
    if grouped and min(p.steps) > FULL_SHARE / 2:
        raise PlanError("control_group is set and no step is up to 50, where there is room for one: add one")
    # The margins are reckoned with before the gates see them; the rest is judged by the plan itself.
    number("pass_odds", p.pass_odds, 1, 1000)
    number("first_pass_odds", p.first_pass_odds, 1, 1000)
    number("negligible_error_rate", p.negligible_error_rate, 0, 1)
    number("label_coverage", p.label_coverage, 0, 1)
    if p.value_loss is not None:
        number("value_loss", p.value_loss, 0.0001, 0.9)
        if min(p.steps) >= FULL_SHARE:
            raise PlanError("value_loss is set and no step is below 100, where both versions have callers: add one")
    if p.approval_from_share is not None:
        number("approval_from_share", p.approval_from_share, 0, FULL_SHARE)
    if p.first_pass_odds < p.pass_odds:
        raise PlanError(f"first_pass_odds is {p.first_pass_odds}, must be at least pass_odds ({p.pass_odds})")
    last = max(len(p.steps) - 1, 1)
    widening = p.first_pass_odds / p.pass_odds
    stages = []
    for position, share in enumerate(p.steps):
        widen = widening ** (1 - position / last) if len(p.steps) > 1 else 1.0
        stages.append(
            Stage(
                share=float(share),
                gates=_gates(p, widen, float(share)),
                bake_seconds=p.bake_seconds,
                deadline_seconds=p.deadline_seconds,
                control_percent=p.control_percent if share == FULL_SHARE else 0.0,
                approval=p.approval_from_share is not None and share >= p.approval_from_share,
                control_group=grouped and share <= FULL_SHARE / 2,
            )
        )
    return plan_of(Pattern.CANARY, p, stages)


def _check_steps(steps: object) -> None:
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise PlanError(f"steps is {steps!r} ({type(steps).__name__}), must be a list of shares, such as [1, 5, 25]")
    if not 0 < len(steps) <= _MOST_STEPS:
        raise PlanError(f"steps has {len(steps)} shares, must have 1 to {_MOST_STEPS}, such as 1, 5, 25, 50, 100")
    for share in steps:
        number("a step", share, 0, FULL_SHARE)
        if share == 0:
            raise PlanError("a step is 0, must be above 0: a challenger that gets no requests proves nothing")


def _gates(p: CanaryParameters, widen: float, share: float) -> tuple[Gate, ...]:
    odds = min(p.pass_odds * widen, p.first_pass_odds)  # rounding must not carry it past the first step's margin
    gates = harm_gates(p, odds=odds, negligible=min(p.negligible_error_rate * widen, 0.5))
    if share < FULL_SHARE:
        gates.append(Gate(Metric.SAMPLE_RATIO, Role.SIGNAL))
    if p.value_loss is not None and share < FULL_SHARE:
        gates.append(_value_gate(p, p.value_loss, last=share == max(s for s in p.steps if s < FULL_SHARE)))
    return tuple(gates)


def _value_gate(p: CanaryParameters, loss: float, *, last: bool) -> Gate:
    """Watched at every step, proven where most callers of both versions are: what few units spend proves little."""
    return Gate(
        Metric.VALUE,
        role=Role.GUARDRAIL if last else Role.TRIPWIRE,
        rollback_lift=-loss / 2,
        pass_lift=-loss,
        coverage=p.label_coverage if last else 0.0,
        min_requests=p.min_requests if last else 1,
    )
