"""Makes DAG runs from within Airflow's API server, which has its metadata database at hand."""

from collections.abc import Mapping
from typing import Any

from model_rollouts.core.registry_events import RunRefusedError, UnknownDagError


class ApiServerRuns:
    """Implements `DagRuns`. For the API server's process alone: tasks have no database."""

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
        """Make a run; False when it is there already.

        Raises:
            UnknownDagError: There is no such DAG.
            RunRefusedError: The DAG is paused or broken, or refuses the values.
        """
        from airflow.api.common.trigger_dag import trigger_dag
        from airflow.exceptions import DagNotFound, DagRunAlreadyExists
        from airflow.utils.types import DagRunTriggeredByType, DagRunType
        from sqlalchemy.exc import IntegrityError

        if why := why_not_ready(dag_id):
            raise why
        try:
            trigger_dag(
                dag_id=dag_id,
                run_id=run_id,
                conf=dict(conf),
                run_type=DagRunType.OPERATOR_TRIGGERED,  # as the DAG registry_events would
                triggered_by=DagRunTriggeredByType.REST_API,
            )
        except DagRunAlreadyExists:
            return False
        except DagNotFound as error:
            raise UnknownDagError(f"Airflow has no DAG {dag_id}: {error}") from error
        except ValueError as error:
            raise RunRefusedError(f"Airflow refuses a run of DAG {dag_id}: {' '.join(str(error).split())}") from error
        except IntegrityError:
            if not _is_there(dag_id, run_id):
                raise
            return False  # somebody else made it between the look and the insertion
        return True

    def unfinished(self, dag_id: str, run_id: str) -> bool:
        """Whether there is such a run and it waits or goes on."""
        from airflow.utils.state import DagRunState

        return _is_there(dag_id, run_id, DagRunState.QUEUED, DagRunState.RUNNING)


def why_not_ready(dag_id: str) -> RunRefusedError | None:
    """Why a DAG takes no runs, or None."""
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    with create_session() as session:
        dag = session.get(DagModel, dag_id)
        if dag is None or dag.is_stale:
            return UnknownDagError(f"Airflow has no DAG {dag_id}")
        if dag.is_paused:
            return RunRefusedError(f"DAG {dag_id} is paused; unpause it, then make the change again")
        if dag.has_import_errors:
            return RunRefusedError(f"DAG {dag_id} has import errors; mend its file, then make the change again")
    return None


def _is_there(dag_id: str, run_id: str, *states: Any) -> bool:
    import sqlalchemy as sa
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    query = sa.select(DagRun.id).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    if states:
        query = query.where(DagRun.state.in_(states))
    with create_session() as session:
        return session.scalar(query) is not None
