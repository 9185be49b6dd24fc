"""What a gateway tells the store."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.gateway.reporter import Reporter
from model_rollouts.gateway.shipments import left_behind, try_lock

Until = Callable[..., None]


class Store:
    """Takes steps, or is away, or refuses."""

    def __init__(self) -> None:
        self.taken: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.unreadable = ""
        self.tries = 0

    def open(self) -> "Store":
        self.tries += 1
        if self.error is not None:
            raise self.error
        return self

    @property
    def store(self) -> Any:
        raise NotImplementedError

    def roll_back(self, rollout_id: str, actor: str, reason: str, evidence: Any = None) -> None:
        if rollout_id == self.unreadable:
            raise RuntimeError("its row can't be read")
        self.taken.append(("roll_back", rollout_id, actor, reason, evidence))

    def hold(self, rollout_id: str, stage: int, actor: str, reason: str, evidence: Any) -> None:
        self.taken.append(("hold", rollout_id, stage, actor, reason, evidence))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def reporter(store: Store, tmp_path: Path) -> Iterator[Reporter]:
    reporter = Reporter(store.open, "gateway g1", 0.01, tmp_path / "reports.json")
    reporter.start()
    yield reporter
    reporter.stop()


def test_a_report_reaches_the_store_once(reporter: Reporter, store: Store, until: Until) -> None:
    reporter.roll_back("r1", "broken", {"n": 1})
    until(lambda: reporter.waiting == 0)
    assert store.taken == [("roll_back", "r1", "gateway g1", "broken", {"n": 1})]


def test_it_is_told_again_until_the_store_is_back(reporter: Reporter, store: Store, until: Until) -> None:
    store.error = ConnectionError("away")
    reporter.hold("r1", 2, "not logged", {})
    reporter.hold("r1", 2, "not logged again", {})
    reporter.roll_back("r1", "broken", {})
    until(lambda: store.tries > 3)
    assert (store.taken, reporter.waiting) == ([], 2)
    store.error = None
    until(lambda: reporter.waiting == 0)
    assert {step[:3] for step in store.taken} == {("hold", "r1", 2), ("roll_back", "r1", "gateway g1")}
    assert len(store.taken) == 2


def test_a_rollout_that_has_moved_on_is_left_alone(reporter: Reporter, store: Store, until: Until) -> None:
    store.error = IllegalTransitionError("r1 has ended")
    reporter.roll_back("r1", "broken", {})
    until(lambda: reporter.waiting == 0)
    assert (store.taken, store.tries) == ([], 1)


def test_a_report_that_fails_for_itself_holds_up_no_other(reporter: Reporter, store: Store, until: Until) -> None:
    store.unreadable = "r1"
    reporter.roll_back("r1", "broken", {})
    reporter.roll_back("r2", "broken", {})
    reporter.hold("r3", 0, "not logged", {})
    until(lambda: len(store.taken) == 2)
    assert [step[1] for step in store.taken] == ["r2", "r3"]
    tries = store.tries
    until(lambda: store.tries > tries + 2)
    assert reporter.waiting == 1
    store.unreadable = ""
    until(lambda: reporter.waiting == 0)
    assert [step[1] for step in store.taken] == ["r2", "r3", "r1"]


def test_stopping_tells_what_waits_whenever_it_would_have_been_due(store: Store, tmp_path: Path, until: Until) -> None:
    reporter = Reporter(store.open, "gateway g1", 600, tmp_path / "reports.json")
    reporter.start()
    store.error = ConnectionError("away")
    reporter.roll_back("r1", "broken", {})
    until(lambda: store.tries == 1)
    store.error = None
    reporter.hold("r2", 0, "not logged", {})
    reporter.stop()
    assert {step[1] for step in store.taken} == {"r1", "r2"}
    assert reporter.waiting == 0


def test_stopping_is_bounded_while_the_store_hangs(tmp_path: Path) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> Store:
        hangs.set()
        goes_on.wait(60)
        return Store()

    reporter = Reporter(hang, "gateway g1", 0.01, tmp_path / "reports.json")
    reporter.start()
    reporter.roll_back("r1", "broken", {})
    assert hangs.wait(5)
    began = time.monotonic()
    reporter.stop(0.1)
    assert time.monotonic() - began < 2
    goes_on.set()


_KILLED = """
import os, signal, sys
from pathlib import Path
from model_rollouts.gateway.reporter import Reporter
from model_rollouts.gateway.shipments import left_behind, try_lock

