"""
# Canary release

Brings a challenger into production step by step: 1, 5, 25, 50, 100 % of the units, each step earned by proof.
One run of this DAG is one step; the grid reads as the rollout's history.

A step ends in one of four ways: **expand** (every gate passed: the next step's run is triggered), **cut over** (the
last step passed: the challenger becomes the champion), **roll back** (harm is proven: at once, whatever the other
tasks do) or **hold** (nothing could be proven by the deadline, or a check failed: the share stays, a person looks).

Start it with *Trigger*. Later steps start themselves. To resume a held step, trigger with the rollout's id.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule

from model_rollouts.core.patterns.canary import POWER_HELP, CanaryParameters
from model_rollouts.operators.approve import ApproveOperator
from model_rollouts.operators.decide import DecideOperator
from model_rollouts.operators.finish import CutOverOperator, ExpandOperator, HoldOperator, RollBackOperator
from model_rollouts.operators.preflight import PreflightOperator
from model_rollouts.operators.reports import CompareOperator, DriftReportOperator, ValidateDataOperator
from model_rollouts.operators.traffic import ShiftTrafficOperator
from model_rollouts.operators.watch import WatchStageOperator

D = CanaryParameters()
SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}
STEPS, MARGINS, TIME, LABELS = "Steps", "Margins", "Time", "Labels"


def number(default: float, low: float, high: float, title: str, section: str, description: str) -> Param:
    """A bounded number of the form."""
    return Param(
        default,
        type="number",
        minimum=low,
        maximum=high,
        title=title,
        section=section,
        description=f"{description} Between {low:g} and {high:g}.",
    )


PARAMS = {
    "model": Param(type="string", minLength=1, title="Registered model", description="Name in the MLflow registry."),
    "challenger": Param("challenger", type="string", minLength=1, title="Challenger", description="Version or alias."),
    "steps": Param(list(D.steps), type="array", minItems=1, items=SHARE, title="Steps, % of units",
        section=STEPS, description="Increasing shares of the challenger."),
    "control_percent": number(D.control_percent, 1, 50, "Control sample, %", STEPS,
        "At 100 %, this much of the requests is also answered by the champion, to have something to compare with."),
    "min_requests": Param(D.min_requests, type="integer", minimum=1, title="Minimum requests", section=STEPS,
        description="Least number of the challenger's judged requests in each step."),
    "approval_from_share": Param(None, type=["null", "number"], minimum=0, maximum=100, title="Ask a person from, %",
        section=STEPS, description="A person approves leaving steps of this share or more. Empty: nobody is asked."),
    "at_deadline": Param(str(D.at_deadline), enum=["hold", "roll_back", "ask"], title="At the deadline", section=STEPS,
        description="What to do when a step's deadline comes and nothing is proven. Asked and silent means hold."),
    "underpowered": Param(str(D.underpowered), enum=["wait", "hold", "ask"], title="Underpowered", section=STEPS,
        description="What to do when a step sees too few requests to prove anything before its deadline: wait for the "
        "deadline (harm is seen meanwhile), hold, or ask a person. " + POWER_HELP),
    "on_drift": Param("report", enum=["report", "hold"], title="On drift", section=STEPS,
        description="Whether drift between the arms' inputs or predictions is reported only, or holds the step."),
    "rollback_odds": number(D.rollback_odds, 1, 100, "Roll back above, odds ratio", MARGINS,
        "Roll back when the odds of a bad answer are proven to be above this many times the champion's."),
    "pass_odds": number(D.pass_odds, 1.15, 1000, "Pass below, odds ratio", MARGINS,
        "The last step passes when they are proven to be below this many times the champion's."),
    "first_pass_odds": number(D.first_pass_odds, 1.15, 1000, "Pass below at the first step", MARGINS,
        "The margin at the first step, where few requests are seen; it tightens from step to step."),
    "negligible_error_rate": number(D.negligible_error_rate, 0.0001, 0.5, "Negligible error rate", MARGINS,
        "Proven to be below this, the error rate is good enough whatever the champion's is."),
    "latency_margin": number(D.latency_margin, 0, 10, "Latency margin", MARGINS, "0.25 allows 25 % on each quantile."),
    "latency_slack_ms": number(D.latency_slack_ms, 0, 600000, "Latency slack, ms", MARGINS, "On top of the margin."),
    "value_loss": Param(None, type=["null", "number"], minimum=0.0001, maximum=0.9, title="Largest loss of value",
        section=MARGINS, description="0.05 accepts a loss of 5 % of business value per request at the last step; half "
        "of it, proven, rolls back. Empty: business value is not judged."),
    "alpha": number(D.alpha, 1e-6, 0.2, "Alpha", MARGINS, "Bound on rolling back a healthy challenger."),
    "beta": number(D.beta, 1e-6, 0.2, "Beta", MARGINS, "Bound on passing one that is worse than the margin."),
    "bake_seconds": number(D.bake_seconds, 0, 1e7, "Bake time, s", TIME, "Least time in each step."),
    "deadline_seconds": number(D.deadline_seconds, 1, 1e7, "Deadline, s", TIME, "Latest time of each step's verdict."),
    "look_seconds": number(D.look_seconds, 0.5, 86400, "Look, s", TIME, "Time bucket of the evidence."),
    "grace_seconds": number(D.grace_seconds, 0, 3600, "Grace, s", TIME, "How long after its end a look is closed."),
    "label_maturity_seconds": number(D.label_maturity_seconds, 0, 7776000, "Label maturity, s", LABELS,
        "Age of a request at which its label is due."),
    "label_coverage": number(D.label_coverage, 0, 1, "Label coverage", LABELS,
        "Least share of due labels that must have arrived, in each arm. 0: accuracy is shown, not judged."),
    "requested_by": Param(None, type=["null", "string"], title="Requested by", description="Your name, for the audit."),
    "rollout_id": Param(None, type=["null", "string"], title="Rollout to resume", section="Resume",
        description="Leave empty to start a new rollout."),
    "stage": Param(None, type=["null", "integer"], minimum=0, title="Step to resume", section="Resume",
        description="Counted from 0; empty: the one that is due."),
}  # fmt: skip

with DAG(
    dag_id="canary",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=50,
    params=PARAMS,
    tags=["model-rollouts", "canary"],
    default_args={
        # some eight minutes in all: a database that fails over, a registry that restarts
        "retries": 8,
        "retry_delay": timedelta(seconds=3),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=2),
        "execution_timeout": timedelta(minutes=15),
    },
):
    preflight = PreflightOperator(task_id="preflight", pattern="canary")
    shift_traffic = ShiftTrafficOperator(task_id="shift_traffic")
    watch = WatchStageOperator(task_id="watch")
    reports = [
        CompareOperator(task_id="compare", retries=3),
        ValidateDataOperator(task_id="validate_data", retries=3),
        DriftReportOperator(task_id="drift_report", retries=3),
    ]
    approve = ApproveOperator(
        task_id="approve", trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS, execution_timeout=None
    )
    decide = DecideOperator(task_id="decide", checks=["compare", "validate_data", "drift_report"])
    ends = [
        ExpandOperator(task_id="expand"),
        CutOverOperator(task_id="cut_over"),
        RollBackOperator(task_id="roll_back"),
        HoldOperator(task_id="hold"),
    ]

    preflight >> shift_traffic >> watch >> reports >> approve >> decide >> ends
    shift_traffic >> [approve, decide]
    watch >> [approve, decide]
    reports >> decide
