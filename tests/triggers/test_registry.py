import asyncio
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.triggers.base import BaseEventTrigger

from model_rollouts import wiring
from model_rollouts.adapters.sql_registry_changes import SqlRegistryChanges
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.registry_snapshot import Snapshot
from model_rollouts.registry_watch import RegistryWatch
from model_rollouts.triggers import registry
from model_rollouts.triggers.registry import RegistryTrigger

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("poll_seconds", [None, 2.5])
def test_serialize_gives_exactly_what_makes_the_trigger_again(poll_seconds):
    path, arguments = RegistryTrigger(poll_seconds).serialize()

    assert path == f"{RegistryTrigger.__module__}.{RegistryTrigger.__qualname__}"
    assert arguments == {"poll_seconds": poll_seconds}
    assert RegistryTrigger(**arguments).serialize() == (path, arguments)


def test_airflow_takes_it_as_a_watcher_and_knows_it_again():
    path, arguments = RegistryTrigger().serialize()

    assert isinstance(RegistryTrigger(), BaseEventTrigger)
    assert BaseEventTrigger.hash(path, arguments) == BaseEventTrigger.hash(path, dict(arguments))


def fired(monkeypatch, looks, count, again_seconds=60.0):
    """The first events of a trigger that looks as told."""
    found = iter(looks)
    monkeypatch.setattr(registry, "look_once", lambda: next(found))
    monkeypatch.setattr(registry, "_AGAIN_SECONDS", again_seconds)

    async def collect():
        events = []
        async for event in RegistryTrigger(0.001).run():
            events.append(event.payload)
            if len(events) == count:
                return events
        return events

    return asyncio.run(asyncio.wait_for(collect(), timeout=10))


def test_fires_once_for_changes_that_wait_and_again_when_there_are_others(monkeypatch):
    looks = [(), (1,), (1,), (1,), (1, 2), (), (3,)]

    events = fired(monkeypatch, looks, 3)

    assert events == [{"changes": [1]}, {"changes": [1, 2]}, {"changes": [3]}]


def test_tells_again_of_changes_that_nobody_handles(monkeypatch):
    assert fired(monkeypatch, [(1,)] * 5, 2, again_seconds=0.0) == [{"changes": [1]}] * 2


def test_looking_does_not_block_the_event_loop(monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(registry, "look_once", lambda: (7,) if gate.wait(5) else ())

    async def main():
        events = RegistryTrigger(0.01).run()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        gate.set()  # only reached while look_once waits in its thread
        event = await asyncio.wait_for(first, 5)
        await events.aclose()
        return event.payload

    assert asyncio.run(main()) == {"changes": [7]}


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """A real store; the registry is what the test puts into it, or an error."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    SqlStore(url).migrate()
    box = SimpleNamespace(answer={})

    def snapshots(models=None):
        if isinstance(box.answer, Exception):
            raise box.answer
        return box.answer

    watch = RegistryWatch(SimpleNamespace(snapshots=snapshots), SqlRegistryChanges(url), SqlStore(url))
    monkeypatch.setattr(wiring, "shared", lambda: SimpleNamespace(registry_watch=watch))
    return box


def test_a_look_gives_the_changes_that_wait_also_while_the_registry_is_away(watched):
    watched.answer = {"m": Snapshot("m", AT, champion="1")}
    assert registry.look_once() == ()
    watched.answer = {"m": Snapshot("m", AT, champion="1", challenger="2")}
    found = registry.look_once()
    watched.answer = NotReadyError("away")

    assert len(found) == 1
    assert registry.look_once() == found


def test_a_store_that_is_away_is_asked_again(monkeypatch):
    def away():
        raise ConnectionError("the store is away")

    monkeypatch.setattr(wiring, "shared", away)

    assert registry.look_once() == ()


def test_the_time_between_looks_is_a_setting(monkeypatch):
    monkeypatch.setattr(wiring, "shared", lambda: SimpleNamespace(settings=SimpleNamespace(registry_poll_seconds=3.5)))

    assert registry._poll_seconds() == 3.5
