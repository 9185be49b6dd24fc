"""
# Shadow deployment

The challenger answers the same requests as the champion and nobody sees its answers. It takes over when both are
proven to agree on at least 98 % of the requests, and its errors and latency are no worse.

Live, a gateway mirrors the requests: behind the caller's back, with its own queue and time limit, and first to give way
under load. Offline, a task scores the champion's logged requests with the challenger; no gateway is needed.

A stage ends in one of four ways: **expand** (every gate passed: the next stage's run is triggered), **cut over** (the
last stage passed: the challenger becomes the champion, the old one stays loaded), **roll back** (harm is proven: at
once, whatever the other tasks do) or **hold** (nothing could be proven by the deadline, or a check failed).

Agreement, score differences and latency are compared request by request; the slices of the inputs where the versions
differ most are named. Start it with *Trigger*. To resume a held stage, trigger with the rollout's id.
"""

from datetime import timedelta

from airflow.sdk import DAG, TriggerRule

from model_rollouts.operators.acknowledge import AcknowledgeOperator
from model_rollouts.operators.approve import ApproveOperator
from model_rollouts.operators.base import STEADY
from model_rollouts.operators.decide import DecideOperator
from model_rollouts.operators.finish import CutOverOperator, ExpandOperator, HoldOperator, RollBackOperator
from model_rollouts.operators.forms import form
from model_rollouts.operators.pairs import ComparePairsOperator
from model_rollouts.operators.preflight import PreflightOperator
from model_rollouts.operators.reports import CompareOperator, DriftReportOperator, ValidateDataOperator
from model_rollouts.operators.traffic import ShiftTrafficOperator
from model_rollouts.operators.watch_after import WatchAfterOperator
from model_rollouts.operators.watch_shadow import WatchShadowOperator

with DAG(
    dag_id="shadow",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=50,
    params=form("shadow"),
    tags=["model-rollouts", "shadow"],
    default_args=STEADY,
):
    preflight = PreflightOperator(task_id="preflight", pattern="shadow")
    acknowledge = AcknowledgeOperator(task_id="acknowledge", execution_timeout=None)
    shift_traffic = ShiftTrafficOperator(task_id="shift_traffic")
    watch = WatchShadowOperator(task_id="watch", execution_timeout=timedelta(hours=6))  # offline, it scores
    reports = [
        CompareOperator(task_id="compare", retries=3),
        ComparePairsOperator(task_id="compare_pairs", retries=3),
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
