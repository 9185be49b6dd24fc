"""
# Monitoring

Watches what serves, every hour: errors, latency, accuracy against the labels that have arrived, drift of the inputs and
business value, in a window against a reference and against limits of your own.

One run is one tick of one model. A run without a model starts one for each model that serves. The trend is in MLflow:
one run a champion version in the experiment `monitoring/<model>`, with each tick's reports in a dated folder.

| judgement | when | done |
| --- | --- | --- |
| alert | the bound of an interval lies beyond its limit, or the data checks fail | told; rolled back if you say so |
| blind | no requests, no labels, a task that failed: nothing to see where there should be | told |
| too little | something, but less than the minimum, or no reference yet | written down |
| ok | everything else | written down |

A limit that is left empty is taken from the reference, with the margin: how much worse than it is still well. Alerts go
to the audit and to those who are notified. Rolled back is only what harms callers (errors, latency, accuracy, value) by
a version whose predecessor is kept loaded; drifting inputs would drift under any version. While a rollout is active
only the champion's requests count, and nothing is rolled back.
"""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param

from model_rollouts.core.readiness import Monitored
from model_rollouts.operators.base import STEADY
from model_rollouts.operators.monitoring import EachModelOperator, JudgeOperator, KeepTrendOperator, MeasureOperator
from model_rollouts.operators.monitoring_alert import AlertOperator, TriggerRollbackOperator
from model_rollouts.operators.monitoring_reports import LiveDataChecksOperator, LiveDriftOperator

LIMITS, TIME = "Limits", "Time"


def limit(low: float, high: float, title: str, description: str) -> Param:
    """A limit of the form; empty: taken from the reference."""
    kind = ["null", "number"]
    return Param(None, type=kind, minimum=low, maximum=high, title=title, section=LIMITS, description=description)


def number(default: float, low: float, high: float, title: str, section: str, description: str) -> Param:
    """A bounded number of the form."""
    return Param(
        default, type="number", minimum=low, maximum=high, title=title, section=section, description=description
    )


PARAMS = {
    "model": Param(None, type=["null", "string"], minLength=1, title="Model",
        description="Registered model name. Empty: every model that serves, each in a run of its own."),
    "on_alert": Param("notify", enum=["notify", "roll_back"], title="On alert",
        description="Whether an alert is told only, or also goes back to the version before where that can help."),
    "may_be_missing": Param([], type="array", items={"enum": [str(each) for each in Monitored]}, title="May be missing",
        description="What of accuracy, latency, errors, drift, business need not be there."),
    "max_error_rate": limit(0, 1, "Largest error rate", "0.01 is one request in a hundred. Empty: the reference."),
    "min_accuracy": limit(0, 1, "Least accuracy", "Share of right predictions. Empty: the reference."),
    "max_p95_ms": limit(0.01, 86400000, "Largest latency, ms", "Of the 95 % quantile. Empty: the reference."),
    "min_value": limit(-1e9, 1e9, "Least value", "Mean business value of a request. Empty: the reference."),
    "max_drift_share": limit(0, 1, "Largest drift", "Share of the columns that drifted. Empty: half of them."),
    "ignored_columns": Param([], type="array", items={"type": "string", "pattern": "^(f_.+|prediction|score)$"},
        title="Columns ignored by drift", section=LIMITS,
        description="The log's columns that are not compared, such as f_note: free texts and ids can't be."),
    "max_missing": number(0.01, 0, 0.99, "Largest gaps", LIMITS,
        "Share of requests that may lack an input which the model's signature requires."),
    "margin": number(0.25, 0, 10, "Margin", LIMITS, "How much worse than the reference is still well: 0.25 is 25 %."),
    "min_requests": Param(200, type="integer", minimum=30, maximum=1000000000, title="Minimum", section=LIMITS,
        description="Least number of requests, labels and values that tell anything; fewer are too little."),
    "level": number(0.999, 0.9, 0.999999, "Level", LIMITS, "Of each one-sided bound that an alert rests on."),
    "window_seconds": number(3600, 60, 604800, "Window, s", TIME, "Length of the time that is looked at."),
    "reference": Param("day_before", enum=["day_before", "window_before"], title="Reference", section=TIME,
        description="Compare with the same hours of the day before, or with the window before."),
    "label_maturity_seconds": number(3600, 0, 7776000, "Label maturity, s", TIME,
        "Age of a request at which its label and value are due; accuracy and value are of so much earlier requests."),
    "grace_seconds": number(60, 0, 3600, "Grace, s", TIME, "How long before the run the window ends."),
    "requested_by": Param(None, type=["null", "string"], title="Requested by", description="Your name, for the audit."),
}  # fmt: skip

with DAG(
    dag_id="monitoring",
    doc_md=__doc__,
    schedule="@hourly",
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    tags=["model-rollouts"],
    default_args=STEADY,
):
    models = EachModelOperator(task_id="models")
    TriggerDagRunOperator.partial(
        task_id="each_model", trigger_dag_id="monitoring", skip_when_already_exists=True
    ).expand_kwargs(models.output)
    measure = MeasureOperator(task_id="measure")
    keep_trend = KeepTrendOperator(task_id="keep_trend")
    reports = [
        LiveDriftOperator(task_id="drift_report", retries=3),
        LiveDataChecksOperator(task_id="validate_data", retries=3),
    ]
    judge = JudgeOperator(task_id="judge")
    alert = AlertOperator(task_id="alert")

    measure >> keep_trend >> reports >> judge >> [alert, EmptyOperator(task_id="all_quiet")]
    [measure, keep_trend] >> judge
    alert >> TriggerRollbackOperator(task_id="roll_back")
