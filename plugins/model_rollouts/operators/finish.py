"""The four ends of a stage."""

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

from model_rollouts.operators.base import DECIDE, WATCH, StageOperator, actor_of, pull, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context


class FinishOperator(StageOperator):
    """Base of the ends: does the step, then brings the registry and the stage's MLflow run up to date.

    The step comes first and needs the store alone. What follows needs MLflow and is repeated on retry until MLflow
    is back; the step itself is not taken twice.
    """

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """What this end does to the rollout."""

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"action", "reason"}."""
        rollout_id, stage, _ = self.stage_of(context)
        self.step(rollout_id, stage, context)
        reason = reason_of(context)
        self.close(context, self.task_id, reason)
        return {"action": self.task_id, "reason": reason}

    def close(self, context: "Context", action: str, reason: str) -> None:
        """Tags in the registry, decision and end of the MLflow run."""
        rollout_id, stage, mlflow_run_id = self.stage_of(context)
        parts = wiring()
        parts.service.sync_registry(rollout_id)
        verdict = {"action": action, "reason": reason, "stage": stage, **(pull(context, WATCH) or {})}
        parts.stage_runs.close(mlflow_run_id, verdict)


class CutOverOperator(FinishOperator):
    """Makes the challenger the champion; the old champion stays warm as `previous`.

    On retry: it is the champion already; only what MLflow still lacks is done.
    """

    ui_color = "#d9f2e0"

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """One revision: all traffic to the challenger, as champion."""
        wiring().service.cut_over(rollout_id, actor_of(context), reason_of(context), pull(context, WATCH) or {})


class RollBackOperator(FinishOperator):
    """Gives the champion all the traffic, restores the aliases.

    On retry, or after the watch has rolled back already: only what MLflow still lacks is done.
    """

    ui_color = "#f7dcdc"

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """One revision: all traffic to the champion."""
        wiring().service.roll_back(rollout_id, actor_of(context), reason_of(context), pull(context, WATCH) or {})


class HoldOperator(FinishOperator):
    """Keeps the share; nothing expands until somebody resumes the stage or rolls it back.

    To resume: trigger the DAG again with the rollout's id in the form. On retry: it holds already.
    """

    ui_color = "#fbf0d2"

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """Put on record that it holds, and why."""
        wiring().service.hold(rollout_id, stage, actor_of(context), reason_of(context), pull(context, WATCH) or {})


class ExpandOperator(TriggerDagRunOperator, FinishOperator):
    """Starts the next stage's run of the same DAG, under an id that is made from rollout and stage.

    On retry, or when two runs decide the same: the id exists, so the stage can't be started twice.
    """

    ui_color = "#d9f2e0"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trigger_dag_id="{{ dag.dag_id }}", skip_when_already_exists=True, **kwargs)

    def execute(self, context: "Context") -> Any:
        """Trigger the run with the same form values, the rollout's id and the next stage."""
        rollout_id, stage, _ = self.stage_of(context)
        self.close(context, self.task_id, reason_of(context))
        self.trigger_run_id = run_id_for(rollout_id, stage + 1)
        self.conf = {**dict(context["params"]), "rollout_id": rollout_id, "stage": stage + 1}
        return TriggerDagRunOperator.execute(self, context)


def run_id_for(rollout_id: str, stage: int) -> str:
    """The DAG run of a stage."""
    return f"{rollout_id}--stage-{stage + 1}"


def reason_of(context: "Context") -> str:
    """The sentence that `decide` came to."""
    reason = context["ti"].xcom_pull(task_ids=DECIDE, key="reason")
    return str(reason) if reason else "no reason on record: decide left none"
