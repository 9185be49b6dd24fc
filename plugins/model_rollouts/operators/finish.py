"""The four ends of a stage."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

from model_rollouts.operators.base import DECIDE, StageOperator, actor_of, poll_seconds, wiring
from model_rollouts.triggers.watch import WatchTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

_LONGEST_HOLD = timedelta(days=30)


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
        from model_rollouts.core.decision import Decision
        from model_rollouts.core.recompute import record_of

        parts = wiring()
        parts.service.sync_registry(rollout_id)
        decision = evidence_of(context)
        verdict = {"action": action, "reason": reason, "stage": stage, "decision": decision}
        if decision:
            # with the plan and the counts: the verdict can be made again from this file alone
            plan, looks = parts.store.rollout(rollout_id).plan, parts.store.looks(rollout_id)
            verdict |= record_of(plan, looks, Decision.from_dict(decision))
        parts.stage_runs.close(mlflow_run_id, verdict)


class CutOverOperator(FinishOperator):
    """Makes the challenger the champion; the old champion stays warm as `previous`.

    On retry: it is the champion already; only what MLflow still lacks is done.
    """

    ui_color = "#d9f2e0"

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """One revision: all traffic to the challenger, as champion."""
        wiring().service.cut_over(rollout_id, actor_of(context), reason_of(context), evidence_of(context))


class RollBackOperator(FinishOperator):
    """Gives the champion all the traffic, restores the aliases.

    On retry, or after the watch has rolled back already: only what MLflow still lacks is done.
    """

    ui_color = "#f7dcdc"

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """One revision: all traffic to the champion."""
        wiring().service.roll_back(rollout_id, actor_of(context), reason_of(context), evidence_of(context))


class HoldOperator(FinishOperator):
    """Keeps the share; nothing expands until somebody resumes the stage or rolls it back.

    To resume: trigger the DAG again with the rollout's id in the form. A stage that holds is still watched for harm,
    by the triggerer, for as long as it holds: the task stays deferred, and rolls back when harm is proven.

    On retry: it holds already.

    Args:
        watch_harm: Whether to watch; off, the task ends when the hold is on record.
    """

    ui_color = "#fbf0d2"

    def __init__(self, *, watch_harm: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.watch_harm = watch_harm

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"action", "reason"}, once the hold is over."""
        rollout_id, stage, _ = self.stage_of(context)
        self.step(rollout_id, stage, context)
        try:
            self.close(context, self.task_id, reason_of(context))
        except Exception as error:  # a stage that holds must get to its watch, whatever MLflow does
            self.log.warning("the registry and the stage's run will follow when the hold ends: %s", error)
        if self.watch_harm:
            poll = poll_seconds(context)
            trigger = WatchTrigger(rollout_id=rollout_id, stage=stage, poll_seconds=poll, held=True)
            self.defer(trigger=trigger, method_name="execute_complete", timeout=_LONGEST_HOLD)
        return {"action": self.task_id, "reason": reason_of(context)}

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """Roll back on harm; otherwise somebody has ended the hold."""
        rollout_id, _, _ = self.stage_of(context)
        decision = event.get("decision")
        if decision:
            wiring().service.roll_back(rollout_id, actor_of(context), decision["reason"], decision)
        reason = decision["reason"] if decision else f"the hold ended: {event.get('ended')}"
        if decision or event.get("ended") == "rolled_back":
            wiring().service.sync_registry(rollout_id)
        return {"action": "roll_back" if decision else self.task_id, "reason": reason}

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """Put on record that it holds, and why."""
        wiring().service.hold(rollout_id, stage, actor_of(context), reason_of(context), evidence_of(context))


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
        try:
            self.close(context, self.task_id, reason_of(context))
        except Exception as error:  # a stage that passed must not be left without a run that watches it
            self.log.warning("the registry will follow with the next stage: %s", error)
        self.trigger_run_id = run_id_for(rollout_id, stage + 1)
        self.conf = {**dict(context["params"]), "rollout_id": rollout_id, "stage": stage + 1}
        return TriggerDagRunOperator.execute(self, context)


def run_id_for(rollout_id: str, stage: int) -> str:
    """The DAG run of a stage."""
    return f"{rollout_id}--stage-{stage + 1}"


def evidence_of(context: "Context") -> dict[str, Any]:
    """The decision that `decide` acted on; empty where there was none."""
    return context["ti"].xcom_pull(task_ids=DECIDE, key="decision") or {}


def reason_of(context: "Context") -> str:
    """The sentence that `decide` came to."""
    reason = context["ti"].xcom_pull(task_ids=DECIDE, key="reason")
    return str(reason) if reason else "no reason on record: decide left none"
