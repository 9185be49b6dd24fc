"""What is undone with a model, over a real store: what is on record, whatever ends a step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.core import rollout as steps
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import DataRollbackError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, Event, EventKind
from model_rollouts.data_rollbacks import DataRollbacks
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
        self.service = Wiring(settings).service
        self.store: Any = self.service.store
        self.store.migrate()
        cause = Cause("test", datetime.now(UTC), "as planned")
        self.store.apply(steps.adopt("flights", "1", cause))
        plan = replace(plan_canary(CanaryParameters(steps=(5, 100))), data_rollback=STEPS)
        self.store.apply(steps.start("r1", plan, "2", "salt", self.store.traffic("flights"), cause))
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
