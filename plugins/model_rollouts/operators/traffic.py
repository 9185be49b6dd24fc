"""Moves traffic to the stage's share."""

from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import StageOperator, actor_of, run_of, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context


class ShiftTrafficOperator(StageOperator):
    """Opens the stage: one compare-and-set on the traffic row. A held stage is resumed.

    On retry: the stage is open already, nothing moves twice. When the store is missing: fails, the share stays.
    When MLflow is missing: the traffic moves and the tags of the version follow at the stage's end.
    """

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"share", "champion", "challenger"}."""
        rollout_id, stage, _ = self.stage_of(context)
        parts = wiring()
        rollout = parts.service.open_stage(rollout_id, stage, actor_of(context), run_of(context))
        try:
            parts.service.sync_registry(rollout_id)
        except Exception as error:  # an open stage must get to its watch, whatever MLflow does
            self.log.warning("registry tags will follow at the stage's end: %s", error)
        share = rollout.plan.stage(stage).share
        self.log.info("%s: version %s has %g %%", rollout_id, rollout.challenger, share)
        return {"share": share, "champion": rollout.champion, "challenger": rollout.challenger}
