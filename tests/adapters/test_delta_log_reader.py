"""Evidence and samples as read from real Delta tables."""

import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.adapters.log_kinds import damage, is_untouched
from tests.adapters.unit_log import label_counts

from model_rollouts.adapters import delta_files
from model_rollouts.adapters.delta_log import (
    REPEAT_SECONDS,
    DeltaPredictionLog,
    LogReadError,
    table_path,
)
from model_rollouts.adapters.delta_schema import TableName
from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.core.evidence import LATENCY_BINS, LabelCounts, RequestCounts, latency_bin, latency_edge_ms
from model_rollouts.ports import Window

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WINDOWS = [Window(i, START + i * MINUTE, START + (i + 1) * MINUTE) for i in range(3)]
NOTHING = (RequestCounts(), RequestCounts())


def row(request_id: str, at: float = 0.0, arm: str = "champion", /, **changes: Any) -> dict[str, Any]:
    """A prediction `at` seconds after START."""
    return {
        "request_id": request_id,
        "ts": START + timedelta(seconds=at),
        "model": "delays",
        "version": "3" if arm == "champion" else "4",
        "arm": arm,
        "cohort": arm,
        "served": True,
        "rollout_id": "ro",
        "stage": 1,
        "status": "ok",
        "latency_ms": 3.5,
        "prediction": "1",
        "gateway_id": "g1",
        "traffic_revision": 2,
        "features": {"x": at},
    } | changes


def outcome(request_id: str, at: float, label: str | None, value: float | None = None) -> dict[str, Any]:
    return {"request_id": request_id, "ts": START + timedelta(seconds=at), "label": label, "value": value}


class Bench:
    """A log with a writer at hand."""

    def __init__(self, root: LogRoot) -> None:
        self.root = root
        self.log = DeltaPredictionLog(root)
        self.writer = log_appender(root, "g1")
        self.version = 0

    def predictions(self, *rows: dict[str, Any]) -> None:
        self.version += 1
        assert self.writer.append("delays", "predictions", rows, self.version)

    def outcomes(self, *rows: dict[str, Any]) -> None:
        self.version += 1
        assert self.writer.append("delays", "outcomes", rows, self.version)

    def requests(self, windows: list[Window] | None = None) -> list[tuple[RequestCounts, RequestCounts]]:
        return self.log.request_counts("delays", "ro", 1, WINDOWS if windows is None else windows)

    def labels(
        self, windows: list[Window] | None = None, maturity: timedelta = timedelta(days=30)
    ) -> list[tuple[LabelCounts, LabelCounts]]:
        return label_counts(self.log, "delays", "ro", 1, WINDOWS if windows is None else windows, maturity)


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


@pytest.fixture
def delta(tmp_path: Path) -> Bench:
    """For what only a folder can suffer."""
    return Bench(tmp_path)


# --- requests


def test_each_window_and_arm_has_its_own_counts(bench: Bench) -> None:
    bench.predictions(
        row("a", 0), row("b", 59.999999, latency_ms=7.0), row("c", 60), row("d", 61, "challenger", status="timeout")
    )
    bench.predictions(row("e", 10, "challenger", status="error"), row("f", 20, "challenger"))
    bin_of = latency_bin(3.5)
    assert bench.requests() == [
        (RequestCounts(2, 0, {bin_of: 1, latency_bin(7.0): 1}), RequestCounts(2, 1, {bin_of: 1})),
        (RequestCounts(1, 0, {bin_of: 1}), RequestCounts(1, 1, {})),
        NOTHING,
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": None},
        {"cohort": "challenger"},
        {"rollout_id": "other"},
        {"rollout_id": None},
        {"stage": 0},
        {"stage": None},
        {"ts": START - timedelta(microseconds=1)},
        {"ts": START + 3 * MINUTE},
    ],
)
def test_rows_that_are_not_the_stages_evidence_do_not_count(bench: Bench, changes: dict[str, Any]) -> None:
    bench.predictions(row("out", **changes), row("in"))
    assert bench.requests()[0][0].requests == 1
    assert sum(champion.requests + challenger.requests for champion, challenger in bench.requests()) == 1


def test_a_repeated_row_counts_once_as_its_first_in_whichever_windows_are_asked_for(bench: Bench) -> None:
    bench.predictions(row("a", 5, status="error"))
    bench.predictions(row("a", 6), row("a", 65), row("a", 5, "challenger"))
    expected = [(RequestCounts(1, 1), RequestCounts(1, 0, {latency_bin(3.5): 1})), NOTHING, NOTHING]
    assert bench.requests() == expected
    assert [bench.requests([w])[0] for w in WINDOWS] == expected


