"""Columns of the log in counts, beside counting them one by one."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.adapters.log_kinds import damage

from model_rollouts.adapters import delta_drift
from model_rollouts.adapters.delta_drift import DeltaDriftLog, bins_of
from model_rollouts.adapters.delta_drift_queries import PARTS, Bins, is_number
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import EngineLog, LogRoot, log_appender
from model_rollouts.adapters.postgres_engine import PostgresEngine
from model_rollouts.adapters.postgres_log import PostgresLog
from model_rollouts.core.profile import LARGEST, Grid
from model_rollouts.training_profile import profile_frame

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = (START, START + timedelta(hours=1))
ODD = 'a "quoted" ü {x}'
GRID = Grid(0.1, 0.7)


def row(number: int, arm: str, features: dict[str, Any], /, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": f"r{number}", "ts": START + timedelta(seconds=number % 3_000), "model": "delays",
        "version": "3" if arm == "champion" else "4", "arm": arm, "cohort": arm, "served": True, "rollout_id": "ro",
        "stage": 1, "status": "ok", "latency_ms": 3.5, "prediction": str(number % 3), "score": 0.5,
        "gateway_id": "g1", "traffic_revision": 2, "features": features,
    } | changes  # fmt: skip


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Evidence of both arms with odd values, and rows that are none."""
    rng = np.random.default_rng(5)
    odd = [None, math.nan, math.inf, -math.inf, 1e101, -1e101, LARGEST, 0.0, -0.0, 0.1, 1e-300, 1e17]
    made = []
    for at in range(400):
        number = odd[at] if at < len(odd) else float(rng.normal(0, 10 ** rng.uniform(-3, 6)))
        text = None if at % 7 == 0 else [ODD, "UA", "AA", f"id-{at}"][at % 4]
        arm = ("champion", "challenger")[at % 2]
        made.append(row(at, arm, {"x": number, ODD: text}))
    others = [{"cohort": None}, {"rollout_id": "other"}, {"stage": 0}, {"ts": START - timedelta(microseconds=1)},
        {"ts": WINDOW[1]}]  # fmt: skip
    return made + [row(1_000 + at, "champion", {"x": 5.0, ODD: "UA"}, **each) for at, each in enumerate(others)]


@pytest.fixture
def log(log_root: LogRoot, rows: list[dict[str, Any]]) -> DeltaDriftLog:
    assert log_appender(log_root, "g1").append("delays", "predictions", rows, 1)
    return DeltaDriftLog(log_root)


BINS: dict[str, Bins] = {
    "f_x": GRID, f"f_{ODD}": (ODD, "UA", "never"), "prediction": ("0", "1"), "score": Grid(0.5, 1.0),
}  # fmt: skip


def test_every_row_of_the_evidence_is_in_one_bin_of_each_column(log: DeltaDriftLog, rows: list[dict[str, Any]]) -> None:
    columns = log.columns("delays", *WINDOW)
    assert set(columns) == set(BINS)
    found = log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS)
    for arm in ("champion", "challenger"):
        of_arm = [each for each in rows[:400] if each["arm"] == arm]
        numbers = [each["features"]["x"] for each in of_arm]
        finite = [each for each in numbers if each is not None and abs(each) <= LARGEST]
        x = found[arm]["f_x"]
        assert x.counts == Counter(GRID.index(each) for each in finite)
        assert (x.missing, x.rows) == (sum(each is None for each in numbers), 200)
        texts = Counter(each["features"][ODD] for each in of_arm)
        carrier = found[arm][f"f_{ODD}"]
        assert carrier.categories == {ODD: texts[ODD], "UA": texts["UA"], "never": 0}
        assert (carrier.missing, carrier.rows) == (texts[None], 200)
        assert found[arm]["prediction"].rest == sum(each["prediction"] == "2" for each in of_arm)
        assert found[arm]["score"].counts == {0: 200}


def test_further_passes_count_the_same(log: DeltaDriftLog, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = log.columns("delays", *WINDOW)
    whole = log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS)
    monkeypatch.setattr(delta_drift, "_MOST_AT_ONCE", 1)
    assert log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS) == whole


def test_the_champions_earlier_time_is_its_answers_in_or_out_of_rollouts(log: DeltaDriftLog) -> None:
    columns = log.columns("delays", *WINDOW)
    found = log.champion_profile("delays", "3", WINDOW, columns, BINS)
    assert found["f_x"].rows == 200 + 3  # one of another rollout, of another stage, and in no cohort
    assert log.champion_profile("delays", "99", WINDOW, columns, BINS)["f_x"].rows == 0


