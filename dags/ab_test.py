"""
# A/B test

Both versions serve, each its own units, half and half or any other split. The one whose answers are worth more, by
the primary business metric, wins; everything else only must not be harmed.

The horizon comes from a power calculation on the champion's logged values, or from the form. A winner that is proven
earlier ends the test earlier: the bounds hold at any time. Without a winner at the horizon the champion stays.

| result | action |
| --- | --- |
| winner: more value is proven | cut over |
| loser: less value is proven, or a guardrail is harmed | roll back |
| no difference by the horizon | roll back: the champion stays (or hold, or ask, as the form says) |

The assignment is checked (sample ratio, units that met both versions), and the readout with CUPED is a table and a
picture in the stage's MLflow run. Start it with *Trigger*.
"""

from airflow.sdk import DAG, TriggerRule

from model_rollouts.operators.acknowledge import AcknowledgeOperator
from model_rollouts.operators.approve import ApproveOperator
from model_rollouts.operators.base import STEADY
from model_rollouts.operators.decide import DecideOperator
from model_rollouts.operators.finish import CutOverOperator, ExpandOperator, HoldOperator, RollBackOperator
from model_rollouts.operators.forms import form
from model_rollouts.operators.preflight import PreflightOperator
from model_rollouts.operators.readout import ReadoutOperator
from model_rollouts.operators.reports import CompareOperator, DriftReportOperator, ValidateDataOperator
from model_rollouts.operators.traffic import ShiftTrafficOperator
from model_rollouts.operators.watch import WatchStageOperator
from model_rollouts.operators.watch_after import WatchAfterOperator

with DAG(
    dag_id="ab_test",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=50,
    params=form("ab-test"),
    tags=["model-rollouts", "ab-test"],
    default_args=STEADY,
):
    preflight = PreflightOperator(task_id="preflight", pattern="ab-test")
    acknowledge = AcknowledgeOperator(task_id="acknowledge", execution_timeout=None)
    shift_traffic = ShiftTrafficOperator(task_id="shift_traffic")
    watch = WatchStageOperator(task_id="watch")
    reports = [
        CompareOperator(task_id="compare", retries=3),
        ReadoutOperator(task_id="readout", retries=3),
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
