"""Watches the model that serves: one tick a run, one run a model. Thin shells over core/monitoring_alerts.py."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseBranchOperator, BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from model_rollouts.core.errors import PlanError
from model_rollouts.core.names import slug
from model_rollouts.operators.base import pull, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.core.drift_plan import DriftPlan
    from model_rollouts.core.monitoring_alerts import Judgement
    from model_rollouts.core.monitoring_limits import Limits, Observed
    from model_rollouts.wiring import Wiring

MEASURE, KEEP_TREND, DRIFT, DATA, JUDGE = "measure", "keep_trend", "drift_report", "validate_data", "judge"
ALERT, QUIET = "alert", "all_quiet"
LIMITS = (
    "max_error_rate", "min_accuracy", "max_p95_ms", "max_drift_share", "min_value", "margin", "min_requests", "level",
    "may_be_missing",
)  # fmt: skip
Span = tuple[datetime, datetime]
_DAY = timedelta(days=1)


class EachModelOperator(BaseOperator):
    """Says which other runs to start: where the form names no model, one for each model that serves.

    Those runs are named after this one, so that a retry starts none twice. The tasks that look at one model are skipped
    then. When the store is missing: fails.
    """

    def execute(self, context: "Context") -> list[dict[str, Any]]:
        """Return {"trigger_run_id", "conf"} of each run to start; none where this run has a model."""
        params, run_id = dict(context["params"]), context["dag_run"].run_id
        if params.get("model"):
            return []
        models = [traffic.model for traffic in wiring().store.all_traffic()]
        self.log.info("%d models serve: %s", len(models), ", ".join(models) or "none")
        return [{"trigger_run_id": run_id_for(run_id, model), "conf": {**params, "model": model}} for model in models]


class MeasureOperator(BaseOperator):
    """Counts the champion's answers of the window and of the reference. Needs the store and the log alone.

    On retry: the window hangs on the run, so the same time is counted. When the log can't be read, or the model has no
    traffic: fails, and the judgement is that the monitor is blind.
    """

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"model", "version", "window", "reference_window", "young", "current", "reference"}."""
        parts, params = wiring(), named(context)
        try:
            limits = limits_of(params)
            drift_plan_of(params)
            window, before = windows(params, context["dag_run"].run_after)
        except PlanError as error:  # the same form gives the same answer, so a retry would only say it again
            raise AirflowFailException(str(error)) from error
        model, maturity = str(params["model"]), timedelta(seconds=float(params["label_maturity_seconds"]))
        traffic = parts.store.traffic(model)
        if traffic is None:
            raise AirflowFailException(f"model {model} has no traffic row, so nothing of it serves; start a rollout")
        current = observe(parts, model, traffic.champion, window, maturity)
        reference = observe(parts, model, traffic.champion, before, maturity)
        if traffic.previous and reference.requests.requests < limits.min_requests:
            # it took over not long ago: what served before it is the measure
            other = observe(parts, model, traffic.previous, before, maturity)
            if other.requests.requests > reference.requests.requests:
                reference = other
        since = serves_since(parts, model, traffic.champion)
        self.log.info(
            "version %s: %d requests, reference version %s: %d", current.version, current.requests.requests,
            reference.version, reference.requests.requests,
        )  # fmt: skip
        return {
            "model": model,
            "version": current.version,
            "window": [moment.isoformat() for moment in window],
            "reference_window": [moment.isoformat() for moment in before],
            "young": since is not None and since >= window[1] - maturity,
            "current": current.to_dict(),
            "reference": reference.to_dict(),
        }


class KeepTrendOperator(BaseOperator):
    """Adds the tick to the version's long-lived MLflow run. On retry: the same point again.

    When MLflow is missing: fails; what was counted is judged all the same, without drift and data checks.
    """

    def execute(self, context: "Context") -> dict[str, str]:
        """Return {"mlflow_run_id"}."""
        measured, runs = pull(context, MEASURE), wiring().monitoring_runs
        at = tick_of(measured)
        run_id = runs.open(measured["model"], measured["version"], at)
        runs.log(run_id, at, trend_of(_observed(measured["current"])))
        return {"mlflow_run_id": run_id}


