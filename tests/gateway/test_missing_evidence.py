"""A stage with answers that are not in the log is held."""

from pathlib import Path
from typing import Any

import pytest

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.missing_evidence import MissingEvidence


class Stage:
    """Traffic, a clock, and who is told."""

    def __init__(self) -> None:
        self.traffic: Traffic | None = Traffic("m", "1", "2", 5.0, rollout_id="r1", stage=0, salt="s")
        self.now = 100.0
        self.held: list[tuple[Any, ...]] = []
        self.missing = MissingEvidence(lambda _: self.traffic, lambda *held: self.held.append(held), lambda: self.now)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_the_stage_is_held_with_what_is_missing(stage: Stage) -> None:
    stage.missing.unlogged("m", 3, "the disk is full")
    ((rollout, number, reason, evidence),) = stage.held
    assert (rollout, number) == ("r1", 0)
    assert "3 answered rows of m are not in the log" in reason
    assert "the disk is full" in reason
    assert evidence == {"unlogged": {"rows": 3, "stage": 0, "reason": "the disk is full"}}


def test_a_flood_is_told_once_a_second_with_its_sum(stage: Stage) -> None:
    for _ in range(50):
        stage.missing.unlogged("m", 2, "full")
    assert len(stage.held) == 1
    stage.now += 1.0
    stage.missing.unlogged("m", 1, "full")
    assert [held[3]["unlogged"]["rows"] for held in stage.held] == [2, 101]


def test_another_stage_is_held_at_once(stage: Stage) -> None:
    stage.missing.unlogged("m", 1, "full")
    stage.traffic = Traffic("m", "1", "2", 25.0, rollout_id="r1", stage=1, salt="s")
    stage.missing.unlogged("m", 1, "full")
    assert [held[:2] for held in stage.held] == [("r1", 0), ("r1", 1)]


@pytest.mark.parametrize("traffic", [None, Traffic("m", "1"), Traffic("m", "1", "2", rollout_id="r1")])
def test_without_an_open_stage_nobody_is_judged(stage: Stage, traffic: Traffic | None) -> None:
    stage.traffic = traffic
    stage.missing.unlogged("m", 1, "full")
    assert stage.held == []


def test_the_store_holds_the_stage(tmp_path: Path) -> None:
    """With the real store: nothing expands until a person resumes it."""
    from bench.serving import Mover
    from bench.switch import SWITCH
    from model_rollouts.adapters.sql_store import SqlStore
    from model_rollouts.core import rollout as steps
    from model_rollouts.core.rollout import EventKind, State
    from model_rollouts.gateway.reporter import Reporter
    from model_rollouts.service import RolloutService

    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    mover = Mover(store)
    store.apply(steps.adopt(mover.model, "1", mover.cause("adopted")))
    mover.start(SWITCH, "2")
    mover.open()
    nowhere: Any = None  # no registry and no log: neither is needed
    service = RolloutService(store, nowhere, evidence=store, log=nowhere)
    reporter = Reporter(lambda: service, "gateway g1", 0.01, tmp_path / "reports.json")
    reporter.start()
    MissingEvidence(lambda _: store.traffic(mover.model), reporter.hold).unlogged(mover.model, 7, "full")
    while reporter.waiting:
        pass
    reporter.stop()
    assert store.rollout(mover.rollout_id).state is State.HOLDING
    event = store.events(rollout_id=mover.rollout_id)[-1]
    assert (event.kind, event.actor) == (EventKind.HELD, "gateway g1")
    assert event.evidence["unlogged"]["rows"] == 7
    store.close()


def test_what_an_earlier_stage_misses_holds_the_stage_that_is_open_and_nothing_that_has_ended(tmp_path: Path) -> None:
    from bench.serving import Mover
    from model_rollouts.adapters.sql_store import SqlStore
    from model_rollouts.core import rollout as steps
    from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
    from model_rollouts.core.rollout import State
    from model_rollouts.gateway.reporter import Reporter
    from model_rollouts.service import RolloutService

    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    mover = Mover(store)
    store.apply(steps.adopt(mover.model, "1", mover.cause("adopted")))
    mover.start(plan_canary(CanaryParameters(steps=(5, 50, 100), control_percent=5)), "2")
    nowhere: Any = None
    service = RolloutService(store, nowhere, evidence=store, log=nowhere)
    rollout_id = mover.rollout_id
    service.open_stage(rollout_id, 0, "t")
    service.clear(rollout_id, 0, "t", "test", {})
    service.open_stage(rollout_id, 1, "t")

    def told() -> None:
        reporter = Reporter(lambda: service, "gateway g1", 600, tmp_path / "reports.json")
        reporter.start()
        reporter.hold(rollout_id, 0, "7 rows are missing", {"unlogged": {"rows": 7, "stage": 0}})
        reporter.stop(30)
        assert reporter.waiting == 0

    told()
    held = store.rollout(rollout_id)
    assert (held.state, held.stage) == (State.HOLDING, 1)
    event = store.events(rollout_id=rollout_id)[-1]
    assert (event.stage, event.reason) == (1, "of stage 0: 7 rows are missing")
    assert event.evidence["unlogged"]["rows"] == 7
    told()
    assert store.rollout(rollout_id).revision == held.revision, "it is held already"

    service.roll_back(rollout_id, "t", "test")
    ended = store.rollout(rollout_id)
    told()
    assert store.rollout(rollout_id) == ended
    store.close()
