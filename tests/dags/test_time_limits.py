"""Tasks that undo data have no time limit of Airflow's: each step of the plan has one of its own, up to a day."""

from pathlib import Path

from model_rollouts.operators.finish import HoldOperator, RollBackOperator
from model_rollouts.operators.rollback import RollBackModelOperator
from model_rollouts.operators.watch_after import WatchAfterOperator

UNDOES_DATA = (RollBackOperator, HoldOperator, WatchAfterOperator, RollBackModelOperator)
PATTERNS = ("canary", "blue_green", "shadow", "ab_test", "gradual")


def test_airflow_does_not_break_off_what_undoes_data(airflow_db):
    from airflow.dag_processing.dagbag import DagBag

    dags = DagBag(str(Path(__file__).parents[2] / "dags")).dags
    limits = {
        (dag_id, task.task_id): task.execution_timeout
        for dag_id, dag in dags.items()
        for task in dag.tasks
        if isinstance(task, UNDOES_DATA)
    }

    expected = {(pattern, task) for pattern in PATTERNS for task in ("roll_back", "hold", "watch_after")}
    assert limits == dict.fromkeys(expected | {("rollback", "roll_back")})
