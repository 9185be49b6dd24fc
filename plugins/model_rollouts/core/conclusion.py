"""From the verdict and everything around it to the one action of a stage.

The verdict weighs the evidence; the conclusion also weighs what the evidence rests on: the data checks, the
reports, a person's answer. It can only make the verdict more careful, never less.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from model_rollouts.core.decision import Action, Decision, Verdict, action_at_deadline
from model_rollouts.core.plan import Plan


class CheckState(StrEnum):
    """How a report or check of the stage ended."""

    OK = "ok"
    FAILED = "failed"
    MISSING = "missing"  # the task failed, was skipped, or had nothing to look at


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One report or check.

    Attributes:
        name: Which one.
        state: How it ended.
        detail: One sentence for a person.
    """

    name: str
    state: CheckState
    detail: str


class Approval(StrEnum):
    """A person's answer."""

    NOT_ASKED = "not asked"
    APPROVED = "approved"
    HELD = "held"  # also when nobody answered in time
    REJECTED = "rejected"
    MISSING = "missing"  # asked for by the plan, and there is no answer on record


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What is done with the stage, and why."""

    action: Action
    reason: str


def conclude(
    decision: Decision | None, checks: Sequence[CheckResult], approval: Approval, *, last_stage: bool
) -> Conclusion:
    """The action of a stage.

    Args:
        decision: The verdict, or None when the watch has left none.
        checks: Every report and check that the stage should have.
        approval: A person's answer.
        last_stage: Whether a pass cuts over.
    """
    if decision is None:
        return Conclusion(Action.HOLD, "no verdict: the watch of this stage failed; the share is kept")
    if decision.verdict is Verdict.FAIL:
        return Conclusion(Action.ROLL_BACK, decision.reason)
    if approval is Approval.REJECTED:
        return Conclusion(Action.ROLL_BACK, f"rejected by a person; the verdict was {decision.verdict}")
    if decision.verdict is Verdict.WAIT:
        return Conclusion(Action.HOLD, f"the watch ended without a verdict: {decision.reason}")
    if decision.verdict is Verdict.INCONCLUSIVE and decision.action is not Action.ASK:
        return Conclusion(decision.action, decision.reason)
    if decision.verdict is Verdict.INCONCLUSIVE and (decision.blind or approval is not Approval.APPROVED):
        # A person may decide on weak evidence, not on none; and who does not answer does not approve.
        return Conclusion(Action.HOLD, f"{decision.reason}; a person was asked: {approval}")
    if bad := [check for check in checks if check.state is not CheckState.OK]:
        listed = "; ".join(f"{check.name} {check.state}: {check.detail}" for check in bad)
        return Conclusion(Action.HOLD, f"the stage could be left ({decision.reason}), but {listed}")
    if approval in (Approval.HELD, Approval.MISSING):
        return Conclusion(Action.HOLD, f"the gates passed; approval: {approval}")
    if decision.action is Action.ASK:
        go_on = Action.CUT_OVER if last_stage else Action.EXPAND
        return Conclusion(go_on, f"a person decided to go on without proof; {decision.reason}")
    return Conclusion(decision.action, decision.reason)


def distrust(decision: Decision, failure: str, plan: Plan) -> Decision:
    """The same decision when the newest evidence could not be read.

    Harm that was proven stays proven. A pass does not: what has not been seen may be what matters.

    Args:
        decision: The verdict on what could be read.
        failure: What could not be read, and why.
        plan: The rollout's plan, for the deadline and what happens at it.
    """
    if decision.verdict is Verdict.FAIL:
        return decision
    late = decision.elapsed_seconds >= plan.stage(decision.stage).deadline_seconds
    return replace(
        decision,
        verdict=Verdict.INCONCLUSIVE if late else Verdict.WAIT,
        action=action_at_deadline(plan, decision.stage) if late else Action.WAIT,
        reason=f"the evidence can't be read ({failure}); before that: {decision.reason}",
        blind=True,
        unreadable=failure,
    )


def postponed(decision: Decision, why: str) -> Decision:
    """The same decision in the moment before the next look closes: nothing but harm is decided then.

    Args:
        decision: The verdict on the looks so far.
        why: What the next look waits for.
    """
    if decision.verdict is Verdict.FAIL:
        return decision
    return replace(
        decision,
        verdict=Verdict.WAIT,
        action=Action.WAIT,
        reason=f"{why}; before that: {decision.reason}",
        waits_for=why,
    )
