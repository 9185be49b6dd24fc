"""Drift of what serves, over all rows of a real log."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.log_kinds import damage

from model_rollouts.adapters.delta_drift import DeltaDriftLog
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.adapters.monitoring_drift import LiveDrift, Served, live_drift
from model_rollouts.core.monitoring_limits import Drift
from model_rollouts.operators.monitoring import drift_plan_of

DAY = timedelta(days=1)
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
WINDOW = (NOW - timedelta(hours=1), NOW)
BEFORE = (WINDOW[0] - DAY, WINDOW[1] - DAY)


def rows(window: tuple[datetime, datetime], n: int, *, version: str = "3", **law: Any) -> list[dict[str, Any]]:
    dice = random.Random(f"{window}{version}")
    made = []
    for at in range(n):
        features = {"x": dice.gauss(law.get("shift", 0), 1), "c": dice.choice(law.get("carriers", ["UA", "AA"]))}
        features |= {name: value(dice) for name, value in law.get("more", {}).items()}
        made.append(
            {"request_id": f"{window[0]:%d}-{version}-{at}", "ts": window[0] + at * (window[1] - window[0]) / n,
             "model": "m", "version": version, "arm": "champion", "cohort": None, "served": True, "rollout_id": None,
             "stage": None, "status": "ok", "latency_ms": 1.0, "prediction": dice.choice("01"), "score": None,
             "gateway_id": "g1", "traffic_revision": 1, "features": features}
        )  # fmt: skip
    return made


class Bench:
    def __init__(self, root: LogRoot, out: Path) -> None:
        self.root, self.out, self._version = root, out, 0

    def write(self, *args: Any, **law: Any) -> None:
        self._version += 1
        assert log_appender(self.root, "g1").append("m", "predictions", rows(*args, **law), self._version)

    def drift(self, reference: str = "3", ignored: tuple[str, ...] = ()) -> LiveDrift:
        log, served = DeltaDriftLog(self.root), (Served("3", WINDOW), Served(reference, BEFORE))
        plan = drift_plan_of({"level": 0.999, "ignored_columns": ignored})
        return live_drift(log, "m", *served, plan, self.out)


@pytest.fixture
def bench(log_root: LogRoot, tmp_path: Path) -> Bench:
    return Bench(log_root, tmp_path / "out")


def test_the_same_is_no_drift_and_the_files_have_all_rows(bench: Bench) -> None:
    for window in (BEFORE, WINDOW):
        bench.write(window, 900)
        bench.write(window, 50, version="2", shift=9)  # another version's
    found = bench.drift()
    assert found.drift == Drift(True, 0, 3, "0 of 3 columns drifted")  # no version gives a score
    assert found.metrics["drift_share"] == 0
    told = json.loads(found.files[0].read_text())
    assert told["rows"] == [900, 900]
    assert told["without_values"] == ["score"]
    assert set(told["sample"]["evidently"]) == {"f_x", "f_c", "prediction"}
    assert "900 rows of the reference" in found.files[1].read_text()


def test_what_moved_is_named(bench: Bench) -> None:
    bench.write(BEFORE, 900)
    bench.write(WINDOW, 900, shift=1.0, carriers=["UA", "UA", "UA", "DL"])
    found = bench.drift()
    assert (found.drift.computed, found.drift.drifted, found.drift.columns) == (True, 2, 3)
    assert "f_x (psi" in found.drift.detail
    assert "f_c (psi" in found.drift.detail
    assert found.metrics["drift_share"] == pytest.approx(2 / 3)


def test_drift_in_rows_that_no_sample_has_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_rollouts.adapters.monitoring_drift.SAMPLE_ROWS", 40)
    bench.write(BEFORE, 3_000)
    bench.write(WINDOW, 3_000, more={"c": lambda dice: None if dice.random() < 0.13 else dice.choice(["UA", "AA"])})
    found = bench.drift()
    assert (found.drift.computed, found.drift.drifted) == (True, 1)
    assert "f_c (missing 0.1" in found.drift.detail


@pytest.mark.parametrize("n", [0, 29])
def test_too_few_are_not_no_drift(bench: Bench, n: int) -> None:
    bench.write(WINDOW, 900)
    if n:
        bench.write(BEFORE, n)
    found = bench.drift()
    assert not found.drift.computed
    assert found.metrics["drift_share"] is None
    assert f"{n} values in the {n} rows of the reference, needed 30" in found.drift.detail


def free_text(dice: random.Random) -> str:
    return f"note {dice.random()}"


def test_a_free_text_is_told_once_and_hides_no_drift(bench: Bench) -> None:
    texts = {"note": free_text, "order": free_text}
    bench.write(BEFORE, 900, more=texts)
    bench.write(WINDOW, 900, shift=1.0, carriers=["UA", "UA", "UA", "DL"], more=texts)
    found = bench.drift()
    assert (found.drift.computed, found.drift.drifted, found.drift.columns) == (False, 2, 3)
    assert found.metrics["drift_share"] == pytest.approx(2 / 3)
    assert found.drift.detail.startswith("2 of 3 columns that can be told of drifted; f_c (psi")
    assert found.drift.detail.count("too many different values") == 1
    assert "not known of f_note, f_order (it has too many different values" in found.drift.detail
    assert "name f_note, f_order in ignored_columns to leave out" in found.drift.detail
    assert "drift, and not known of every column" in found.files[1].read_text()


def test_a_free_text_alone_is_not_known_until_a_person_leaves_it_out(bench: Bench) -> None:
    for window in (BEFORE, WINDOW):
        bench.write(window, 900, more={"note": free_text})
    found = bench.drift()
    assert (found.drift.computed, found.drift.drifted, found.drift.columns) == (False, 0, 3)
    found = bench.drift(ignored=("f_note",))
    assert found.drift == Drift(True, 0, 3, "0 of 3 columns drifted; ignored: f_note")
    assert json.loads(found.files[0].read_text())["ignored"] == ["f_note"]
    assert "f_note" not in json.loads(found.files[0].read_text())["columns"]
    found = bench.drift(ignored=("f_note", "f_x", "f_c", "prediction", "score"))
    assert (found.drift.computed, found.drift.columns) == (False, 0)
    assert found.drift.detail == "nothing is left to compare: f_c, f_note, f_x, prediction, score are ignored"


def test_a_model_without_rows_has_nothing_to_compare(bench: Bench) -> None:
    found = bench.drift()
    assert (found.drift.computed, found.drift.columns, found.files) == (False, 0, ())


def test_an_input_that_came_since_has_drifted(bench: Bench) -> None:
    bench.write(BEFORE, 300)
    bench.write(WINDOW, 300, more={"new": lambda dice: dice.random()})
    found = bench.drift()
    assert found.drift.drifted == 1  # it has values in all rows, and had in none
    assert "f_new (missing -1, limit 0.1" in found.drift.detail


def test_a_broken_log_is_an_error(bench: Bench) -> None:
    bench.write(WINDOW, 100)
    damage(bench.root, "m", "predictions")
    with pytest.raises(LogReadError):
        bench.drift()