def test_of_two_rows_of_one_time_the_failed_one_counts(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("a", 5, status="error"), row("b", 5), row("b", 5, latency_ms=900.0))
    assert bench.requests()[0][0] == RequestCounts(2, 1, {latency_bin(900.0): 1})


def test_an_id_that_comes_back_later_is_another_request(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("a", 5 + REPEAT_SECONDS))
    late = Window(0, START, START + timedelta(hours=1))
    assert bench.requests([late])[0][0].requests == 2


@pytest.mark.parametrize("latency", [math.nan, math.inf, -math.inf, 1e308, latency_edge_ms(LATENCY_BINS) * 1.01])
def test_an_answer_without_a_believable_latency_counts_as_an_error(bench: Bench, latency: float) -> None:
    bench.predictions(row("a", latency_ms=latency), row("b"))
    assert bench.requests()[0][0] == RequestCounts(2, 1, {latency_bin(3.5): 1})


def test_overlapping_windows_each_count_their_rows(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 65))
    both = Window(7, START, START + 2 * MINUTE)
    assert [champion.requests for champion, _ in bench.requests([WINDOWS[1], both])] == [1, 2]


_EDGES = [latency_edge_ms(i) for i in range(0, LATENCY_BINS, 7)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.floats(-5, 1e15, allow_nan=False),
            st.floats(0, 100),
            st.sampled_from(_EDGES),
            st.sampled_from(_EDGES).map(lambda edge: math.nextafter(edge, math.inf)),
            st.sampled_from(_EDGES).map(lambda edge: math.nextafter(edge, 0.0)),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_latencies_fall_into_exactly_the_bins_of_the_core(
    tmp_path_factory: pytest.TempPathFactory, latencies: list[float]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("bins"))
    latencies = [*latencies, *_EDGES]
    bench.predictions(*(row(f"r{i}", latency_ms=value) for i, value in enumerate(latencies)))
    assert bench.requests()[0][0].latency == Counter(map(latency_bin, latencies))


# --- labels


def test_labels_are_joined_by_request_and_compared_as_text(bench: Bench) -> None:
    bench.predictions(row("right"), row("wrong"), row("open"), row("failed", status="error"), row("text", 1))
    bench.predictions(row("right", 61, "challenger"), row("empty", 61, "challenger", prediction=None))
    bench.outcomes(outcome("right", 70, "1"), outcome("wrong", 70, "0"), outcome("failed", 70, "0"))
    bench.outcomes(outcome("text", 70, "1.0"), outcome("empty", 70, "1"), outcome("nobody", 70, "1"))
    assert bench.labels() == [
        (LabelCounts(4, 3, 2), LabelCounts()),
        (LabelCounts(), LabelCounts(2, 2, 1)),
        (LabelCounts(), LabelCounts()),
    ]


def test_the_first_label_counts_and_repeats_count_once(bench: Bench) -> None:
    bench.predictions(row("a"), row("a", 1), row("b"))
    bench.outcomes(outcome("a", 90, "0"), outcome("a", 80, "1"), outcome("a", 80, "1"))
    bench.outcomes(outcome("b", 70, None, 2.5), outcome("b", 95, "0"))
    assert bench.labels()[0][0] == LabelCounts(2, 2, 1)


def test_an_outcome_without_a_label_leaves_the_label_missing(bench: Bench) -> None:
    bench.predictions(row("a"))
    bench.outcomes(outcome("a", 70, None, 2.5))
    assert bench.labels()[0][0] == LabelCounts(1, 0, 0)


def test_labels_are_due_also_while_no_outcome_has_ever_come(bench: Bench) -> None:
    bench.predictions(row("a"))
    assert bench.labels()[0][0] == LabelCounts(1, 0, 0)


def test_a_label_that_comes_days_later_counts(bench: Bench) -> None:
    bench.predictions(row("a"))
    bench.outcomes(outcome("a", 20 * 86_400, "1"))
    assert bench.labels()[0][0] == LabelCounts(1, 1, 0)


@pytest.mark.parametrize(("late", "labelled"), [(timedelta(0), 1), (timedelta(microseconds=1), 0)])
def test_a_label_counts_up_to_the_end_of_its_requests_maturity(bench: Bench, late: timedelta, labelled: int) -> None:
    bench.predictions(row("a", 30))
    bench.outcomes(outcome("a", 90, "1") | {"ts": START + timedelta(seconds=90) + late}, outcome("a", 95, "1"))
    assert bench.labels(maturity=MINUTE)[0][0] == LabelCounts(1, labelled, 0)
    assert bench.labels(maturity=2 * MINUTE)[0][0] == LabelCounts(1, 1, 0)


def test_a_request_that_comes_back_has_labels_of_its_own_whichever_windows_are_asked_for(bench: Bench) -> None:
    day = timedelta(days=1)
    windows = [Window(i, START + i * 3 * day, START + i * 3 * day + MINUTE) for i in range(2)]
    bench.predictions(row("a"), row("a", 3 * 86_400))
    bench.outcomes(outcome("a", 60, "0"))
    assert [champion for champion, _ in bench.labels(windows)] == [LabelCounts(1, 1, 1), LabelCounts(1, 0, 0)]
    assert bench.labels(windows[1:])[0][0] == LabelCounts(1, 0, 0)


def test_a_maturity_without_an_end_takes_labels_whenever_they_come(bench: Bench) -> None:
    bench.predictions(row("a"))
    bench.outcomes(outcome("a", 20 * 86_400, "1"))
    assert bench.labels(maturity=timedelta.max)[0][0] == LabelCounts(1, 1, 0)


def test_a_negative_maturity_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="maturity is -1 day, 23:59:59, must be at least 0"):
        bench.labels(maturity=timedelta(seconds=-1))


