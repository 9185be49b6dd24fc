"""Watches the open stage until harm, enough proof, or the deadline."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import StageOperator, actor_of, poll_seconds, wiring
from model_rollouts.triggers.watch import WatchTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class WatchStageOperator(StageOperator):
    """Defers to the triggerer; comes back with a verdict.

    Proven harm rolls the traffic back at once, here: the comparison and the reports that follow are for the
    record, and nobody is exposed while they are made.

    On retry: the deadline still counts from the moment the traffic moved. When the log is missing: waits, and is
    inconclusive at the deadline. When the store is missing: looks again until it is back; after twice the deadline it
    fails, and `decide` looks for itself.
    """

    def execute(self, context: "Context") -> None:
        """Defer."""
        rollout_id, stage, _ = self.stage_of(context)
        poll = poll_seconds(context)
        parts = wiring()
        limit = parts.store.rollout(rollout_id).plan.stage(stage).deadline_seconds
        self.defer(
            trigger=WatchTrigger(rollout_id=rollout_id, stage=stage, poll_seconds=poll),
            method_name="execute_complete",
            # the trigger ends by itself at the deadline; this is for a trigger that can't
            timeout=timedelta(seconds=2 * limit + 600),
        )

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """Return {"decision": ...}, or {"ended": state} when somebody else ended the rollout meanwhile."""
        rollout_id, _, _ = self.stage_of(context)
        decision = event.get("decision")
        if decision and decision["verdict"] == "fail":
            wiring().service.roll_back(rollout_id, actor_of(context), decision["reason"], decision)
        self.log.info("%s", decision["reason"] if decision else f"rollout is {event.get('ended')}")
        return event
