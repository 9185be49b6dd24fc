"""Which versions are loaded when memory is short: measured on this process, with models that really take it."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import Models, until

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.memory import MB, MemoryLimit, give_back, give_back_everything, resident_bytes
from model_rollouts.gateway.payload import Table

ROOM = 200 * MB
CHAMPION = Traffic("m", "1", revision=1)


class Heavy(Models):
    """A loader of versions that take memory when they are loaded, and more with each call if the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        self.growth: dict[str, int] = {}

    def load(self, model: str, version: str, *, serving: bool) -> Version:
        weights = [np.ones(self.sizes.get(version, 0) // 8)]

        def predict(frame: Any) -> Any:
            weights.append(np.ones(self.growth.get(version, 0) // 8))
            return frame["x"].to_numpy() * 2

        self.predicts[version] = predict
        try:
            return super().load(model, version, serving=serving)
        finally:
            del self.predicts[version]  # the version alone holds its weights


class Running:
    """A follower under a memory limit of ROOM, for what comes on top of what the process holds now."""

    def __init__(self, expected: dict[str, int | None]) -> None:
        give_back_everything()
        before = resident_bytes()
        self.models = Heavy()
        self.row = CHAMPION
        self.evicted: list[tuple[str, str, str]] = []
        self.limit = limit = MemoryLimit(
            ROOM, lambda _, version: expected.get(version), lambda: max(0, resident_bytes() - before)
        )
        self.follower = Follower(
            poll=lambda: [self.row],
            adopt=lambda _: None,
            loader=self.models,
            poll_seconds=0.005,
            retry_seconds=0.02,
            memory=limit,
            on_evicted=lambda *what: self.evicted.append(what),
        )

    def set(self, revision: int, **more: Any) -> None:
        self.row = Traffic("m", "1", revision=revision, rollout_id="r", stage=0, salt="s", **more)
        until(lambda: self.follower.status("m")["revision"] == revision)

    def state(self, version: str) -> str:
        return str(self.follower.status("m")["versions"].get(version))

    def call(self, version: str) -> None:
        loaded = self.follower.version("m", version)
        columns = loaded.reader.signature.columns[:1]  # type: ignore[attr-defined]
        results = asyncio.run(loaded.scorer.score(Table(columns, [[1.0]]), {}, 10.0))
        assert len(results) == 1

    @property
    def loads(self) -> list[str]:
        return [version for version, _ in self.models.loads]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    monkeypatch.setattr("model_rollouts.gateway.scorer._IDLE_SECONDS", 0.2)  # an idle worker holds its version so long
    running: list[Running] = []

    def make(
        sizes: dict[str, int] | None = None, expected: dict[str, int | None] | None = None, row: Traffic = CHAMPION
    ) -> Running:
        one = Running(expected or {})
        one.row = row
        one.models.sizes = sizes or {}
        running.append(one)
        one.follower.start()
        until(lambda: one.follower.follows("m") and one.state("1") == "ready")
        return one

    yield make
    for one in running:
        one.follower.stop()
        one.follower._keeper._thread.join(10)
    running.clear()
    give_back_everything()


@contextmanager
def ballast(size: int) -> Iterator[None]:
    held = np.ones(size // 8)
    yield
    del held
    give_back()


def test_a_version_whose_size_would_pass_the_limit_is_not_loaded(start: Callable[..., Running]) -> None:
    g = start(expected={"2": 2 * ROOM, "3": 10 * MB})
    g.set(2, challenger="2", previous="3")
    until(lambda: g.state("2").startswith("failed: memory: the process holds"))
    assert "and the version takes about 400 MB, must be at most" in g.state("2")
    until(lambda: g.state("3") == "ready")
    assert g.loads == ["1", "3"]


def test_a_champion_is_loaded_whatever_it_takes(start: Callable[..., Running]) -> None:
    g = start(sizes={"2": 2 * ROOM}, expected={"2": 2 * ROOM})
    g.row = Traffic("m", "2", previous="1", revision=2)
    until(lambda: g.follower.status("m")["routed_revision"] == 2)
    assert g.state("2") == "ready"
    until(lambda: g.state("1").startswith("failed: memory: with it the process held"))
    until(lambda: [(model, version) for model, version, _ in g.evicted] == [("m", "1")])


def test_a_version_that_takes_more_than_anybody_knew_does_not_stay(start: Callable[..., Running]) -> None:
    g = start(sizes={"2": 2 * ROOM})
    before = resident_bytes()
    g.set(2, challenger="2", share=50.0)
    until(lambda: g.state("2").startswith("failed: memory: with it the process held"))
    until(lambda: resident_bytes() < before + ROOM)
    assert g.follower.serving("m").challenger is None
    g.set(3, challenger="2", share=50.0)
    until(lambda: "takes about 4" in g.state("2"))
    assert g.loads == ["1", "2"], "what its last load took is known now"


def test_a_challenger_that_grows_is_unloaded_before_the_version_to_go_back_to(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    g = start()
    monkeypatch.setattr("model_rollouts.gateway.scorer._IDLE_SECONDS", 2.5)  # longer than between two looks
    g.set(2, challenger="2", previous="3", share=50.0)
    until(lambda: g.state("3") == "ready" and g.follower.serving("m").challenger is not None)
    g.models.growth["2"] = 60 * MB
    for _ in range(4):
        g.call("2")
    until(lambda: g.state("2").startswith("failed: memory: with it the process held"))
    until(lambda: g.follower.serving("m").challenger is None)  # the champion answers
    assert g.state("3") == "ready"
    assert g.state("1") == "ready"
    until(lambda: len(g.evicted) == 1)
    model, version, reason = g.evicted[0]
    assert (model, version) == ("m", "2")
    assert "must be at most" in reason
    until(lambda: g.limit.resident() < ROOM)

    assert not threading.Event().wait(2.5), "looks at the memory go by, and it does not come back by itself"
    assert g.loads == ["1", "2", "3"]
    assert len(g.evicted) == 1, "the next one waits until the first is gone"
    assert g.state("3") == "ready"
    g.models.growth["2"] = 0
    g.set(3, challenger="2", previous="3", share=50.0)
    until(lambda: g.state("2") == "ready")


def test_what_had_no_room_is_loaded_when_memory_is_back(start: Callable[..., Running]) -> None:
    g = start(expected={"2": 50 * MB})
    with ballast(ROOM):
        g.set(2, challenger="2")
        until(lambda: g.state("2").startswith("failed: memory"))
    until(lambda: g.state("2") == "ready")


class Looped:
    """Something that only the garbage collector finds."""

    def __init__(self, size: int) -> None:
        self.itself = self
        self.weights = np.ones(size // 8)


def test_what_was_out_of_the_collectors_sight_makes_room_for_a_version(start: Callable[..., Running]) -> None:
    g = start(expected={"2": 50 * MB})
    looped = Looped(2 * ROOM)
    gc.freeze()  # as the process does with what is loaded at its start
    del looped
    g.set(2, challenger="2")
    until(lambda: g.state("2") == "ready")
    assert g.limit.resident() < ROOM


def test_memory_that_is_free_already_evicts_nobody(start: Callable[..., Running]) -> None:
    g = start()
    g.set(2, challenger="2", share=50.0)
    until(lambda: g.state("2") == "ready")
    blocks = [bytes(60_000) for _ in range(6000)]
    pin = bytes(60_000)  # above them, so that the C library keeps what was theirs
    assert g.limit.resident() > ROOM
    blocks.clear()
    until(lambda: g.limit.resident() < ROOM)
    assert not threading.Event().wait(3.5), "looks at the memory go by"
    assert (g.state("2"), g.evicted, len(pin)) == ("ready", [], 60_000)


def test_a_moment_above_the_limit_evicts_nobody(start: Callable[..., Running]) -> None:
    g = start()
    g.set(2, challenger="2", share=50.0)
    until(lambda: g.state("2") == "ready")
    keeper = g.follower._keeper
    with ballast(2 * ROOM):
        until(lambda: keeper._looks == 2)
    until(lambda: keeper._looks == 0)
    assert (g.state("2"), g.evicted) == ("ready", [])
    with ballast(2 * ROOM):
        until(lambda: len(g.evicted) == 1)


@pytest.mark.parametrize(("stage", "told"), [(0, ["2"]), (-1, []), (None, [])])
def test_a_start_in_an_open_stage_without_room_for_the_challenger_is_told_once(
    start: Callable[..., Running], stage: int | None, told: list[str]
) -> None:
    more: dict[str, Any] = {"challenger": "2", "share": 50.0, "rollout_id": "r", "stage": stage, "salt": "s"}
    g = start(expected={"2": 2 * ROOM, "3": 0}, row=Traffic("m", "1", revision=5, **more))
    until(lambda: g.state("2").startswith("failed: memory"))
    g.row = Traffic("m", "1", previous="3", revision=6, **more)
    until(lambda: g.state("3") == "ready" and g.state("2").startswith("failed: memory"))
    assert not threading.Event().wait(1.2), "a look goes by"
    assert [version for _, version, _ in g.evicted] == told
    assert all("must be at most" in reason for _, _, reason in g.evicted)


def test_a_champion_that_grows_is_never_unloaded(start: Callable[..., Running]) -> None:
    g = start()
    g.models.growth["1"] = 2 * ROOM
    g.call("1")
    assert not threading.Event().wait(2.5), "looks at the memory go by"
    assert g.state("1") == "ready"
    assert g.evicted == []


def test_a_listener_that_fails_does_not_end_the_loading(start: Callable[..., Running]) -> None:
    g = start()

    def fail(*_: str) -> None:
        raise RuntimeError("no events today")

    g.follower._keeper._on_evicted = fail
    g.set(2, challenger="2")
    until(lambda: g.state("2") == "ready")
    g.models.growth["2"] = 2 * ROOM
    g.call("2")
    until(lambda: g.state("2").startswith("failed: memory"))
    g.set(3, challenger="4")
    until(lambda: g.state("4") == "ready")