class JudgeOperator(BaseBranchOperator):
    """Holds the tick against its limits, and goes on with `alert` or `all_quiet`.

    Runs whatever became of the tasks before: what they left out is a blind spot. On retry: the same judgement. When
    MLflow is missing: the judgement goes on without its artifact.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trigger_rule=TriggerRule.ALL_DONE, **kwargs)

    def choose_branch(self, context: "Context") -> str:
        """The branch's task id; the judgement is this task's `judgement`."""
        from model_rollouts.core.monitoring_alerts import judge
        from model_rollouts.core.monitoring_limits import Drift

        params = named(context)
        measured, drift, data = pull(context, MEASURE), pull(context, DRIFT), pull(context, DATA)
        judgement = judge(
            limits_of(params),
            _observed(measured["current"]) if measured else None,
            _observed(measured["reference"]) if measured else None,
            Drift(**drift) if drift else None,
            (bool(data["ok"]), str(data["detail"])) if data else None,
            young=bool(measured and measured["young"]),
        )
        context["ti"].xcom_push(key="judgement", value=judgement.to_dict())
        self.log.info("%s", judgement.reason)
        try:
            self._keep(context, measured, judgement)
        except Exception as error:  # an alert must not wait for MLflow
            self.log.warning("the judgement is not in MLflow: %s: %s", type(error).__name__, error)
        return ALERT if judgement.alarms else QUIET

    def _keep(self, context: "Context", measured: Mapping[str, Any] | None, judgement: "Judgement") -> None:
        opened = pull(context, KEEP_TREND)
        if not measured or not opened:
            return
        runs, run_id, at = wiring().monitoring_runs, opened["mlflow_run_id"], tick_of(measured)
        text = json.dumps({"judgement": judgement.to_dict(), "measured": measured}, indent=2)
        runs.log_text(run_id, at, "judgement.json", text + "\n")
        tags = {"monitoring.state": str(judgement.state), "monitoring.reason": judgement.reason}
        runs.log(run_id, at, {"alarm": float(judgement.alarms)}, tags=tags)


def named(context: "Context") -> dict[str, Any]:
    """The form of a run that looks at one model.

    Raises:
        AirflowSkipException: It names none: this run hands on to others.
    """
    params = dict(context["params"])
    if not params.get("model"):
        raise AirflowSkipException("no model is named: each one that serves has a run of its own")
    return params


def limits_of(params: Mapping[str, Any]) -> "Limits":
    """The limits of a form.

    Raises:
        PlanError: A value is out of its bounds.
    """
    from model_rollouts.core.monitoring_limits import Limits

    return Limits.from_dict({name: params[name] for name in LIMITS if name in params})


def drift_plan_of(params: Mapping[str, Any]) -> "DriftPlan":
    """What a form says about drift: how rarely chance may be called drift, and the columns that are ignored.

    Raises:
        PlanError: A value is out of its bounds, or a name is none of a column of the log.
    """
    from model_rollouts.core.drift_plan import DriftPlan, DriftRole

    ignored = params.get("ignored_columns") or []
    if not isinstance(ignored, list | tuple):
        raise PlanError(f"ignored_columns is {ignored!r}, must be a list of the log's columns, such as f_note")
    columns = {column: {"role": DriftRole.IGNORE.value} for column in ignored}
    return DriftPlan.from_dict({"level": 1 - limits_of(params).level, "columns": columns})


def windows(params: Mapping[str, Any], run_after: datetime) -> tuple[Span, Span]:
    """The window, [start, end), and what it is compared with. They hang on the run, not on the clock.

    Raises:
        PlanError: The window would overlap with its reference.
    """
    length = timedelta(seconds=float(params["window_seconds"]))
    end = run_after.astimezone(UTC) - timedelta(seconds=float(params["grace_seconds"]))
    shift = length if params["reference"] == "window_before" else _DAY
    if length > shift:
        raise PlanError(
            f"window_seconds is {length.total_seconds():g}, must be at most {_DAY.total_seconds():g} to be compared "
            "with the day before; use the window before"
        )
    return (end - length, end), (end - length - shift, end - shift)


def observe(parts: "Wiring", model: str, version: str, window: Span, maturity: timedelta) -> "Observed":
    """A version's requests of a window, and those that were made a maturity earlier with their labels."""
    from model_rollouts.core.monitoring_limits import Observed

    log, (start, end) = parts.monitoring_log, window
    requests = log.monitored(model, version, start, end, timedelta(0))
    labels = log.monitored(model, version, start - maturity, end, maturity) if maturity else requests
    return Observed(version, requests, labels)


def serves_since(parts: "Wiring", model: str, version: str) -> datetime | None:
    """When a version took over by a rollout; None where no recent one tells."""
    from model_rollouts.core.rollout import State

    for rollout in parts.store.rollouts(model, limit=20):
        if rollout.state is State.PROMOTED and rollout.challenger == version:
            return rollout.ended_at
    return None


def trend_of(observed: "Observed") -> dict[str, float | None]:
    """A tick's metrics; None where there is nothing to make one of."""
    from model_rollouts.core.intervals import quantile_of

    now, then = observed.requests, observed.labels
    return {
        "requests": float(now.requests),
        "error_rate": now.errors / now.requests if now.requests else None,
        "latency_p50_ms": quantile_of(now.latency, 0.50),
        "latency_p95_ms": quantile_of(now.latency, 0.95),
        "latency_p99_ms": quantile_of(now.latency, 0.99),
        "accuracy": 1 - then.wrong / then.labelled if then.labelled else None,
        "label_coverage": then.label_coverage if then.due else None,
        "label_delay_p95_seconds": then.label_delay_p95,
        "value_per_request": then.value_mean,
        "value_coverage": then.value_coverage if then.value_due else None,
    }


def run_id_for(run_id: str, model: str) -> str:
    """The id of a run that this run starts for a model; Airflow allows few characters in it."""
    digest = hashlib.blake2b(f"{run_id}\0{model}".encode(), digest_size=4).hexdigest()
    return f"{run_id[:180]}--{slug(model, 40)}-{digest}"


def tick_of(measured: Mapping[str, Any]) -> datetime:
    """The end of the window, which the tick's metrics are of."""
    return datetime.fromisoformat(measured["window"][1])


def span_of(measured: Mapping[str, Any], name: str) -> Span:
    """One of the two windows as times."""
    start, end = (datetime.fromisoformat(moment) for moment in measured[name])
    return start, end


def _observed(data: Mapping[str, Any]) -> "Observed":
    from model_rollouts.core.monitoring_limits import Observed

    return Observed.from_dict(data)