def test_the_log_counts_as_the_training_profile_does(log_root: LogRoot) -> None:
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"x": np.round(rng.gamma(2, 30, 3_000), 1), "c": rng.choice(["UA", "AA", "DL"], 3_000)})
    known = profile_frame(frame)
    records = [row(at, "challenger", dict(each)) for at, each in enumerate(frame.to_dict("records"))]
    assert log_appender(log_root, "g1").append("delays", "predictions", records, 1)
    log = DeltaDriftLog(log_root)
    columns = log.columns("delays", *WINDOW)
    sample = log.stage_sample("delays", "ro", 1, "challenger", WINDOW, columns, 500, 0)
    found = log.stage_profiles("delays", "ro", 1, WINDOW, columns, bins_of(columns, [sample], known))["challenger"]
    assert found["f_x"].counts == known.columns["x"].counts
    assert found["f_c"].categories == known.columns["c"].categories


@pytest.mark.parametrize("in_files", [True, False])
def test_a_column_that_came_later_is_missing_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_files: bool
) -> None:
    if not in_files:
        monkeypatch.setattr(delta_drift, "countable", lambda *_: False)
    later = (START + timedelta(days=2), START + timedelta(days=3))
    before = [row(at, "champion", {"x": 1.0}) for at in range(40)]
    now = [row(at, "champion", {"x": 1.0, "n": 2.0, "c": "UA"}, ts=later[0]) for at in range(40)]
    for version, part in enumerate((before, now)):
        assert log_appender(tmp_path, "g1").append("delays", "predictions", part, version)
    log = DeltaDriftLog(tmp_path)
    columns = log.columns("delays", WINDOW[0], later[1])
    bins: dict[str, Bins] = {"f_x": Grid(0.0, 1.0), "f_n": Grid(0.0, 1.0), "f_c": ("UA",)}
    for window, missing in ((WINDOW, 40), (later, 0)):
        found = log.stage_profiles("delays", "ro", 1, window, columns, bins)["champion"]
        assert {name: (each.missing, each.rows) for name, each in found.items()} == {
            "f_x": (0, 40), "f_n": (missing, 40), "f_c": (missing, 40),
        }  # fmt: skip
        sample = log.champion_sample("delays", "3", window, columns, 30, 0)
        assert sample["f_n"].isna().all() == sample["f_c"].isna().all() == bool(missing)
        assert len(sample) == 30


def test_a_model_without_rows_has_empty_columns_and_a_broken_log_is_an_error(log: DeltaDriftLog) -> None:
    later = (WINDOW[1] + timedelta(days=3), WINDOW[1] + timedelta(days=4))
    assert DeltaDriftLog(log.root).columns("unheard of", *WINDOW) == {}
    columns = log.columns("delays", *WINDOW)
    found = log.stage_profiles("delays", "ro", 1, later, columns, BINS)
    assert {arm: {name: each.rows for name, each in found[arm].items()} for arm in found} == {
        arm: dict.fromkeys(BINS, 0) for arm in ("champion", "challenger")
    }
    damage(log.root, "delays", "predictions")
    with pytest.raises(LogReadError):
        log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS)


def test_counting_inside_of_postgresql_gives_the_same(
    rows: list[dict[str, Any]], tmp_path: Path, postgres_server: str
) -> None:
    database = PostgresLog(postgres_server, schema="drift inside")
    for root in (tmp_path, database):
        assert log_appender(root, "g1").append("delays", "predictions", rows, 1)
    here, inside = DeltaDriftLog(tmp_path), DeltaDriftLog(EngineLog(database, PostgresEngine()))
    columns = here.columns("delays", *WINDOW)
    assert inside.columns("delays", *WINDOW) == columns
    as_numbers = BINS | {"prediction": Grid(1.0, 1.0)}
    for bins in (BINS, as_numbers):
        found = [log.stage_profiles("delays", "ro", 1, WINDOW, columns, bins) for log in (here, inside)]
        assert found[0] == found[1]
        assert found[0]["champion"]["prediction"].values == 200
    drawn = [log.stage_sample("delays", "ro", 1, "champion", WINDOW, columns, 50, 1) for log in (here, inside)]
    assert drawn[0]["prediction"].tolist() == drawn[1]["prediction"].tolist()


def test_a_sample_is_bounded_seeded_and_of_one_arm(log: DeltaDriftLog) -> None:
    columns = log.columns("delays", *WINDOW)
    first, again, other = (
        log.stage_sample("delays", "ro", 1, "champion", WINDOW, columns, 50, seed) for seed in (1, 1, 2)
    )
    assert list(first.columns) == list(columns)
    pd.testing.assert_frame_equal(first, again)
    assert len(first) == len(other) == 50
    assert not first.equals(other)
    for limit in (0, 50_001):
        with pytest.raises(ValueError, match=f"limit is {limit}, must be between 1 and 50000"):
            log.stage_sample("delays", "ro", 1, "champion", WINDOW, columns, limit, 0)


