"""Evidence that has come to its end: logged requests that have all been scored."""

from collections.abc import Sequence
from dataclasses import replace

from model_rollouts.core.decision import Decision, Verdict, most_careful
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Plan
from model_rollouts.core.power import need
from model_rollouts.core.verdict import GateResult

_HALF = 0.5  # both versions answer every request


def exhaust(decision: Decision, said: str, plan: Plan) -> Decision:
    """The same decision when there is nothing left to wait for: waiting ends as it does at the deadline.

    Args:
        decision: The verdict on everything there is.
        said: What has been used up, and what would have been needed; see `used_up`.
        plan: The rollout's plan, for what happens at a deadline.
    """
    if decision.verdict is not Verdict.WAIT:
        return decision
    waiting = [gate for gate, _ in _waiting(decision, plan)]
    return replace(
        decision,
        verdict=Verdict.INCONCLUSIVE,
        action=most_careful(plan, decision.stage, waiting),
        reason=f"{said}; {decision.reason}",
        exhausted=said,
    )


def used_up(decision: Decision, plan: Plan, scored: int, unfit: int) -> str:
    """How many logged requests there were, and how many it takes.

    Args:
        decision: The verdict on everything there is.
        plan: The rollout's plan.
        scored: Requests that the challenger was asked.
        unfit: Requests that it could not be asked, because the log does not hold its inputs.
    """
    if not scored and not unfit:
        return "the champion has no logged requests to score"
    if not scored:
        return f"none of the champion's {unfit:,} logged requests could be scored: the log does not hold their inputs"
    told = f"all {scored:,} logged requests of the champion are scored"
    if unfit:
        told += f", {unfit:,} more could not be: the log does not hold their inputs"
    needs = [_needed(plan, decision.stage, gate, result) for gate, result in _waiting(decision, plan)]
    return f"{told}; {', '.join(needs)}" if needs else told


def _waiting(decision: Decision, plan: Plan) -> Sequence[tuple[Gate, GateResult]]:
    """The gates that the stage can't be left because of."""
    found = [(plan.stage(decision.stage).gate(result.metric), result) for result in decision.gates]
    return [(g, r) for g, r in found if g is not None and g.role.holds_up and r.verdict is not Verdict.PASS]


def _needed(plan: Plan, stage: int, gate: Gate, result: GateResult) -> str:
    m = result.measured
    rate = m.champion_bad / m.champion_n if m.champion_n else 0.0
    stretch = m.design_effect
    wanted = need(gate, rate, _HALF, plan.alpha_of(stage, gate), plan.beta_of(gate), stretch).to_pass
    if wanted is None:
        return f"{gate.metric} can't be proven by any number of requests"
    if gate.metric is Metric.AGREEMENT:  # `need` leaves the units' part in it to its caller
        return f"{gate.metric} needs about {wanted * stretch:,.0f} where a quarter of the tolerated answers differ"
    return f"{gate.metric} needs about {wanted:,.0f} of a challenger as good as the champion"
