"""
# Blue-green release

Two environments: blue serves, green is tested beside it and gets no live traffic. When green passes, everything moves
to it in one revision; blue stays loaded and takes over again at once if harm shows.

1. **Green.** The challenger is loaded and warmed in every gateway. Golden requests, a mirrored sample of the live
   traffic and the comparison of the environments (library versions, schema, input drift) test it; a person approves,
   where the form asks for it.
2. **Switch.** 100 % in one revision, atomic for callers. Blue answers a sample in the background, to compare with.

A stage ends in one of four ways: **expand** (every gate passed: the next stage's run is triggered), **cut over** (the
last stage passed: the challenger becomes the champion, the old one stays loaded), **roll back** (harm is proven: at
once, whatever the other tasks do) or **hold** (nothing could be proven by the deadline, or a check failed).

Start it with *Trigger*; the switch starts itself. To resume a held stage, trigger with the rollout's id.
"""

from airflow.sdk import DAG, TriggerRule

from model_rollouts.operators.acknowledge import AcknowledgeOperator
from model_rollouts.operators.approve import ApproveOperator
from model_rollouts.operators.base import STEADY
from model_rollouts.operators.decide import DecideOperator
from model_rollouts.operators.environment import ON_DIFFERENCES, EnvironmentOperator
from model_rollouts.operators.finish import CutOverOperator, ExpandOperator, HoldOperator, RollBackOperator
from model_rollouts.operators.forms import form
from model_rollouts.operators.preflight import PreflightOperator
from model_rollouts.operators.reports import CompareOperator, DriftReportOperator, ValidateDataOperator
from model_rollouts.operators.traffic import ShiftTrafficOperator
from model_rollouts.operators.watch import WatchStageOperator
from model_rollouts.operators.watch_after import WatchAfterOperator

with DAG(
    dag_id="blue_green",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=50,
    params=form("blue-green") | ON_DIFFERENCES,
    tags=["model-rollouts", "blue-green"],
    default_args=STEADY,
):
    preflight = PreflightOperator(task_id="preflight", pattern="blue-green")
    acknowledge = AcknowledgeOperator(task_id="acknowledge", execution_timeout=None)
    shift_traffic = ShiftTrafficOperator(task_id="shift_traffic")
    watch = WatchStageOperator(task_id="watch")
    reports = [
        CompareOperator(task_id="compare", retries=3),
        ValidateDataOperator(task_id="validate_data", retries=3),
        DriftReportOperator(task_id="drift_report", retries=3),
        EnvironmentOperator(task_id="compare_environments", retries=3),
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
