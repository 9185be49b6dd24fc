"""What is undone with a model, over a real store: what is on record, whatever ends a step."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.core import rollout as steps
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import DataRollbackError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, Event, EventKind, State
from model_rollouts.data_rollbacks import DataRollbacks
from model_rollouts.reconcile import Reconciler
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

STEPS = tuple(DataRollback(DataRollbackKind.CALLABLE, f"shop.undo:{name}", timeout_seconds=60) for name in "ab")


class StandIn:
    """Undoes nothing, and writes down that it was asked."""

    def __init__(self, does: Callable[[DataRollback], None] = lambda _: None) -> None:
        self.asked: list[str] = []
        self.does = does

    def pin(self, step: DataRollback) -> DataRollback:
        return step

    def undo(self, step: DataRollback, rollout: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(step.target)
        self.does(step)
        return {"detail": f"{step.target} is done"}


class Desk:
    """A rollout that was rolled back, with two steps of data to undo."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(
            store_url=f"sqlite:///{folder / 'store.db'}",
            log_dir=folder / "log",
            mlflow_tracking_uri="http://127.0.0.1:9",
        )
        parts = Wiring(settings)
        self.service, self.store = parts.service, parts.store
        self.store.migrate()
        cause = Cause("test", datetime.now(UTC), "as planned")
        self.store.apply(steps.adopt("flights", "1", cause))
        plan = replace(plan_canary(CanaryParameters(steps=(5, 100))), data_rollback=STEPS)
        traffic = self.store.traffic("flights")
        assert traffic is not None
        self.store.apply(steps.start("r1", plan, "2", "salt", traffic, cause))
        self.service.roll_back("r1", "anna", "worse")

    def events(self) -> list[Event]:
        """Since the traffic was rolled back."""
        return [event for event in self.store.events(rollout_id="r1") if event.kind.value.startswith("data_")]

    def told(self) -> list[tuple[EventKind, int, str]]:
        return [(event.kind, event.evidence["position"], event.actor) for event in self.events()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def raises(error: BaseException) -> Callable[[DataRollback], None]:
    def fail(step: DataRollback) -> None:
        raise error

    return fail


class Broken(BaseException):
    """As Airflow's own time limit ends a task."""


@pytest.mark.parametrize("error", [Broken("Timeout"), KeyboardInterrupt(), SystemExit(1)])
def test_a_step_that_is_broken_off_is_on_record_as_failed_and_the_task_is_ended_all_the_same(
    desk: Desk, error: BaseException
) -> None:
    undo = StandIn(raises(error))
    with pytest.raises(type(error)):
        DataRollbacks(desk.service, undo).run("r1", "anna")
    assert undo.asked == ["shop.undo:a"]
    assert desk.told()[-1] == (EventKind.DATA_ROLLBACK_FAILED, 0, "anna")
    assert type(error).__name__ in desk.events()[-1].reason


def test_a_step_that_fails_is_told_and_nothing_after_it_is_done_until_it_is_tried_again(desk: Desk) -> None:
    undo = StandIn(raises(ValueError("no such rows")))
    with pytest.raises(DataRollbackError, match="ValueError: no such rows; 2 of 2 steps are left"):
        DataRollbacks(desk.service, undo).run("r1", "anna")
    assert undo.asked == ["shop.undo:a"]
    results = DataRollbacks(desk.service, StandIn()).run("r1", "ben")
    assert [result["detail"] for result in results] == ["shop.undo:a is done", "shop.undo:b is done"]
    assert DataRollbacks(desk.service, StandIn()).run("r1", "ben") == []


# --- one at a time


class Clock:
    """Time that passes when somebody waits, who first lets the others do something."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.now = datetime.now(UTC)
        self.began = self.now
        self.meanwhile = meanwhile

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.meanwhile()

    @property
    def waited(self) -> float:
        return (self.now - self.began).total_seconds()


def waiting(desk: Desk, undo: StandIn, clock: Clock) -> DataRollbacks:
    return DataRollbacks(desk.service, undo, clock, clock.wait)


class Busy:
    """Somebody who is at the first step until they are let go."""

    def __init__(self, desk: Desk, ends: BaseException | None = None) -> None:
        self.undo = StandIn(self._hold)
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.ends = ends
        self.pool = ThreadPoolExecutor(1)
        self.done = self.pool.submit(DataRollbacks(desk.service, self.undo).run, "r1", "dag")
        assert self.inside.wait(20)

    def _hold(self, step: DataRollback) -> None:
        self.inside.set()
        assert self.go_on.wait(20)
        if self.ends is not None:
            raise self.ends

    def let_go(self) -> None:
        """And wait for their end."""
        self.go_on.set()
        self.done.exception(20)
        self.pool.shutdown()


def test_who_comes_while_a_step_runs_waits_for_its_end_and_takes_its_result(desk: Desk) -> None:
    busy, mine = Busy(desk), StandIn()
    results = waiting(desk, mine, Clock(busy.let_go)).run("r1", "anna")
    assert (busy.undo.asked, mine.asked) == (["shop.undo:a", "shop.undo:b"], [])
    assert results == busy.done.result()
    began, ended = EventKind.DATA_ROLLBACK_BEGAN, EventKind.DATA_ROLLED_BACK
    assert desk.told() == [(began, 0, "dag"), (ended, 0, "dag"), (began, 1, "dag"), (ended, 1, "dag")]
    assert desk.events()[0].evidence["step"]["timeout_seconds"] == 60


def test_what_fails_for_the_other_is_not_begun_again_by_who_waited(desk: Desk) -> None:
    busy, mine = Busy(desk, ValueError("no such rows")), StandIn()
    with pytest.raises(DataRollbackError, match=r"begun by dag: .* failed: ValueError: no such rows; 2 of 2 steps"):
        waiting(desk, mine, Clock(busy.let_go)).run("r1", "anna")
    assert mine.asked == []
    assert [kind for kind, _, _ in desk.told()].count(EventKind.DATA_ROLLBACK_FAILED) == 1
    assert len(waiting(desk, mine, Clock()).run("r1", "anna")) == 2  # asked again, it is tried again at once
    assert mine.asked == ["shop.undo:a", "shop.undo:b"]


def test_a_step_whose_process_died_is_taken_over_once_its_time_is_up(desk: Desk) -> None:
    busy, mine, clock = Busy(desk), StandIn(), Clock()
    results = waiting(desk, mine, clock).run("r1", "anna")
    assert mine.asked == ["shop.undo:a", "shop.undo:b"]
    assert len(results) == 2
    assert 60 <= clock.waited <= 180
    busy.let_go()


def test_of_many_that_begin_at_once_one_does(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the others have read the record before it says so."""
    together = threading.Barrier(4)
    events = desk.store.events
    first = threading.local()

    def read(**asked: Any) -> list[Event]:
        found: list[Event] = events(**asked)
        reads = first.reads = getattr(first, "reads", 0) + 1
        if reads == 2:  # the first says what is left; the second, what is begun
            together.wait(20)
        return found

    monkeypatch.setattr(desk.store, "events", read)
    undo = StandIn()
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(DataRollbacks(desk.service, undo, wait=lambda _: threading.Event().wait(0.01)).run, "r1", name)
            for name in ("anna", "ben", "carla", "dag")
        ]
        results = [run.result(60) for run in runs]
    monkeypatch.undo()
    assert sorted(undo.asked) == ["shop.undo:a", "shop.undo:b"]
    assert results == [results[0]] * 4
    assert [kind for kind, _, _ in desk.told()].count(EventKind.DATA_ROLLBACK_BEGAN) == 2


def test_a_claim_leaves_the_traffic_alone(desk: Desk) -> None:
    before = desk.store.traffic("flights")
    DataRollbacks(desk.service, StandIn()).run("r1", "anna")
    assert desk.store.traffic("flights") == before
    assert desk.store.rollout("r1").state is State.ROLLED_BACK


def test_data_that_somebody_is_at_is_not_reported_as_left(desk: Desk) -> None:
    def found() -> list[str]:
        gateways: Any = None
        reconciler = Reconciler(desk.service, gateways, lambda dag_id, run_id: None, "reconcile")
        return [finding.what for finding in reconciler._data("flights")]

    assert len(found()) == 1
    busy = Busy(desk)
    assert found() == []
    busy.let_go()
    assert found() == []
