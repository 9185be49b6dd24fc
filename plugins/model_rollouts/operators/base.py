"""What every task of a stage knows: which rollout, which stage, which MLflow run."""

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseOperatorLink

from model_rollouts.logs import bind
from model_rollouts.operators.links import MlflowRunLink, RolloutLink

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.wiring import Wiring

_MAX_POLL_SECONDS = 15.0

#: Arguments of every task: some eight minutes in all, for a database that fails over or a registry that restarts.
#: Tasks that undo data are given no `execution_timeout`: each step of the plan has a limit of its own, up to a day.
STEADY: dict[str, Any] = {
    "retries": 8,
    "retry_delay": timedelta(seconds=3),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=2),
    "execution_timeout": timedelta(minutes=15),
}

PREFLIGHT, WATCH, APPROVE, DECIDE = "preflight", "watch", "approve", "decide"


def wiring() -> "Wiring":
    """The process's adapters; imported late, so that parsing a DAG file costs milliseconds."""
    from model_rollouts.wiring import shared

    return shared()


class StageOperator(BaseOperator):
    """Base of the tasks after preflight.

    Preflight returns {"rollout_id", "stage", "mlflow_run_id"}; every later task reads it from there, so a DAG file
    wires tasks and nothing else.
    """

    ui_color = "#e8eef7"
    operator_extra_links: Collection[BaseOperatorLink] = (RolloutLink(), MlflowRunLink())

    def stage_of(self, context: "Context") -> tuple[str, int, str]:
        """(rollout id, stage, MLflow run id) of this DAG run.

        Raises:
            RuntimeError: Preflight left no result.
        """
        opened = pull(context, PREFLIGHT)
        if opened is None:
            raise RuntimeError("preflight left no result: this task can't know which rollout it belongs to")
        bind(rollout_id=opened["rollout_id"], stage=opened["stage"], model=(context.get("params") or {}).get("model"))
        return str(opened["rollout_id"]), int(opened["stage"]), str(opened["mlflow_run_id"])


def pull(context: "Context", task_id: str) -> Any:
    """What a task of this run returned, or None."""
    return context["ti"].xcom_pull(task_ids=task_id)


def poll_seconds(context: "Context") -> float:
    """Time between two looks of a watch: a look's length, or a quarter of a minute where that is longer."""
    return min(float(pull(context, PREFLIGHT)["poll_seconds"]), _MAX_POLL_SECONDS)


def run_of(context: "Context") -> dict[str, str]:
    """Which DAG run this is, for the record."""
    dag_run = context["dag_run"]
    return {"dag_id": str(dag_run.dag_id), "run_id": str(dag_run.run_id)}


def superseded(context: "Context", rollout_id: str) -> bool:
    """Whether another DAG run has taken the rollout's stage up since: this one decides nothing any more."""
    newest = wiring().service.run_of(rollout_id)
    return bool(newest) and newest != run_of(context)


def actor_of(context: "Context") -> str:
    """Who an event is written down to: the person behind the run where there is one, and the run."""
    dag_run = context["dag_run"]
    person = context["params"].get("requested_by") or getattr(dag_run, "triggering_user_name", None)
    run = f"{dag_run.dag_id}/{dag_run.run_id}"
    return f"{person} via {run}" if person else run
