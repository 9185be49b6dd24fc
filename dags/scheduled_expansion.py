"""
# Scheduled expansion

Opens the next stage of every rollout that advances on schedule, has passed its stage, and may expand now: its days,
hours and blackout dates are in its plan. Change `schedule` here to tick at other times.

Ticks that were missed are not made up for, and no tick opens two stages: a stage opens only after the one before it has
passed, in a run that is named after it.
"""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG

from model_rollouts.operators.base import STEADY
from model_rollouts.operators.schedule import DueStagesOperator

with DAG(
    dag_id="scheduled_expansion",
    doc_md=__doc__,
    schedule="0 * * * *",
    catchup=False,
    max_active_runs=1,
    params={},
    tags=["model-rollouts"],
    default_args=STEADY,
):
    due = DueStagesOperator(task_id="due")
    TriggerDagRunOperator.partial(task_id="expand", skip_when_already_exists=True).expand_kwargs(due.output)