# --- silence and damage


def test_a_model_that_nobody_has_called_yet_has_zeros(bench: Bench) -> None:
    assert bench.requests() == [NOTHING] * 3
    assert bench.labels() == [(LabelCounts(), LabelCounts())] * 3
    assert bench.requests([]) == []
    assert is_untouched(bench.root)


def test_a_folder_without_a_table_is_an_error(delta: Bench) -> None:
    table_path(delta.root, "delays", "predictions").mkdir(parents=True)
    with pytest.raises(LogReadError, match="is no Delta table"):
        delta.requests()


@pytest.mark.parametrize("table", ["predictions", "outcomes"])
def test_a_damaged_table_is_an_error_and_not_a_smaller_count(bench: Bench, table: TableName) -> None:
    bench.predictions(row("a"))
    bench.outcomes(outcome("a", 70, "1"))
    damage(bench.root, "delays", table)
    with pytest.raises(LogReadError, match=r"files of|has no column request_id"):
        bench.labels()


def test_a_damaged_data_file_is_an_error(delta: Bench) -> None:
    delta.predictions(row("a"))
    for file in table_path(delta.root, "delays", "predictions").glob("day=*/*.parquet"):
        file.write_bytes(b"PAR1 not really")
    with pytest.raises(LogReadError):
        delta.requests()


def test_a_table_with_deletion_vectors_is_refused(delta: Bench) -> None:
    path = table_path(delta.root, "delays", "predictions")
    schema = pa.schema([("day", pa.date32()), ("ts", pa.timestamp("us", tz="UTC"))])
    DeltaTable.create(str(path), schema, partition_by=["day"], configuration={"delta.enableDeletionVectors": "true"})
    with pytest.raises(LogReadError, match="deletionVectors"):
        delta.requests()


