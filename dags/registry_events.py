"""
# Registry events

Starts rollouts from the MLflow registry: the alias `challenger` set, a version tagged `rollout.request`, a stage
transition. docs/registry-triggers.md has the whole table.

An asset watcher looks at the registry every few seconds and runs this DAG when there is something to do. Its one task
takes every change that nobody has handled and makes the run of the right DAG. The webhook receiver does the same
faster; whichever comes second finds the run there. Each change leads to one run, and what came of it is on record.

Trigger it by hand to look now. It is red when something that was asked for could not be done.
"""

from airflow.sdk import DAG, Asset, AssetWatcher

from model_rollouts.operators.base import STEADY
from model_rollouts.operators.registry_events import RegistryEventsOperator
from model_rollouts.triggers.registry import RegistryTrigger

registry = Asset("mlflow_registry", watchers=[AssetWatcher(name="registry_changes", trigger=RegistryTrigger())])

with DAG(
    dag_id="registry_events",
    doc_md=__doc__,
    schedule=[registry],
    catchup=False,
    max_active_runs=1,
    params={},
    tags=["model-rollouts"],
    # changes that could not be handled wait in the store, and the watcher runs the DAG again
    default_args={**STEADY, "retries": 2},
):
    RegistryEventsOperator(task_id="carry_out")
