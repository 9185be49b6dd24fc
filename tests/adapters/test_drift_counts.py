"""Columns counted straight from the log's files, beside the query that every engine runs."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from model_rollouts.adapters import delta_drift, drift_counts
from model_rollouts.adapters.delta_drift import Columns, DeltaDriftLog
from model_rollouts.adapters.delta_drift_queries import Bins
from model_rollouts.adapters.delta_schema import SCHEMAS, table_path
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.core.profile import LARGEST, ColumnProfile, Grid

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = (START, START + timedelta(seconds=500))
ROWS = 700
BINS: dict[str, Bins] = {
    "f_x": Grid(0.1, 0.7), "f_c": ("UA", "ü", "never"), "f_new": Grid(3.0, 1.0), "f_word": ("a",),
    "score": Grid(0.5, 1.0), "prediction": ("0", "1"),
}  # fmt: skip


def write(root: Path, seed: int, features: dict[str, pa.Array], **fixed: Any) -> None:
    """Append a file of rows of both arms, some of which are no evidence."""
    rng = np.random.default_rng(seed)
    arms = rng.choice(["champion", "challenger"], ROWS)
    cohorts = [arm if at % 9 else None if at % 2 else "challenger" for at, arm in enumerate(arms)]
    values: dict[str, Any] = {
        "request_id": [f"{seed}-{at}" for at in range(ROWS)],
        "ts": [START + timedelta(seconds=at - 100) for at in range(ROWS)],
        "day": [START.date()] * ROWS,
        "arm": arms.tolist(),
        "cohort": cohorts,
        "version": ["3" if arm == "champion" and at % 11 else "4" for at, arm in enumerate(arms)],
        "stage": [None if at % 13 == 0 else at % 3 for at in range(ROWS)],
        "rollout_id": [None if at % 17 == 0 else ("ro", "other")[at % 19 == 0] for at in range(ROWS)],
        "prediction": [None if at % 7 == 0 else str(at % 3) for at in range(ROWS)],
        "score": rng.random(ROWS).tolist(),
    } | {name: [value] * ROWS for name, value in fixed.items()}
    table = {
        field.name: pa.array(values.get(field.name, [None] * ROWS), field.type) for field in SCHEMAS["predictions"]
    }
    path = table_path(root, "delays", "predictions")
    path.mkdir(parents=True, exist_ok=True)
    write_deltalake(str(path), pa.table(table | features), mode="append", schema_mode="merge", partition_by=["day"])


def numbers(seed: int) -> pa.Array:
    rng = np.random.default_rng(seed)
    odd = [None, math.nan, math.inf, -math.inf, 1e101, -1e101, LARGEST, -LARGEST, 0.0, -0.0, 0.1, 1e-300, 1e17, 5e-324]
    values = [*(odd * 15), *(rng.normal(size=ROWS) * 10.0 ** rng.integers(-3, 9, ROWS)).tolist()]
    rng.shuffle(values)
    return pa.array(values[:ROWS], pa.float64())


def texts(seed: int) -> pa.Array:
    rng = np.random.default_rng(seed)
    kinds = ["UA", "ü", "other", "", None]
    return pa.array([f"id-{at}" if at % 5 == 0 else kinds[rng.integers(0, 5)] for at in range(ROWS)], pa.string())


@pytest.fixture
def log(tmp_path: Path) -> DeltaDriftLog:
    """Three files; a column came with the second one."""
    write(tmp_path, 1, {"f_x": numbers(1), "f_c": texts(1)})
    write(tmp_path, 2, {"f_x": numbers(2), "f_c": texts(2), "f_new": numbers(5), "f_word": texts(5)})
    write(tmp_path, 3, {"f_x": numbers(3), "f_c": texts(3)}, stage=1, rollout_id="ro")
    return DeltaDriftLog(tmp_path)


def both(log: DeltaDriftLog, monkeypatch: pytest.MonkeyPatch, columns: dict[str, str]) -> tuple[Any, Any]:
    """What the files and the query say of a stage and of the champion."""

    def asked() -> list[dict[str, Columns]]:
        return [
            log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS),
            {"champion": log.champion_profile("delays", "3", WINDOW, columns, BINS)},
        ]

    quick = asked()
    monkeypatch.setattr(delta_drift, "countable", lambda *_: False)
    return quick, asked()


@pytest.mark.parametrize(("size", "threads"), [(7, 1), (1 << 16, 2), (7, 4)])
def test_files_say_what_the_query_says(
    log: DeltaDriftLog, monkeypatch: pytest.MonkeyPatch, size: int, threads: int
) -> None:
    monkeypatch.setattr(drift_counts, "_ROWS", size)
    monkeypatch.setattr(drift_counts, "_THREADS", threads)
    never = pytest.MonkeyPatch()
    never.setattr(DeltaDriftLog, "_asked", lambda *_: pytest.fail("asked a query where files can be counted"))
    columns = log.columns("delays", *WINDOW)
    assert set(columns) == set(BINS)
    log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS)
    never.undo()
    quick, asked = both(log, monkeypatch, columns)
    assert quick == asked
    stage, champion = asked[0], asked[1]["champion"]
    for found in (stage["champion"], stage["challenger"], champion):
        assert 0 not in (found["f_x"].values, found["f_x"].missing, found["f_x"].not_finite)
        assert 0 not in (found["f_c"].categories["UA"], found["f_c"].rest, found["f_c"].missing)
        assert found["f_new"].missing > found["f_new"].values > 0


def test_other_types_are_counted_by_the_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pa.array(range(ROWS), pa.int64())
    write(tmp_path, 1, {"f_x": whole, "f_c": texts(1)})
    log = DeltaDriftLog(tmp_path)
    columns = log.columns("delays", *WINDOW)
    assert columns["f_x"] == "BIGINT"
    quick, asked = both(log, monkeypatch, columns)
    assert quick == asked
    assert asked[0]["champion"]["f_x"].values > 50
    assert drift_counts.counted_in_files(
        table_path(tmp_path, "delays", "predictions"), WINDOW, [("f_x", Grid(0.0, 1.0))], {}
    ) is None  # fmt: skip


def test_a_file_that_went_between_listing_and_reading_is_looked_for_again(
    log: DeltaDriftLog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    columns = log.columns("delays", *WINDOW)
    known = log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS)
    real, gone = drift_counts.current_files, [str(tmp_path / "gone.parquet")]
    listings = iter([gone, gone])
    monkeypatch.setattr(drift_counts, "current_files", lambda *given: next(listings, None) or real(*given))
    assert log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS) == known
    monkeypatch.setattr(drift_counts, "current_files", lambda *_: gone)
    with pytest.raises(LogReadError, match=r"gone\.parquet"):
        log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS)


def test_a_broken_file_is_an_error(log: DeltaDriftLog) -> None:
    columns = log.columns("delays", *WINDOW)
    file = next(table_path(log.root, "delays", "predictions").glob("day=*/*.parquet"))  # type: ignore[arg-type]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(LogReadError, match="can't be read"):
        log.stage_profiles("delays", "ro", 1, WINDOW, columns, BINS)


def test_bins_far_apart_and_in_any_order_are_kept() -> None:
    counter = drift_counts._Numbers(Grid(0.0, 1.0))
    values = [0.0, 1e90, -1e90, 2.0, -3e10, 2.0]
    for value in values:
        counter.add(pa.array([value]), np.array([1]), None)
    grid = Grid(0.0, 1.0)
    assert counter.counts(0) == {}
    assert counter.counts(1) == {grid.index(each): values.count(each) for each in values}
    assert isinstance(ColumnProfile("number", grid=grid, counts=counter.counts(1)), ColumnProfile)