def test_files_that_are_compacted_and_vacuumed_while_they_are_read_are_listed_again(
    delta: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        delta.predictions(row(f"r{i}"))
    listed = delta_files.current_files

    def list_then_vacuum(*where: Any) -> list[str]:
        files = listed(*where)
        monkeypatch.setattr(delta_files, "current_files", listed)
        table = DeltaTable(str(where[0]))
        table.optimize.compact()
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
        assert not any(Path(file).exists() for file in files)
        return files

    monkeypatch.setattr(delta_files, "current_files", list_then_vacuum)
    assert delta.requests()[0][0].requests == 4


def test_files_that_lack_columns_of_later_ones_count_too(delta: Bench) -> None:
    path = str(table_path(delta.root, "delays", "predictions"))
    early = {name: row("early")[name] for name in ("request_id", "ts", "arm", "cohort", "rollout_id", "status")}
    early |= {"day": START.date(), "latency_ms": 3.5}
    table = pa.Table.from_pylist([early | {"stage": 1}])
    table = table.set_column(1, "ts", table["ts"].cast(pa.timestamp("us", tz="UTC")))
    write_deltalake(path, table, partition_by=["day"])
    delta.predictions(row("late", features={"x": 1}))
    delta.predictions(row("later", features={"x": 2, "y": "new"}))
    assert delta.requests()[0][0].requests == 3
    frame = delta.log.stage_frame("delays", "ro", 1, "champion", START, START + MINUTE).set_index("request_id")
    assert frame["f_x"].dropna().to_dict() == {"late": 1.0, "later": 2.0}
    assert frame["f_y"].dropna().to_dict() == {"later": "new"}


# --- samples


def test_a_sample_is_bounded_repeatable_and_carries_labels_and_values(bench: Bench) -> None:
    bench.predictions(*(row(f"r{i}", i / 10) for i in range(100)), row("c", 5, "challenger"))
    bench.outcomes(*(outcome(f"r{i}", 70, str(i), i * 1.0) for i in range(100)))
    span = (START, START + MINUTE)
    frame = bench.log.stage_frame("delays", "ro", 1, "champion", *span, limit=20, seed=1)
    again = bench.log.stage_frame("delays", "ro", 1, "champion", *span, limit=20, seed=1)
    other = bench.log.stage_frame("delays", "ro", 1, "champion", *span, limit=20, seed=2)
    assert frame.equals(again)
    assert len(frame) == 20
    assert set(frame["request_id"]) != set(other["request_id"])
    assert (frame["request_id"] == "r" + frame["label"]).all()
    assert (frame["label"].astype(float) == frame["value"]).all()
    assert frame["ts"].is_monotonic_increasing
    assert bench.log.count_rows("delays", "ro", 1, "champion", *span) == 100


def test_all_rows_of_a_stage_are_there_for_the_data_checks(bench: Bench) -> None:
    bench.predictions(row("a"), row("a"), row("b", cohort=None), row("c", arm="nobody"), row("d", stage=2))
    span = (START, START + MINUTE)
    assert sorted(bench.log.stage_frame("delays", "ro", 1, None, *span)["request_id"]) == ["a", "a", "b", "c"]
    assert bench.log.count_rows("delays", "ro", 1, None, *span) == 4


def test_the_reference_is_the_champions_own_traffic_before_the_rollout(bench: Bench) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None}
    bench.predictions(
        row("a", **plain), row("b", **plain, version="2"), row("c", 0, "challenger"), row("d", 61, **plain)
    )
    assert list(bench.log.champion_frame("delays", "3", START, START + MINUTE)["request_id"]) == ["a"]
    assert bench.log.count_champion_rows("delays", "3", START, START + MINUTE) == 1


def test_an_empty_sample_still_has_the_contracts_columns(bench: Bench) -> None:
    frame = bench.log.stage_frame("delays", "ro", 1, None, START, START + MINUTE)
    assert len(frame) == 0
    assert {"request_id", "status", "latency_ms", "label", "value"} <= set(frame.columns)
    assert list(bench.log.outcomes_frame("delays", START, START + MINUTE).columns) == [
        "request_id",
        "ts",
        "label",
        "value",
    ]


def test_outcomes_are_sampled_by_the_time_they_became_known(bench: Bench) -> None:
    bench.outcomes(outcome("a", 5, "1"), outcome("b", 70, "1"))
    assert list(bench.log.outcomes_frame("delays", START, START + MINUTE)["request_id"]) == ["a"]
    assert bench.log.count_outcomes("delays", START, START + 2 * MINUTE) == 2


@pytest.mark.parametrize("limit", [0, 1_000_001])
def test_a_sample_size_out_of_bounds_is_refused(bench: Bench, limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit is {limit}, must be between 1 and"):
        bench.log.stage_frame("delays", "ro", 1, None, START, START + MINUTE, limit=limit)


def test_a_time_without_a_zone_is_refused(bench: Bench) -> None:
    naive = START.replace(tzinfo=None)
    with pytest.raises((ValueError, TypeError)):
        bench.requests([Window(0, naive, naive + MINUTE)])


# --- speed


def test_hundreds_of_commits_are_still_read_fast(delta: Bench) -> None:
    for commit in range(300):
        delta.predictions(*(row(f"{commit}-{i}", commit / 10) for i in range(10)))
    delta.requests()  # the first query loads libraries
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        counts = delta.requests()
        taken.append(time.perf_counter() - began)
    assert sum(champion.requests for champion, _ in counts) == 3000
    assert min(taken) < 0.3
