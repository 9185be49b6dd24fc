"""Opens the stages that wait for the schedule."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from model_rollouts.operators.base import wiring
from model_rollouts.operators.finish import next_run

if TYPE_CHECKING:
    from airflow.sdk import Context


class DueStagesOperator(BaseOperator):
    """Lists the stage runs that are due: of rollouts that advance on schedule, have passed a stage, and may go on now.

    A stage that has not passed is not due, however many ticks there were; and the run of one that has is named after
    rollout and stage, so that two ticks can't open it twice. When the store is missing: fails, nothing opens.
    """

    def execute(self, context: "Context") -> list[dict[str, Any]]:
        """Return arguments for TriggerDagRunOperator, one entry a stage."""
        from model_rollouts.core.plan import Advance
        from model_rollouts.core.rollout import State

        service = wiring().service
        now, due = service.clock(), []
        for traffic in service.store.all_traffic():
            rollout = service.store.active(traffic.model)
            if rollout is None or rollout.plan.advance is not Advance.ON_SCHEDULE:
                continue
            following = rollout.stage + 1
            if rollout.state is not State.CLEARED or following >= len(rollout.plan.stages):
                self.log.info("%s is %s at stage %s: nothing is due", rollout.id, rollout.state, rollout.stage)
            elif closed := rollout.plan.calendar.why_closed(now):
                self.log.info("%s waits: %s", rollout.id, closed)
            else:
                due.append(next_run(rollout, following))
        return due
