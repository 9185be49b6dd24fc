"""The four ends of a stage."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunLink, TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

from model_rollouts.core.names import stage_run_id
from model_rollouts.operators.base import DECIDE, StageOperator, actor_of, poll_seconds, wiring
from model_rollouts.operators.links import MlflowRunLink, RolloutLink
from model_rollouts.operators.notify import notify
from model_rollouts.operators.run_notes import note_run
from model_rollouts.triggers.watch import WatchTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.core.rollout import Rollout

_LONGEST_HOLD = timedelta(days=30)
_SHARED = frozenset({"requested_by", "on_drift", "drift"})  # what the forms of all patterns have


class FinishOperator(StageOperator):
    """Base of the ends: does the step, tells it, then brings the registry and the stage's MLflow run up to date.

    The step comes first and needs the store alone. What follows needs MLflow and is repeated on retry until MLflow
    is back; the step itself is not taken twice. Where somebody has taken the rollout elsewhere since `decide`, the step
    does not fit any more, and the task is skipped.
    """

    tells = ""  # the notification's event

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """What this end does to the rollout."""

    def take(self, rollout_id: str, stage: int, context: "Context") -> None:
        """Do the step, on what `decide` saw.

        Raises:
            AirflowSkipException: The rollout has moved since, and the step does not fit any more.
        """
        from model_rollouts.core.errors import IllegalTransitionError, StaleRevisionError

        try:
            self.step(rollout_id, stage, context)
        except (IllegalTransitionError, StaleRevisionError) as error:
            decided, rollout = revision_of(context), wiring().store.rollout(rollout_id)
            if decided is None or rollout.revision == decided:
                raise
            raise AirflowSkipException(
                f"{self.task_id} was decided at revision {decided}; {rollout_id} is {rollout.state} at revision "
                f"{rollout.revision} by now ({rollout.reason}): {error}"
            ) from error

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"action", "reason"}."""
        rollout_id, stage, _ = self.stage_of(context)
        self.take(rollout_id, stage, context)
        reason = reason_of(context)
        self.tell(context, reason)
        note_run(context, self.task_id, reason)
        self.close(context, self.task_id, reason)
        return {"action": self.task_id, "reason": reason}

    def tell(self, context: "Context", reason: str) -> None:
        """Notify whoever is configured, and on call."""
        rollout_id, stage, _ = self.stage_of(context)
        model = wiring().store.rollout(rollout_id).model
        notify(context, event=self.tells, model=model, reason=reason, rollout_id=rollout_id, details={"stage": stage})

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
    tells = "cut_over"

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """One revision: all traffic to the challenger, as champion."""
        wiring().service.cut_over(rollout_id, actor_of(context), reason_of(context), evidence_of(context))


class RollBackOperator(FinishOperator):
    """Gives the champion all the traffic, restores the aliases, and undoes the data that the plan names.

    The data comes last: it is slow and may fail, and the traffic is back by then. A failure fails the task, which is
    tried again, and is told; what is on record as done is not done again.

    On retry, or after the watch has rolled back already: only what is still missing is done.
    """

    ui_color = "#f7dcdc"
    tells = "rolled_back"

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"action", "reason", "data"}."""
        done = super().execute(context)
        rollout_id, _, _ = self.stage_of(context)
        return {**done, "data": undo_data(context, rollout_id)}

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
    tells = "held"

    def __init__(self, *, watch_harm: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.watch_harm = watch_harm

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"action", "reason"}, once the hold is over."""
        rollout_id, stage, _ = self.stage_of(context)
        self.take(rollout_id, stage, context)
        self.tell(context, reason_of(context))
        note_run(context, self.task_id, reason_of(context))
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
        if decision:
            model = wiring().store.rollout(rollout_id).model
            notify(context, event="rolled_back", model=model, reason=reason, rollout_id=rollout_id)
        if decision or event.get("ended") == "rolled_back":
            wiring().service.sync_registry(rollout_id)
            undo_data(context, rollout_id)
        return {"action": "roll_back" if decision else self.task_id, "reason": reason}

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """Put on record that it holds, and why."""
        seen = revision_of(context)
        wiring().service.hold(rollout_id, stage, actor_of(context), reason_of(context), evidence_of(context), seen)


