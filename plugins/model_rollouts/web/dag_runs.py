"""Makes DAG runs from within Airflow's API server, which has its metadata database at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from model_rollouts.airflow_ports import Question
from model_rollouts.core.errors import RolloutError
from model_rollouts.core.registry_events import RunRefusedError, UnknownDagError

_NOTE_CHARS = 1000  # the most that Airflow takes
_ASKING = ("awaiting_input", "deferred")


class ApiServerRuns:
    """Implements `DagRuns`. For the API server's process alone: tasks have no database."""

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
        """Make a run; False when it is there already.

        Raises:
            UnknownDagError: There is no such DAG.
            RunRefusedError: The DAG is paused or broken, or refuses the values.
        """
        if why := why_not_ready(dag_id):
            raise why
        return _made(dag_id, run_id, conf)

    def unfinished(self, dag_id: str, run_id: str) -> bool:
        """Whether there is such a run and it waits or goes on."""
        from airflow.utils.state import DagRunState

        return _is_there(dag_id, run_id, DagRunState.QUEUED, DagRunState.RUNNING)


class UsersDags:
    """Implements `StageDags` for one user, with what Airflow's own API does for them.

    Args:
        user: Airflow's user, who may trigger the DAGs; whether they may answer is looked at here.
    """

    def __init__(self, user: Any) -> None:
        self._user = user

    def dag(self, dag_id: str) -> Mapping[str, Any] | None:
        """Whether a DAG is paused; None where there is none that can be run."""
        from airflow.models.dag import DagModel
        from airflow.utils.session import create_session

        with create_session() as session:
            dag = session.get(DagModel, dag_id)
            return None if dag is None or dag.is_stale else {"is_paused": bool(dag.is_paused)}

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str = "") -> bool:
        """Make a run; False when it is there already.

        Raises:
            UnknownDagError: There is no such DAG.
            RunRefusedError: The DAG refuses the values.
        """
        name = str(self._user.get_name())
        return _made(dag_id, run_id, conf, person=name, note=note[:_NOTE_CHARS])

    def questions(self, dag_id: str, run_id: str) -> Sequence[Question]:
        """What a run waits for a person with."""
        import sqlalchemy as sa
        from airflow.models.hitl import HITLDetail
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        query = (
            sa.select(
                TaskInstance.task_id, HITLDetail.subject, HITLDetail.body, HITLDetail.options, HITLDetail.assignees
            )
            .join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
            .where(
                TaskInstance.dag_id == dag_id,
                TaskInstance.run_id == run_id,
                TaskInstance.state.in_(_ASKING),
                HITLDetail.responded_at.is_(None),
            )
        )
        with create_session() as session:
            return [
                Question(
                    dag_id,
                    run_id,
                    str(task_id),
                    str(subject),
                    str(body or ""),
                    tuple(options),
                    frozenset(str(each["id"]) for each in assignees or ()),
                )
                for task_id, subject, body, options, assignees in session.execute(query)
            ]

    def answer(self, question: Question, option: str) -> None:
        """Answer a question, as the user.

        Raises:
            RolloutError: The user may not, or it was answered meanwhile.
        """
        from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
        from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
        from airflow.utils.session import create_session
        from fastapi import HTTPException

        from model_rollouts.web.access import Access

        if not Access(self._user).may_answer(question.dag_id):
            raise RolloutError(f"you may not answer what DAG {question.dag_id} asks")
        payload = UpdateHITLDetailPayload(chosen_options=[option], params_input={})
        try:
            with create_session() as session:
                update_hitl_detail(
                    dag_id=question.dag_id,
                    dag_run_id=question.run_id,
                    task_id=question.task_id,
                    update_hitl_detail_payload=payload,
                    user=self._user,
                    session=session,
                )
        except HTTPException as error:
            raise RolloutError(f"Airflow does not take the answer: {error.detail}") from error


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


def _made(dag_id: str, run_id: str, conf: Mapping[str, Any], person: str | None = None, note: str = "") -> bool:
    """Make a run; False when it is there already.

    Raises:
        UnknownDagError: There is no such DAG.
        RunRefusedError: The DAG refuses the values.
    """
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.exceptions import DagNotFound, DagRunAlreadyExists
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy.exc import IntegrityError

    try:
        trigger_dag(
            dag_id=dag_id,
            run_id=run_id,
            conf=dict(conf),
            run_type=DagRunType.MANUAL if person else DagRunType.OPERATOR_TRIGGERED,  # as registry_events would
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=person,
            note=note or None,
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
