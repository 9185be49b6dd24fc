"""
# Gradual release

Everything at once, watched closely: the challenger answers all requests from the first moment, the old champion stays
loaded and answers a sample in the background, and every metric is judged at short looks. It ends with victory, or with
an instant way back.

A stage ends in one of four ways: **expand** (every gate passed: the next stage's run is triggered), **cut over** (the
last stage passed: the challenger becomes the champion, the old one stays loaded), **roll back** (harm is proven: at
once, whatever the other tasks do) or **hold** (nothing could be proven by the deadline, or a check failed).

For models whose harm shows fast and whose rollback is cheap; a canary exposes fewer. Start it with *Trigger*. To resume
a held stage, trigger with the rollout's id.
"""

from airflow.sdk import DAG, TriggerRule

from model_rollouts.operators.acknowledge import AcknowledgeOperator
from model_rollouts.operators.approve import ApproveOperator
from model_rollouts.operators.base import STEADY
from model_rollouts.operators.decide import DecideOperator
from model_rollouts.operators.finish import CutOverOperator, ExpandOperator, HoldOperator, RollBackOperator
from model_rollouts.operators.forms import form
from model_rollouts.operators.preflight import PreflightOperator
from model_rollouts.operators.reports import CompareOperator, DriftReportOperator, ValidateDataOperator
from model_rollouts.operators.traffic import ShiftTrafficOperator
from model_rollouts.operators.watch import WatchStageOperator
from model_rollouts.operators.watch_after import WatchAfterOperator

with DAG(
    dag_id="gradual",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=50,
    params=form("gradual"),
    tags=["model-rollouts", "gradual"],
    default_args=STEADY,
):
    preflight = PreflightOperator(task_id="preflight", pattern="gradual")
    acknowledge = AcknowledgeOperator(task_id="acknowledge", execution_timeout=None)
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
    decide = DecideOperator(task_id="decide", checks=[report.task_id for report in reports])
    expand = ExpandOperator(task_id="expand")
    cut_over = CutOverOperator(task_id="cut_over")
    roll_back = RollBackOperator(task_id="roll_back", execution_timeout=None)
    hold = HoldOperator(task_id="hold", execution_timeout=None)
    watch_after = WatchAfterOperator(task_id="watch_after", execution_timeout=None)

    preflight >> acknowledge >> shift_traffic >> watch >> reports >> approve >> decide
    decide >> [expand, cut_over, roll_back, hold]
    cut_over >> watch_after
    # what went wrong before them must not keep these two from running
    shift_traffic >> [approve, decide]
    watch >> [approve, decide]
    reports >> decide
