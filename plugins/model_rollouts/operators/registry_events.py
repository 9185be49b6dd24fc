"""Carries out what people have asked for in the registry."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from model_rollouts.core.registry_events import RunRefusedError, UnknownDagError
from model_rollouts.operators.base import wiring
from model_rollouts.operators.notify import notify

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.registry_watch import Done

_SETTLED = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_ALIVE = ["queued", "running"]


class RegistryEventsOperator(BaseOperator):
    """Looks at the registry and handles every change that nobody has handled, one by one.

    Several DAGs are triggered from one task and each outcome is put down before the next change is decided on, which
    mapped tasks could not do: what a change leads to depends on what the one before it led to.

    On retry, or when the webhook receiver does the same at this moment: runs that are there are not made again.
    When MLflow is missing: rollbacks go on, the rest waits. When the store or Airflow's API is missing: fails, and the
    changes wait.
    """

    ui_color = "#e8eef7"

    def execute(self, context: "Context") -> list[dict[str, Any]]:
        """Return what was handled: {"change", "model", "version", "response", "outcome", "dag_id", "run_id"}.

        Raises:
            AirflowFailException: Something that was asked for can't be done. It is on record, and not tried again.
        """
        from model_rollouts.core.registry_events import Response
        from model_rollouts.registry_watch import look_and_carry_out

        handled: list[Done] = []

        def tell(done: "Done") -> None:
            handled.append(done)
            self.log.info("change %d: %s", done.change.id, done.outcome)
            if done.intention.reported:
                notify(context, event="stuck", model=done.change.change.model, reason=done.outcome)

        look_and_carry_out(wiring().registry_watch, TaskRuns(context), tell=tell)
        results = [
            {
                "change": done.change.id,
                "model": done.change.change.model,
                "version": done.change.change.version,
                "response": str(done.intention.response),
                "outcome": done.outcome,
                "dag_id": done.intention.dag_id,
                "run_id": done.change.run_id,
            }
            for done in handled
        ]
        refused = [done.outcome for done in handled if done.intention.response is Response.REFUSED]
        if refused:
            context["ti"].xcom_push(key="return_value", value=results)
            raise AirflowFailException("; ".join(refused))
        return results


class TaskRuns:
    """Implements `DagRuns` for a task, which reaches Airflow through its supervisor alone."""

    def __init__(self, context: "Context") -> None:
        self._task: Any = context["ti"]

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
        """Make a run; False when it is there already.

        Raises:
            UnknownDagError: There is no such DAG.
            RunRefusedError: The DAG is paused or broken, or refuses the values.
        """
        from airflow.sdk.api.client import ServerResponseError
        from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import ErrorResponse, TriggerDagRun

        try:
            if self._task.get_dag(dag_id).is_paused:
                raise RunRefusedError(f"DAG {dag_id} is paused; unpause it, then make the change again")
            # what TriggerDagRunOperator sends; that one ends its task with the message, and takes one run a task
            answer = task_runner.SUPERVISOR_COMMS.send(TriggerDagRun(dag_id=dag_id, run_id=run_id, conf=dict(conf)))
        except AirflowRuntimeError as error:
            detail = error.error.detail or {}
            status, text = detail.get("status_code"), detail.get("detail") or detail.get("message")
            raise _meaning(dag_id, status, text) or error from error
        except ServerResponseError as error:  # where a test runs the DAG in one process, without a supervisor
            raise _meaning(dag_id, error.response.status_code, error.detail) or error from error
        return not (isinstance(answer, ErrorResponse) and answer.error is ErrorType.DAGRUN_ALREADY_EXISTS)

    def unfinished(self, dag_id: str, run_id: str) -> bool:
        """Whether there is such a run and it waits or goes on."""
        return bool(self._task.get_dr_count(dag_id, run_ids=[run_id], states=_ALIVE))


def _meaning(dag_id: str, status: int | None, detail: object) -> RunRefusedError | None:
    """What an answer of the API server says; None: nothing for good."""
    while isinstance(detail, dict) and (inner := detail.get("detail") or detail.get("message")):
        detail = inner
    text = " ".join(str(detail).split())
    if status == HTTPStatus.NOT_FOUND:
        return UnknownDagError(f"Airflow has no DAG {dag_id}: {text}")
    if status in _SETTLED:
        return RunRefusedError(f"Airflow refuses a run of DAG {dag_id}: {text}")
    return None
