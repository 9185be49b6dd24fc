"""
# Roll back, now

Gives the champion all the traffic of a model in one revision: of its active rollout, or after a promotion while the old
champion is kept. Then the registry's aliases follow, and the data that the plan names is undone.

When Airflow is down: `rollouts rollback MODEL --reason "..."` does the same from any shell that reaches the store.
"""

from airflow.sdk import DAG, Param

from model_rollouts.operators.base import STEADY
from model_rollouts.operators.rollback import RollBackModelOperator

with DAG(
    dag_id="rollback",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=10,
    params={
        "model": Param(type="string", minLength=1, title="Model", description="Registered model name."),
        "reason": Param(type="string", minLength=1, title="Reason", description="Why; it goes on record."),
        "requested_by": Param(None, type=["null", "string"], title="Requested by", description="Your name."),
    },
    tags=["model-rollouts"],
    default_args=STEADY,
):
    RollBackModelOperator(task_id="roll_back", execution_timeout=None)
