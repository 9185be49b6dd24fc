"""
# Reconcile

Compares the rollout store with Airflow's runs, the registry and the gateways, every few minutes.

| found | done |
| --- | --- |
| a stage whose run died | another run takes it up; past its deadline the plan has its way: hold or roll back |
| a stage that passed, and nothing followed | the next stage is opened, or the cut-over finished |
| a held stage that nobody watches | harm is looked for here |
| a promoted rollout that nobody watches, until its labels are due | the same; the old champion serves again |
| a registry that has not followed the traffic | brought up to date |
| aliases moved by hand, gateways that do not follow, data that was not rolled back | reported |
| an old champion kept longer than asked for, a drill that broke off | released, taken out |

What is reported goes to the audit and to those on call; nothing is guessed.
"""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG

from model_rollouts.operators.base import STEADY
from model_rollouts.operators.reconcile import ReconcileOperator

with DAG(
    dag_id="reconcile",
    doc_md=__doc__,
    schedule="*/5 * * * *",
    catchup=False,
    max_active_runs=1,
    params={},
    tags=["model-rollouts"],
    default_args=STEADY,
):
    reconcile = ReconcileOperator(task_id="reconcile")
    TriggerDagRunOperator.partial(task_id="resume", skip_when_already_exists=True).expand_kwargs(reconcile.output)
