"""Watches of several rollouts in one event loop, on a real store and a real log."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.replay.past import Registry

from bench.watch_world import Traffic
from model_rollouts import wiring
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Rollout
from model_rollouts.service import RolloutService
from model_rollouts.triggers.watch import WatchTrigger

LOOK = 1.5
PLAN = plan_canary(
    CanaryParameters(
        steps=(20, 100),
        look_seconds=LOOK,
        grace_seconds=0.25,
        label_maturity_seconds=60,
        bake_seconds=3000,
        deadline_seconds=7200,
    )
)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """Three rollouts whose stage has just opened, with minutes of requests each."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    for name, value in (("STORE_URL", url), ("LOG_DIR", tmp_path / "log"), ("SCRATCH_DIR", tmp_path / "scratch")):
        monkeypatch.setenv(f"MODEL_ROLLOUTS_{name}", str(value))
    parts = wiring.Wiring()
    parts.__dict__["gateway"] = SimpleNamespace(backlog=lambda model: {"stand-in": 0.0})
    monkeypatch.setattr(wiring, "shared", lambda: parts)
    store = SqlStore(url)
    store.migrate()
    service = RolloutService(store, Registry(), evidence=store, log=wiring.shared().log)
    for number in range(3):
        service.start(f"r{number}", f"m{number}", "2", PLAN, "test", "watched")
    made = [service.open_stage(f"r{number}", 0, "test") for number in range(3)]
    traffic = Traffic(tmp_path / "log", made)
    for number, rollout in enumerate(made):
        assert rollout.opened_at is not None
        for minute in range(3):
            traffic.commit(number, rollout.opened_at + timedelta(minutes=minute), 60.0)
    store.close()
    return made


async def _fired(rollout: Rollout) -> dict[str, Any]:
    async for event in WatchTrigger(rollout.id, 0, poll_seconds=0.5).run():
        return dict(event.payload)
    raise AssertionError("it ended without an event")


def test_looks_are_made_once_each_when_they_are_due_until_somebody_ends_the_rollout(watched: list[Rollout]) -> None:
    store, service = wiring.shared().store, wiring.shared().service

    async def watch() -> list[dict[str, Any]]:
        tasks = [asyncio.create_task(_fired(rollout)) for rollout in watched]
        until = time.monotonic() + 60
        while min(len(store.looks(rollout.id)) for rollout in watched) < 2:
            assert time.monotonic() < until, [len(store.looks(rollout.id)) for rollout in watched]
            assert not any(task.done() for task in tasks)
            await asyncio.sleep(0.1)
        for rollout in watched:
            service.roll_back(rollout.id, "somebody", "enough")
        return await asyncio.wait_for(asyncio.gather(*tasks), 30)  # seen long before the next look would tell

    assert asyncio.run(watch()) == [{"ended": "rolled_back", "stage": 0}] * 3
    for rollout in watched:
        looks = store.looks(rollout.id)
        assert [look.index for look in looks] == list(range(len(looks)))
        assert all(look.champion.requests > 0 for look in looks)
        assert rollout.opened_at is not None
        last = rollout.opened_at + timedelta(seconds=len(looks) * LOOK + 0.25)
        assert last <= datetime.now(UTC)  # none was made before its time
