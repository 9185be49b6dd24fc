"""What an alert of monitoring does: it goes on record, people are told, and a rollback starts where it can help."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import BaseBranchOperator
from airflow.sdk.exceptions import AirflowFailException

from model_rollouts.core.errors import NotFoundError
from model_rollouts.operators.base import actor_of, pull, wiring
from model_rollouts.operators.monitoring import JUDGE, MEASURE, run_id_for
from model_rollouts.operators.notify import notify

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.wiring import Wiring

ROLL_BACK = "roll_back"


class AlertOperator(BaseBranchOperator):
    """Puts the alert on record, tells people, and goes on with `roll_back` where that is wanted and can help.

    On retry: the event is there and is not written again. When the store is missing: people are told all the same,
    once, and the task is tried again.
    """

    ui_color = "#f7dcdc"

    def choose_branch(self, context: "Context") -> list[str] | None:
        """`roll_back`, or nothing."""
        judgement = context["ti"].xcom_pull(task_ids=JUDGE, key="judgement")
        measured, params = pull(context, MEASURE) or {}, dict(context["params"])
        model, run_id = str(params["model"]), context["dag_run"].run_id
        wanted = params.get("on_alert") == ROLL_BACK
        rolls_back, why = False, "only told, as asked for"
        evidence = {"monitoring_run": run_id, "window": measured.get("window"), "version": measured.get("version")}
        try:
            if wanted:
                rolls_back, why = way_back(wiring(), model, measured.get("version"), harm=judgement["harm"])
            evidence |= {"judgement": judgement, "rolls_back": rolls_back}
            reason = f"{judgement['reason']}; {why}"
            record_alert(wiring(), model, actor_of(context), reason, evidence)
        except Exception as error:
            if context["ti"].try_number == 1:
                text = f"{judgement['reason']}; it is not on record: {type(error).__name__}: {error}"
                notify(context, event="alert", model=model, reason=text, details=evidence)
            if isinstance(error, NotFoundError):
                raise AirflowFailException(str(error)) from error
            raise
        notify(context, event="alert", model=model, reason=reason, details=evidence)
        self.log.warning("%s", reason)
        return [ROLL_BACK] if rolls_back else None


class TriggerRollbackOperator(TriggerDagRunOperator):
    """Starts the DAG `rollback`, under an id that is made from this run's, so that a retry starts none twice.

    A DAG that is paused fails the task: a rollback that waits for nobody is none.
    """

    ui_color = "#f7dcdc"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            trigger_dag_id="rollback", skip_when_already_exists=True, fail_when_dag_is_paused=True, **kwargs
        )

    def execute(self, context: "Context") -> Any:
        """Trigger it with the model and the reason."""
        judgement = context["ti"].xcom_pull(task_ids=JUDGE, key="judgement")
        model = str(context["params"]["model"])
        self.trigger_run_id = run_id_for(context["dag_run"].run_id, model)
        self.conf = {"model": model, "reason": f"monitoring: {judgement['reason']}"[:2000]}
        return super().execute(context)


def way_back(parts: "Wiring", model: str, version: str | None, *, harm: bool) -> tuple[bool, str]:
    """Whether a rollback can help, and a sentence. It needs an old champion that is kept, of the version that harms."""
    from model_rollouts.core.rollout import State

    if not harm:
        return False, "not rolled back: nothing shows that callers are served worse"
    traffic = parts.store.traffic(model)
    if traffic is None or traffic.champion != version:
        return False, f"not rolled back: version {version} does not serve any more"
    if active := parts.store.active(model):
        return False, (
            f"not rolled back: rollout {active.id} is active, and ending it would give everything to version {version}"
        )
    newest = parts.store.rollouts(model, limit=1)
    if not newest or newest[0].state is not State.PROMOTED or newest[0].challenger != version or not traffic.previous:
        return False, f"not rolled back: no version before {version} is kept loaded"
    return True, f"rolling back to version {traffic.previous}"


def record_alert(parts: "Wiring", model: str, actor: str, reason: str, evidence: Mapping[str, Any]) -> bool:
    """Write an alert to the audit, once a run. False where it is there already.

    Raises:
        NotFoundError: The model has no traffic row to write about.
        StaleRevisionError: It keeps moving.
    """
    from model_rollouts.changing import change_traffic
    from model_rollouts.core.rollout import Cause, Change, EventKind
    from model_rollouts.core.traffic import Traffic
    from model_rollouts.core.upkeep import report

    run, written = evidence["monitoring_run"], True

    def change(traffic: Traffic) -> Change | None:
        nonlocal written
        reported = (e for e in parts.store.events(model=model) if e.kind is EventKind.REPORTED)
        written = not any(event.evidence.get("monitoring_run") == run for event in reported)
        cause = Cause(actor, datetime.now(UTC), reason, evidence)
        return report(traffic, EventKind.REPORTED, cause) if written else None

    change_traffic(parts.store, model, change)
    return written
