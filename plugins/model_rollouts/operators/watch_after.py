"""Watches a promoted challenger until the last labels have matured."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import StageOperator, actor_of, poll_seconds, wiring
from model_rollouts.operators.finish import undo_data
from model_rollouts.operators.notify import notify
from model_rollouts.triggers.watch import WatchTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class WatchAfterOperator(StageOperator):
    """Defers to the triggerer after a cut-over; what was answered during the rollout still gets its labels.

    Proven harm makes the old champion serve again, in one revision, while it is kept as `previous`.

    On retry: looks again. When log or store is missing: keeps looking until the labels are due, and says so.
    """

    def execute(self, context: "Context") -> None:
        """Defer."""
        rollout_id, stage, _ = self.stage_of(context)
        plan = wiring().store.rollout(rollout_id).plan
        self.defer(
            trigger=WatchTrigger(rollout_id=rollout_id, stage=stage, poll_seconds=poll_seconds(context), after=True),
            method_name="execute_complete",
            timeout=timedelta(seconds=2 * plan.label_maturity_seconds + 10 * plan.look_seconds + 3600),
        )

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """Return {"action", "reason"}."""
        rollout_id, _, _ = self.stage_of(context)
        service = wiring().service
        decision = event.get("decision")
        if not decision:
            return {"action": "none", "reason": f"no harm was proven by the labels that came later: {event['ended']}"}
        reason = f"after the promotion: {decision['reason']}"
        rollout = service.roll_back(rollout_id, actor_of(context), reason, decision)
        notify(context, event="rolled_back", model=rollout.model, reason=reason, rollout_id=rollout_id)
        service.sync_registry(rollout_id)
        undo_data(context, rollout_id)
        return {"action": "roll_back", "reason": reason}
