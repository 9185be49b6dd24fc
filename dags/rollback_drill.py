"""
# Rollback drill

Flips the traffic of a model to another version, for no unit, and back, the way that a rollback goes: a revision in the
store that every gateway follows. The times are measured and put on record; a rollout can ask for a drill that is not
older than some days. For a model without an active rollout: a rollout's preflight rehearses by itself.

Give it a schedule, such as every Monday, by changing `schedule` here.
"""

from airflow.sdk import DAG, Param

from model_rollouts.operators.base import STEADY
from model_rollouts.operators.rollback import DrillOperator

with DAG(
    dag_id="rollback_drill",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        "model": Param(type="string", minLength=1, title="Model", description="Registered model name."),
        "version": Param(
            None,
            type=["null", "string"],
            title="Version",
            description="Version number or alias to flip to. Empty: the old champion, while it is kept.",
        ),
        "requested_by": Param(None, type=["null", "string"], title="Requested by", description="Your name."),
    },
    tags=["model-rollouts"],
    default_args=STEADY,
):
    DrillOperator(task_id="drill")
