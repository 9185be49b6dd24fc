"""Branches on the stage's results."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseBranchOperator, TriggerRule

from model_rollouts.operators.base import APPROVE, PREFLIGHT, WATCH, StageOperator, actor_of, pull, superseded, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.core.conclusion import Approval, CheckResult
    from model_rollouts.core.decision import Decision
    from model_rollouts.service import RolloutService

_PATIENCE_SECONDS = 30.0  # a gateway that is started again is back by then
_AGAIN_SECONDS = 1.0


class DecideOperator(StageOperator, BaseBranchOperator):
    """Weighs verdict, checks and a person's answer, and takes the branch `expand`, `cut_over`, `roll_back` or `hold`.

    A pass is put on record here, before the branch runs: the store opens no next stage without it.

    Runs when at least the traffic has moved, also when other tasks failed. On retry: the same results give the same
    branch. What is missing (no verdict, a failed report) makes it hold. Where another run has taken the stage up
    meanwhile, no branch is taken, but for proven harm and a person's no.

    Args:
        checks: Ids of the tasks whose results must be there and good. Each returns {"state", "detail"}.
    """

    def __init__(self, *, checks: Sequence[str], **kwargs: Any) -> None:
        super().__init__(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS, **kwargs)
        self.checks = tuple(checks)

    def choose_branch(self, context: "Context") -> str | None:
        """The branch's task id; None: the stage is another run's by now."""
        from model_rollouts.core.conclusion import Approval, Conclusion, conclude
        from model_rollouts.core.decision import Action, Decision, Verdict
        from model_rollouts.core.rollout import State

        rollout_id, stage, _ = self.stage_of(context)
        service = wiring().service
        rollout = service.store.rollout(rollout_id)
        revision = rollout.revision
        event = pull(context, WATCH) or {}
        decision = Decision.from_dict(event["decision"]) if event.get("decision") else None
        approval = approval_of(context)
        # by a person's word, while this run was on its way
        left = rollout.stage > stage or rollout.state in (State.CLEARED, State.PROMOTED)
        if rollout.state is State.BAKING and not left:
            # The verdict is as old as the reports, or as a person's answer, took. Harm that shows meanwhile, or that
            # the watch could not act on, counts; so do evidence that has stopped coming and a gate that alarms. A proof
            # stays one otherwise.
            fresh = settled_look(service, rollout_id)
            leaves = decision is not None and decision.action in (Action.EXPAND, Action.CUT_OVER, Action.ASK)
            if fresh.verdict is Verdict.FAIL or (leaves and (fresh.blind or fresh.alarmed)):
                decision = fresh
                # a person's yes was to the verdict as it was
                approval = approval if approval is Approval.REJECTED else Approval.NOT_ASKED
        checks = [self._check(context, name) for name in self.checks]
        last = stage == len(rollout.plan.stages) - 1
        conclusion = conclude(decision, checks, approval, last_stage=last)
        refused = approval is Approval.REJECTED or (decision is not None and decision.verdict is Verdict.FAIL)
        if rollout.state is State.ROLLED_BACK:
            conclusion = Conclusion(Action.ROLL_BACK, rollout.reason)
        elif not refused and superseded(context, rollout_id):
            self.log.info("nothing is done: another run has taken stage %s of %s up", stage, rollout_id)
            return None
        elif rollout.state is State.HOLDING:
            conclusion = Conclusion(Action.HOLD, rollout.reason)
        elif left and not refused:
            conclusion = Conclusion(Action.CUT_OVER if last else Action.EXPAND, rollout.reason)
        elif conclusion.action in (Action.EXPAND, Action.CUT_OVER):
            cleared = service.clear(
                rollout_id, stage, actor_of(context), conclusion.reason, event["decision"], rollout.revision
            )
            revision = cleared.revision
        context["ti"].xcom_push(key="revision", value=revision)
        context["ti"].xcom_push(key="reason", value=conclusion.reason)
        context["ti"].xcom_push(key="decision", value=decision.to_dict() if decision else {})
        self.log.info("%s: %s", conclusion.action, conclusion.reason)
        return str(conclusion.action)

    def _check(self, context: "Context", name: str) -> "CheckResult":
        from model_rollouts.core.conclusion import CheckResult, CheckState

        result = pull(context, name)
        if not result:
            return CheckResult(name, CheckState.MISSING, "the task left no result")
        return CheckResult(name, CheckState(result["state"]), str(result["detail"]))


def settled_look(service: "RolloutService", rollout_id: str) -> "Decision":
    """A look that could be made: a log or a gateway that is starting again gets a moment for it."""
    from model_rollouts.core.decision import Verdict

    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        fresh = service.look(rollout_id)
        if not (fresh.unreadable or fresh.waits_for) or fresh.verdict is Verdict.FAIL or time.monotonic() >= until:
            return fresh
        time.sleep(_AGAIN_SECONDS)


def approval_of(context: "Context") -> "Approval":
    """A person's answer of this run; missing where the plan asks and none is on record."""
    from model_rollouts.core.conclusion import Approval
    from model_rollouts.operators import approve

    answer = (pull(context, APPROVE) or {}).get("answer")
    known = {
        "not asked": Approval.NOT_ASKED,
        approve.APPROVE: Approval.APPROVED,
        approve.HOLD: Approval.HELD,
        approve.ROLL_BACK: Approval.REJECTED,
    }
    if answer in known:
        return known[answer]
    return Approval.MISSING if (pull(context, PREFLIGHT) or {}).get("approval") else Approval.NOT_ASKED
