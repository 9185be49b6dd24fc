"""The store under several threads, processes, forks and kill -9."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as core
from model_rollouts.core.errors import ActiveRolloutError, StaleRevisionError
from model_rollouts.core.rollout import Change, State
from model_rollouts.core.traffic import Traffic

_fork = multiprocessing.get_context("fork")  # as Airflow starts its tasks


def _in_child(work: Callable[[], None]) -> int:
    """Exit code of a forked process that does it."""
    child = _fork.Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def _session(store: SqlStore) -> int | None:
    """Number of the session at a PostgreSQL server; SQLite has none."""
    with store._database.read() as connection:
        if connection.dialect.name == "sqlite":
            return None
        number: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        return number


def _race(store: SqlStore, changes: list[Change]) -> list[Exception | None]:
    start = Barrier(len(changes))

    def apply(change: Change) -> Exception | None:
        start.wait(10)
        try:
            store.apply(change)
        except (StaleRevisionError, ActiveRolloutError) as error:
            return error
        return None

    with ThreadPoolExecutor(len(changes)) as pool:
        return list(pool.map(apply, changes))


def test_of_threads_that_apply_under_one_revision_one_wins(steps: Any, store: SqlStore) -> None:
    steps.start()
    for _ in range(5):
        answers = _race(store, [steps.opening() if store.rollout("r1").stage < 0 else steps.rolling_back()] * 6)

        assert answers.count(None) == 1
        assert all(isinstance(answer, StaleRevisionError) for answer in answers if answer)
        if store.rollout("r1").state is State.ROLLED_BACK:
            break

    assert [e.traffic_revision for e in store.events()] == [1, 2, 3, 4]


def test_of_threads_that_adopt_a_model_one_wins(steps: Any, store: SqlStore) -> None:
    for number in range(5):
        change = core.adopt(f"model-{number}", "1", steps.cause())

        answers = _race(store, [change] * 6)

        assert answers.count(None) == 1
        assert all("expected none yet" in str(answer) for answer in answers if answer)
        assert len(store.events(model=f"model-{number}")) == 1


def test_of_threads_that_change_traffic_outside_any_rollout_one_wins(steps: Any, store: SqlStore) -> None:
    adopted = core.adopt("flights", "1", steps.cause())
    for revision in range(1, 6):
        moved = replace(
            adopted, traffic=Traffic("flights", "1", revision=revision + 1), expected_traffic_revision=revision
        )

        answers = _race(store, [moved] * 6)

        assert answers.count(None) == 1
        assert len(store.events()) == revision + 1


def test_of_threads_that_start_a_rollout_one_wins_and_the_others_hear_its_name(steps: Any, store: SqlStore) -> None:
    answers = _race(store, [steps.starting(f"r{number}") for number in range(6)])

    active = store.active("flights")
    assert active is not None
    assert answers.count(None) == 1
    assert all(f"rollout {active.id} of version 2 is active" in str(answer) for answer in answers if answer)


def test_of_processes_that_apply_under_one_revision_one_wins(steps: Any, store: SqlStore) -> None:
    steps.start()
    change = steps.opening()
    ready = _fork.Barrier(4)

    def apply() -> None:
        ready.wait(20)
        try:
            store.apply(change)
        except StaleRevisionError:
            os._exit(3)
        os._exit(0)

    children = [_fork.Process(target=apply) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)

    assert sorted(child.exitcode or 0 for child in children) == [0, 3, 3, 3]
    assert store.traffic("flights") == change.traffic


def test_a_store_goes_on_in_both_processes_after_a_fork(steps: Any, store: SqlStore) -> None:
    steps.start()
    change = steps.opening()
    session = _session(store)  # it is in the pool now, and the child inherits it

    code = _in_child(lambda: store.apply(change))

    assert code == 0
    assert _session(store) == session  # the child has left it alone
    assert store.traffic("flights") == change.traffic
    store.apply(steps.rolling_back())
    assert store.traffic("flights") == Traffic("flights", "1", revision=4)


def test_a_process_killed_in_mid_transaction_leaves_nothing_behind(steps: Any, store: SqlStore) -> None:
    steps.start()
    change = steps.opening()
    before = store.traffic("flights"), store.rollout("r1"), store.events()

    def die_before_the_event() -> None:
        @event.listens_for(sa.Engine, "before_cursor_execute")
        def kill(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("INSERT INTO events"):  # rollout and traffic are written by now
                os.kill(os.getpid(), signal.SIGKILL)

        store.apply(change)

    assert _in_child(die_before_the_event) == -signal.SIGKILL

    assert (store.traffic("flights"), store.rollout("r1"), store.events()) == before
    store.apply(change)  # and its locks are gone
    assert store.traffic("flights") == change.traffic


def test_readers_never_see_half_a_change(steps: Any, store: SqlStore) -> None:
    start = steps.starting("r1")
    assert start.traffic is not None

    def read(_: int) -> set[tuple[int, str | None]]:
        return {(t.revision, t.rollout_id) for _ in range(40) for t in store.all_traffic()}

    with ThreadPoolExecutor(3) as pool:
        reading = pool.map(read, range(2))
        pool.submit(store.apply, start).result(10)
        seen = set().union(*reading)

    assert seen <= {(1, None), (2, "r1")}


def test_processes_that_migrate_at_once_make_one_schema(empty_url: str) -> None:
    ready = _fork.Barrier(4)

    def migrate() -> None:
        ready.wait(20)
        store = SqlStore(empty_url)
        store.migrate()
        store.all_traffic()
        os._exit(0)

    children = [_fork.Process(target=migrate) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)

    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert SqlStore(empty_url).all_traffic() == []