def away():
    raise ConnectionError("away")

reporter = Reporter(away, "gateway g1", 600, Path(sys.argv[1]))
reporter.start()
reporter.hold("r1", 2, "not logged", {"n": 1})
reporter.roll_back("r2", "broken", {"n": 2})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_could_not_tell_is_told_at_the_next_start(
    store: Store, tmp_path: Path, until: Until
) -> None:
    file = tmp_path / "reports.json"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(file)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    for taken in (2, 0):  # and once alone
        store.taken.clear()
        reporter = Reporter(store.open, "gateway g1", 0.01, file)
        reporter.start()
        until(lambda reporter=reporter: reporter.waiting == 0)  # type: ignore[misc]
        reporter.stop()
        assert len(store.taken) == taken
        if taken:
            assert store.taken[0] == ("hold", "r1", 2, "gateway g1", "not logged", {"n": 1})
            assert store.taken[1] == ("roll_back", "r2", "gateway g1", "broken", {"n": 2})


def test_a_report_from_before_the_start_costs_none_of_those_that_were_kept(
    store: Store, tmp_path: Path, until: Until
) -> None:
    file = tmp_path / "reports.json"
    file.write_text('[{"rollout_id":"r1","stage":null,"reason":"broken","evidence":{}}]')
    reporter = Reporter(store.open, "gateway g1", 0.01, file)
    reporter.roll_back("r2", "broken", {})
    reporter.start()
    until(lambda: reporter.waiting == 0)
    reporter.stop()
    assert [step[1] for step in store.taken] == ["r1", "r2"]


def test_without_a_place_to_keep_them_reports_are_told_all_the_same(store: Store, tmp_path: Path, until: Until) -> None:
    (tmp_path / "damaged.json").write_text("[{")
    for file in (tmp_path / "damaged.json", tmp_path / "none" / "reports.json"):
        reporter = Reporter(store.open, "gateway g1", 0.01, file)
        reporter.start()
        reporter.roll_back(file.name, "broken", {})
        until(lambda reporter=reporter: reporter.waiting == 0)  # type: ignore[misc]
        reporter.stop()
    assert [step[1] for step in store.taken] == ["damaged.json", "reports.json"]


def test_what_an_id_that_does_not_come_back_could_not_tell_is_told_by_another(
    store: Store, tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_rollouts.gateway.reporter._LOOK_SECONDS", 0.05)
    files = {name: tmp_path / name / "reports.json" for name in ("dead", "alive", "sibling", "g1")}
    for name, file in files.items():
        file.parent.mkdir()
        if name != "g1":
            other = Reporter(Store().open, f"gateway {name}", 60.0, file)
            other._steps = None  # type: ignore[assignment]  # it can't tell
            other.start()
            other.roll_back(f"of-{name}", "it failed", {"failures": 10})
            other.stop()
            assert file.stat().st_size > 50
    alive = try_lock(tmp_path / "alive")
    assert alive is not None
    others = partial(left_behind, tmp_path, {"g1", "sibling"}, "reports.json")
    reporter = Reporter(store.open, "gateway g1", 0.01, files["g1"], others)
    try:
        reporter.start()
        until(lambda: store.taken == [("roll_back", "of-dead", "gateway g1", "it failed", {"failures": 10})])
        until(lambda: not files["dead"].exists())
        assert files["alive"].exists()
        os.close(alive)  # it dies, too
        until(lambda: [taken[1] for taken in store.taken] == ["of-dead", "of-alive"])
        assert files["sibling"].exists(), "that one will be started again"
    finally:
        reporter.stop()


def test_reports_are_not_removed_before_they_are_safe(store: Store, tmp_path: Path, until: Until) -> None:
    left = tmp_path / "dead" / "reports.json"
    left.parent.mkdir()
    left.write_text('[{"rollout_id": "r", "stage": null, "reason": "it failed", "evidence": {}}]')
    broken = tmp_path / "broken" / "reports.json"
    broken.parent.mkdir()
    broken.write_text("[{")
    others = partial(left_behind, tmp_path, {"g1"}, "reports.json")
    reporter = Reporter(store.open, "gateway g1", 0.01, tmp_path / "no folder" / "reports.json", others)
    reporter.start()
    until(lambda: [taken[1] for taken in store.taken] == ["r"])
    reporter.stop()
    assert left.exists()
    assert broken.exists(), "somebody has to look at it"