class ExpandOperator(TriggerDagRunOperator, FinishOperator):
    """Starts the next stage's run, of the DAG of its pattern, under an id that is made from rollout and stage.

    Where the plan advances on schedule it starts nothing: the DAG scheduled_expansion does, at its next tick.

    On retry, or when two runs decide the same: the id exists, so the stage can't be started twice.
    """

    ui_color = "#d9f2e0"
    operator_extra_links = [TriggerDagRunLink(), RolloutLink(), MlflowRunLink()]  # noqa: RUF012 - as Airflow has it
    tells = "expanded"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trigger_dag_id="{{ dag.dag_id }}", skip_when_already_exists=True, **kwargs)

    def execute(self, context: "Context") -> Any:
        """Trigger the run with the same form values, the rollout's id and the next stage."""
        from model_rollouts.core.plan import Advance

        rollout_id, stage, _ = self.stage_of(context)
        self.take(rollout_id, stage, context)
        self.tell(context, reason_of(context))
        note_run(context, self.task_id, reason_of(context))
        try:
            self.close(context, self.task_id, reason_of(context))
        except Exception as error:  # a stage that passed must not be left without a run that watches it
            self.log.warning("the registry will follow with the next stage: %s", error)
        rollout = wiring().store.rollout(rollout_id)
        if rollout.plan.advance is Advance.ON_SCHEDULE:
            self.log.info("stage %s waits for the schedule", stage + 1)
            return {"action": self.task_id, "reason": reason_of(context), "waits": "for scheduled_expansion"}
        triggered = next_run(rollout, stage + 1, dict(context["params"]))
        self.trigger_dag_id, self.trigger_run_id = triggered["trigger_dag_id"], triggered["trigger_run_id"]
        self.conf = triggered["conf"]
        return TriggerDagRunOperator.execute(self, context)

    def step(self, rollout_id: str, stage: int, context: "Context") -> None:
        """`decide` has put the pass on record; whoever has held the rollout or rolled it back since wins."""
        from model_rollouts.core.errors import IllegalTransitionError
        from model_rollouts.core.rollout import State

        rollout = wiring().store.rollout(rollout_id)
        if rollout.stage == stage and rollout.state is not State.CLEARED:
            raise IllegalTransitionError(f"stage {stage} of {rollout_id} can't be left: it is {rollout.state}")


def next_run(rollout: "Rollout", stage: int, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The DAG run of a stage, as `TriggerDagRunOperator` takes it.

    Args:
        rollout: The rollout.
        stage: Position of the stage.
        params: The form's values of the run before it, to be shown again where the DAG is the same one. What counts
            is the plan in the store.
    """
    dag_id = rollout.plan.pattern_of(stage).dag_id
    same = params is not None and stage > 0 and dag_id == rollout.plan.pattern_of(stage - 1).dag_id
    shown = dict(params or {}) if same else {k: v for k, v in (params or {}).items() if k in _SHARED}
    own = {"model": rollout.model, "challenger": rollout.challenger, "rollout_id": rollout.id, "stage": stage}
    return {"trigger_dag_id": dag_id, "trigger_run_id": stage_run_id(rollout.id, stage), "conf": {**shown, **own}}


def undo_data(context: "Context", rollout_id: str) -> list[dict[str, Any]]:
    """Undo the data that the plan names; a failure is told before it is raised.

    Raises:
        DataRollbackError: A step failed.
    """
    from model_rollouts.core.errors import DataRollbackError

    parts = wiring()
    try:
        return parts.data_rollbacks.run(rollout_id, actor_of(context))
    except DataRollbackError as error:
        model = parts.store.rollout(rollout_id).model
        notify(context, event="data_rollback_failed", model=model, reason=str(error), rollout_id=rollout_id)
        raise


def evidence_of(context: "Context") -> dict[str, Any]:
    """The decision that `decide` acted on; empty where there was none."""
    return context["ti"].xcom_pull(task_ids=DECIDE, key="decision") or {}


def revision_of(context: "Context") -> int | None:
    """The rollout's revision that `decide` acted on; None where it left none."""
    revision = context["ti"].xcom_pull(task_ids=DECIDE, key="revision")
    return None if revision is None else int(revision)


def reason_of(context: "Context") -> str:
    """The sentence that `decide` came to."""
    reason = context["ti"].xcom_pull(task_ids=DECIDE, key="reason")
    return str(reason) if reason else "no reason on record: decide left none"
