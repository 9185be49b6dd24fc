"""What the page has Airflow do for a user: the rows that the scheduler takes up, in a real metadata database."""

from collections.abc import Iterator
from typing import Any

import pytest

from model_rollouts.airflow_ports import Question
from model_rollouts.core.errors import RolloutError
from model_rollouts.core.registry_events import RunRefusedError, UnknownDagError
from model_rollouts.web.dag_runs import UsersDags

CONF = {"model": "m", "challenger": "2", "rollout_id": "r", "stage": 1, "requested_by": "anna (page)"}
OPTIONS = ("Approve", "Hold", "Roll back")


def user(name: str, role: str) -> Any:
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return SimpleAuthManagerUser(username=name, role=role)


@pytest.fixture(scope="module")
def canary(airflow_db: None) -> Iterator[None]:
    """The DAG in the database, not paused, and Airflow's own way to say who may do what."""
    import sqlalchemy as sa
    from airflow.api_fastapi.app import init_auth_manager, purge_cached_app
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    (bundle,) = manager.get_all_dag_bundles()
    bundle.initialize()
    sync_bag_to_db(
        BundleDagBag(dag_folder=bundle.path / "canary.py", bundle_path=bundle.path, bundle_name=bundle.name),
        bundle.name,
        bundle.version,
    )
    with create_session() as session:
        session.execute(sa.update(DagModel).values(is_paused=False))
    init_auth_manager()
    yield
    purge_cached_app()
    with create_session() as session:
        session.execute(sa.delete(DagRun).where(DagRun.run_id.startswith("page--")))


def run_of(run_id: str) -> Any:
    import sqlalchemy as sa
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        return session.execute(
            sa.select(DagRun.conf, DagRun.state, DagRun.triggering_user_name).where(DagRun.run_id == run_id)
        ).one()


def ask(run_id: str, *assigned: str) -> Any:
    """Have the run's task `approve` wait for a person, as the scheduler leaves it; gives the task's id."""
    import sqlalchemy as sa
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        task = session.scalar(
            sa.select(TaskInstance).where(TaskInstance.run_id == run_id, TaskInstance.task_id == "approve")
        )
        assert task is not None
        task.state = "awaiting_input"
        task.next_method, task.next_kwargs = "execute_complete", {}
        who = [{"id": name, "name": name} for name in assigned] or None
        asked = HITLDetail(ti_id=task.id, options=list(OPTIONS), subject="Leave?", body="why", multiple=False)
        asked.assignees = who
        session.add(asked)
        return task.id


def task_of(ti_id: Any) -> tuple[str, Any, Any]:
    """(state, chosen options, who) of a task that asked."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        task, detail = session.get(TaskInstance, ti_id), session.get(HITLDetail, ti_id)
        assert task is not None
        assert detail is not None
        return str(task.state), detail.chosen_options, detail.responded_by


def test_a_run_is_made_once_with_who_wanted_it(canary: None) -> None:
    dags = UsersDags(user("anna", "user"))

    assert dags.dag("canary") == {"is_paused": False}
    assert dags.trigger("canary", "page--1", CONF, "the launch can't wait") is True
    assert dags.trigger("canary", "page--1", CONF) is False
    conf, state, who = run_of("page--1")
    assert (conf, state, who) == (CONF, "queued", "anna")
    with pytest.raises(UnknownDagError):
        dags.trigger("no_such_dag", "page--2", {})
    with pytest.raises(RunRefusedError, match="refuses a run of DAG canary"):
        dags.trigger("canary", "page--3", {**CONF, "stage": "first"})
    assert dags.dag("no_such_dag") is None


def test_a_question_is_found_and_answered_as_the_user(canary: None) -> None:
    dags = UsersDags(user("anna", "user"))
    dags.trigger("canary", "page--4", CONF)
    assert dags.questions("canary", "page--4") == []
    asked = ask("page--4")

    question = Question("canary", "page--4", "approve", "Leave?", "why", OPTIONS)
    assert dags.questions("canary", "page--4") == [question]
    with pytest.raises(RolloutError, match="you may not answer"):
        UsersDags(user("eve", "viewer")).answer(question, "Approve")
    with pytest.raises(RolloutError, match="Invalid options"):
        dags.answer(question, "Perhaps")
    assert task_of(asked)[:2] == ("awaiting_input", None)

    dags.answer(question, "Approve")

    state, chosen, who = task_of(asked)
    assert (state, chosen, who["name"]) == ("scheduled", ["Approve"], "anna")
    assert dags.questions("canary", "page--4") == []
    with pytest.raises(RolloutError, match="already been updated"):
        dags.answer(question, "Hold")


def test_a_question_says_who_alone_may_answer_it(canary: None) -> None:
    from model_rollouts.web.access import Access

    dags = UsersDags(user("anna", "user"))
    dags.trigger("canary", "page--5", CONF)
    ask("page--5", "bert")

    (question,) = dags.questions("canary", "page--5")

    assert question.assigned == {"bert"}
    assert not Access(user("anna", "user")).is_one_of(question.assigned)
    assert Access(user("bert", "user")).is_one_of(question.assigned)
    assert Access(user("anna", "user")).is_one_of(frozenset())
    with pytest.raises(RolloutError, match="not a respondent"):
        dags.answer(question, "Approve")
    UsersDags(user("bert", "user")).answer(question, "Approve")
