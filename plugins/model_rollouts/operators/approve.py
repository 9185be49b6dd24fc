"""Asks a person, where the plan wants one."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator

from model_rollouts.operators.base import PREFLIGHT, WATCH, pull, superseded

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVE, HOLD, ROLL_BACK = "Approve", "Hold", "Roll back"


class ApproveOperator(HITLOperator):
    """Airflow's human-in-the-loop with three answers; nobody answering in time means Hold.

    Asks when the plan wants a person's word on a pass, and when it wants a person to decide where nothing could be
    proven. Asks nobody otherwise: there is nothing to approve. A "no" is a result, not a failed task.

    On retry: asks again. When the verdict is missing: does not ask; `decide` holds.

    Args:
        wait: How long to wait for an answer.
    """

    def __init__(self, *, wait: timedelta = timedelta(hours=24), **kwargs: Any) -> None:
        super().__init__(
            subject="Let {{ params.model }} leave stage {{ (ti.xcom_pull(task_ids='preflight') or {}).get('stage') }}?",
            body="{{ ((ti.xcom_pull(task_ids='watch') or {}).get('decision') or {}).get('reason', 'no verdict') }}",
            options=[APPROVE, HOLD, ROLL_BACK],
            defaults=HOLD,
            response_timeout=wait,
            **kwargs,
        )

    def execute(self, context: "Context") -> Any:
        """Return {"answer": ...}; "not asked" without waiting where there is nothing to ask."""
        opened = pull(context, PREFLIGHT) or {}
        decision = (pull(context, WATCH) or {}).get("decision") or {}
        passed = opened.get("approval") and decision.get("verdict") == "pass"
        if not passed and decision.get("action") != "ask":
            return {"answer": "not asked"}
        if superseded(context, str(opened.get("rollout_id"))):
            return {"answer": "not asked"}  # the run that has taken the stage up asks
        return super().execute(context)

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> Any:
        """Return {"answer": "Approve" | "Hold" | "Roll back", "by": who}."""
        given = super().execute_complete(context, event)
        who = given.get("responded_by_user") or {}
        return {"answer": given["chosen_options"][0], "by": who.get("name") if isinstance(who, dict) else str(who)}
