"""
# Log maintenance

Cares for the prediction log once a night, while gateways write on and readers read.

| step | Delta | PostgreSQL |
| --- | --- | --- |
| old days | days before `MODEL_ROLLOUTS_LOG_RETENTION_DAYS` are dropped; 0 keeps all | deleted, a transaction a day |
| small files | merged, day by day; of the day that is written to only where there are very many | nothing to do |
| dead files | those that left the table `MODEL_ROLLOUTS_LOG_VACUUM_HOURS` ago are removed | VACUUM and ANALYZE |

Days that a rollout may still be judged by stay, whatever the setting: those of active rollouts, of promotions whose old
champion is kept, and of requests whose labels are not due yet, each with the 30 days before it. A model that the
rollout store does not know loses nothing. `rollouts log upkeep --dry-run` says what would be done.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param

from model_rollouts.operators.base import STEADY
from model_rollouts.operators.log_upkeep import LogUpkeepOperator

with DAG(
    dag_id="log_maintenance",
    doc_md=__doc__,
    schedule="30 1 * * *",  # after midnight in UTC, when yesterday's rows are there
    catchup=False,
    max_active_runs=1,
    params={
        "model": Param(None, type=["null", "string"], minLength=1, title="Model",
            description="Registered model name. Empty: every model in the log."),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Only say what would be done."),
    },
    tags=["model-rollouts"],
    default_args={**STEADY, "execution_timeout": timedelta(hours=6)},
):  # fmt: skip
    LogUpkeepOperator(task_id="upkeep")
