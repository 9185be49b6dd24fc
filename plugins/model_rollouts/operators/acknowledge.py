"""Asks the team, before anything moves, whether it stands by."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException

from model_rollouts.operators.base import PREFLIGHT, actor_of, pull, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

STANDING_BY, NOT_NOW = "We stand by", "Not now"


class AcknowledgeOperator(HITLOperator):
    """Airflow's human-in-the-loop, where the plan wants it. Nobody answering in time means Not now.

    "Not now" is a result, not a failure: the rollout is rolled back before it has moved anything, and the tasks after
    this one are skipped.

    On retry: asks again.

    Args:
        wait: How long to wait for an answer.
    """

    def __init__(self, *, wait: timedelta = timedelta(hours=1), **kwargs: Any) -> None:
        super().__init__(
            subject="{{ params.model }}: does the team stand by for a rollout of version {{ params.challenger }}?",
            body=(
                "On call: {{ (ti.xcom_pull(task_ids='preflight') or {}).get('on_call', []) | join(', ') }}. "
                "Nothing has moved yet."
            ),
            options=[STANDING_BY, NOT_NOW],
            defaults=NOT_NOW,
            response_timeout=wait,
            **kwargs,
        )

    def execute(self, context: "Context") -> Any:
        """Return {"answer": ...}; "not asked" without waiting where the plan does not ask."""
        opened = pull(context, PREFLIGHT) or {}
        if not opened.get("acknowledge"):
            return {"answer": "not asked"}
        return super().execute(context)

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> Any:
        """Return {"answer", "by"}; roll back and skip the rest on Not now."""
        given = super().execute_complete(context, event)
        who = given.get("responded_by_user") or {}
        by = who.get("name") if isinstance(who, dict) else str(who)
        answer = given["chosen_options"][0]
        self.settle(context, answer, by)
        return {"answer": answer, "by": by}

    @staticmethod
    def settle(context: "Context", answer: str, by: str | None) -> None:
        """Put the answer on record.

        Raises:
            AirflowSkipException: The team does not stand by; the rollout is rolled back.
        """
        from model_rollouts.core.rollout import EventKind

        rollout_id = pull(context, PREFLIGHT)["rollout_id"]
        service = wiring().service
        actor = f"{by} via {actor_of(context)}" if by else actor_of(context)
        if answer == STANDING_BY:
            service.note(rollout_id, EventKind.ACKNOWLEDGED, actor, f"the team stands by, says {by or 'somebody'}")
            return
        reason = f"the team does not stand by ({by or 'nobody answered in time'}); nothing was moved"
        service.roll_back(rollout_id, actor, reason)
        service.sync_registry(rollout_id)
        raise AirflowSkipException(reason)
