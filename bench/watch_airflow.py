"""Defers the watch of each rollout in an Airflow database, as its task would: a triggerer that starts takes them all.

`python -m bench.watch_airflow <poll seconds>` reads rollout ids, a line each, and runs in an Airflow's environment.
Going through 500 runs of the DAG would take the scheduler an hour on two cores, and is not what is measured.
"""

import sys
from datetime import UTC, datetime, timedelta

from airflow.models.dagbag import DBDagBag
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

from model_rollouts.triggers.watch import WatchTrigger


def defer(rollout_ids: list[str], poll_seconds: float) -> None:
    """Make a run for each rollout, whose task `watch` waits for its trigger."""
    now = datetime.now(UTC)
    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag("canary", session=session)
        if dag is None:
            raise SystemExit("the DAG canary is not in the database")
        for rollout_id in rollout_ids:
            run = dag.create_dagrun(
                run_id=f"{rollout_id}--stage-1",
                logical_date=None,
                run_after=now,
                conf={"model": rollout_id.removesuffix("-now"), "challenger": "2"},
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                session=session,
            )
            task = run.get_task_instance("watch", session=session)
            if task is None:
                raise SystemExit(f"the run of {rollout_id} has no task watch")
            trigger = Trigger.from_object(WatchTrigger(rollout_id, 0, poll_seconds))
            session.add(trigger)
            session.flush()
            task.state = TaskInstanceState.DEFERRED
            task.trigger_id = trigger.id
            task.trigger_timeout = now + timedelta(days=1)
        session.commit()


if __name__ == "__main__":
    defer([line.strip() for line in sys.stdin if line.strip()], float(sys.argv[1]))