def test_a_sample_of_a_large_log_is_of_slices_spread_over_the_whole_time(tmp_path: Path) -> None:
    rows = [row(at, "champion", {"x": float(at)}, ts=START + timedelta(milliseconds=36 * at)) for at in range(20_000)]
    assert log_appender(tmp_path, "g1").append("delays", "predictions", rows, 1)
    log = DeltaDriftLog(tmp_path)
    columns = {"f_x": "DOUBLE"}
    drawn = [log.stage_sample("delays", "ro", 1, "champion", WINDOW, columns, 500, seed) for seed in (0, 0, 7)]
    assert [len(each) for each in drawn] == [500, 500, 500]
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])
    for each in drawn:
        per_tenth = np.histogram(each["f_x"], bins=10, range=(0, 20_000))[0]
        assert per_tenth.min() >= 20, per_tenth


def test_a_sample_of_a_huge_log_is_of_parts_spread_over_the_whole_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(at, "champion", {"x": float(at)}, ts=START + timedelta(milliseconds=36 * at)) for at in range(20_000)]
    assert log_appender(tmp_path, "g1").append("delays", "predictions", rows, 1)
    log = DeltaDriftLog(tmp_path)

    window = (START, rows[-1]["ts"] + timedelta(microseconds=1))

    def drawn(seed: int, limit: int = 300) -> list[float]:
        found = log.stage_sample("delays", "ro", 1, "champion", window, {"f_x": "DOUBLE"}, limit, seed)["f_x"]
        assert len(found) == limit
        return found.tolist()  # type: ignore[no-any-return]

    monkeypatch.setattr(delta_drift, "_MOST_READ", 4_000)
    first = drawn(3)
    assert first == drawn(3)
    assert set(first) != set(drawn(4))
    by_part = np.histogram(first, bins=PARTS, range=(0, 20_000))[0]
    assert by_part.min() >= 7, by_part
    # A fifth of the log is read.
    assert np.count_nonzero(np.histogram(first, bins=160, range=(0, 20_000))[0]) <= PARTS * (160 / PARTS / 5 + 1)
    assert len(drawn(3, limit=5_000)) == 5_000  # more than the parts hold: of all of it


def test_a_sample_of_rows_of_one_moment_is_as_large_as_any_other(tmp_path: Path) -> None:
    rows = [row(at, "champion", {"x": float(at)}, ts=START + timedelta(seconds=7)) for at in range(3_000)]
    assert log_appender(tmp_path, "g1").append("delays", "predictions", rows, 1)
    drawn = DeltaDriftLog(tmp_path).stage_sample("delays", "ro", 1, "champion", WINDOW, {"f_x": "DOUBLE"}, 100, 3)
    assert len(drawn) == 100


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_bins_are_the_training_profiles_and_what_is_common_now() -> None:
    known = profile_frame(frame(x=[1.0, 2.0, 3.0], c=["UA", "UA", "AA"]))
    now = frame(f_x=[100.0, 200.0], f_c=["ZZ", "UA"], f_y=[5.0, None], prediction=["1", "0"], score=[None, None])
    kinds = {"f_x": "DOUBLE", "f_c": "VARCHAR", "f_y": "DOUBLE", "prediction": "VARCHAR", "score": "DOUBLE"}
    bins = bins_of(kinds, [now], known)
    assert bins["f_x"] == known.columns["x"].grid
    assert bins["f_c"] == ("UA", "AA", "ZZ")
    assert bins["f_y"] == Grid(5.0, 5.0)
    assert set(bins["prediction"]) == {"0", "1"}  # type: ignore[arg-type]
    assert isinstance(bins["score"], Grid)


def test_predictions_of_a_regression_are_numbers() -> None:
    values = [str(at / 7) for at in range(100)]
    assert isinstance(bins_of({"prediction": "VARCHAR"}, [frame(prediction=values)], None)["prediction"], Grid)
    assert isinstance(bins_of({"prediction": "VARCHAR"}, [frame(prediction=[*values, "x"])], None)["prediction"], tuple)


@pytest.mark.parametrize(
    ("kind", "number"),
    [("DOUBLE", True), ("BIGINT", True), ("DECIMAL(38,0)", True), ("VARCHAR", False), ("DOUBLE[]", False)],
)
def test_which_types_are_numbers(kind: str, number: bool) -> None:
    assert is_number(kind) is number
