"""What the log's writer promises, on real Delta tables and with real processes."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from model_rollouts.adapters import delta_writer
from model_rollouts.adapters.delta_log import DeltaLogWriter, LogContractError, table_path

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(request_id: str = "r1", /, **changes: Any) -> dict[str, Any]:
    """A prediction as the gateway hands it over."""
    return {
        "request_id": request_id,
        "ts": NOON,
        "model": "delays",
        "version": "3",
        "arm": "champion",
        "cohort": "champion",
        "served": True,
        "rollout_id": "ro",
        "stage": 0,
        "unit_id": "u1",
        "status": "ok",
        "error": None,
        "latency_ms": 3.5,
        "prediction": "1",
        "score": 0.25,
        "gateway_id": "g1",
        "traffic_revision": 2,
        "features": {"distance": 100, "carrier": "UA"},
    } | changes


def stored(root: Path, table: str = "predictions", model: str = "delays") -> list[dict[str, Any]]:
    path = table_path(root, model, table)  # type: ignore[arg-type]  # the names of the contract
    rows: list[dict[str, Any]] = DeltaTable(str(path)).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda r: (r["request_id"], r["ts"]))


@pytest.fixture
def writer(tmp_path: Path) -> DeltaLogWriter:
    return DeltaLogWriter(tmp_path, "g1")


def run(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


# --- what a row becomes


def test_a_row_keeps_every_value_and_its_inputs_become_columns(writer: DeltaLogWriter, tmp_path: Path) -> None:
    assert writer.append("delays", "predictions", [row()], 0) is True
    (found,) = stored(tmp_path)
    expected = row()
    del expected["features"]
    assert found == expected | {"day": date(2026, 3, 1), "f_distance": 100.0, "f_carrier": "UA"}
    assert DeltaTable(str(table_path(tmp_path, "delays", "predictions"))).metadata().partition_columns == ["day"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1_772_366_400_000_001, NOON + timedelta(microseconds=1)),
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01T13:00:00+01:00", NOON),
        ("2026-03-01T12:00:00", NOON),
        (datetime(2026, 3, 2, 1, tzinfo=timezone(timedelta(hours=5))), datetime(2026, 3, 1, 20, tzinfo=UTC)),
    ],
)
def test_times_are_kept_to_the_microsecond_in_utc_and_the_day_is_theirs(
    writer: DeltaLogWriter, tmp_path: Path, given: Any, expected: datetime
) -> None:
    writer.append("delays", "outcomes", [{"request_id": "r1", "ts": given, "label": "1"}], 0)
    (found,) = stored(tmp_path, "outcomes")
    assert (found["ts"], found["day"]) == (expected, date(2026, 3, 1))


def test_inputs_are_numbers_or_text(writer: DeltaLogWriter, tmp_path: Path) -> None:
    features = {
        "flag": True,
        "count": 7,
        "huge": 10**400,
        "when": date(2026, 3, 1),
        "tags": ["a", 1],
        "odd name, (x)": 1.5,
        "unknown": None,
    }
    writer.append("delays", "predictions", [row(features=features)], 0)
    (found,) = stored(tmp_path)
    assert (found["f_flag"], found["f_count"], found["f_huge"]) == (1.0, 7.0, float("inf"))
    assert (found["f_when"], found["f_tags"], found["f_odd name, (x)"]) == ("2026-03-01", '["a", 1]', 1.5)
    assert "f_unknown" not in found  # its type is not known yet


def test_a_new_input_is_added_and_an_absent_one_is_null(writer: DeltaLogWriter, tmp_path: Path) -> None:
    writer.append("delays", "predictions", [row("a", features={"x": 1})], 0)
    writer.append("delays", "predictions", [row("b", features={"y": "new"})], 1)
    writer.append("delays", "predictions", [row("c", features={"x": None, "y": None})], 2)
    found = [(r["request_id"], r["f_x"], r["f_y"]) for r in stored(tmp_path)]
    assert found == [("a", 1.0, None), ("b", None, "new"), ("c", None, None)]


@pytest.mark.parametrize("model", ["a b/c", "100%", "~x", "..", "naïve[1]*?", "a~20b"])
def test_any_model_name_has_a_folder_of_its_own_inside_the_root(
    writer: DeltaLogWriter, tmp_path: Path, model: str
) -> None:
    writer.append(model, "predictions", [row(model=model)], 0)
    assert stored(tmp_path, model=model)[0]["model"] == model
    assert table_path(tmp_path, model, "predictions").parent.parent == tmp_path
    assert table_path(tmp_path, "a b", "predictions") != table_path(tmp_path, "a~20b", "predictions")


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ts": 1_772_366_400}, "must be in the years 2000 to 2199"),
        ({"ts": True}, "must be microseconds"),
        ({"ts": "yesterday"}, "must be ISO 8601"),
        ({"ts": None}, "column ts is empty in 1 of 2"),
        ({"request_id": None}, "column request_id is empty in 1 of 2"),
        ({"latency_ms": "fast"}, "column latency_ms"),
        ({"stage": 2**40}, "column stage"),
        ({"prediction": 1}, "column prediction"),
        ({"typo": 1}, "no column typo"),
        ({"features": [1]}, "must be a mapping"),
        ({"features": {"distance": "far"}}, "numbers .* and text"),
        ({"features": {"Distance": 1}}, "differ in case alone"),
    ],
)
def test_a_row_that_breaks_the_contract_is_named_and_nothing_of_its_batch_is_written(
    writer: DeltaLogWriter, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LogContractError, match=message):
        writer.append("delays", "predictions", [row("good"), row("bad", **changes)], 0)
    assert writer.append("delays", "predictions", [row("later")], 0) is True
    assert [r["request_id"] for r in stored(tmp_path)] == ["later"]


def test_an_input_that_changes_its_type_is_refused_also_by_another_writer(
    writer: DeltaLogWriter, tmp_path: Path
) -> None:
    writer.append("delays", "predictions", [row(features={"x": 1})], 0)
    other = DeltaLogWriter(tmp_path, "g2")
    with pytest.raises(LogContractError, match="f_x is double in the log and the value 'one' is string"):
        other.append("delays", "predictions", [row("r2", features={"x": "one"})], 0)
    assert len(stored(tmp_path)) == 1


def test_a_type_conflict_with_a_column_that_a_rival_has_just_added_is_seen(
    writer: DeltaLogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append("delays", "predictions", [row("a", features={})], 0)
    rival = DeltaLogWriter(tmp_path, "g2")
    convert = delta_writer.to_arrow

    def convert_late(*arguments: Any) -> Any:
        monkeypatch.setattr(delta_writer, "to_arrow", convert)
        rival.append("delays", "predictions", [row("b", features={"x": 1})], 0)
        return convert(*arguments)

    monkeypatch.setattr(delta_writer, "to_arrow", convert_late)
    with pytest.raises(LogContractError, match="f_x is double"):
        writer.append("delays", "predictions", [row("c", features={"x": "text"})], 1)
    assert [r["request_id"] for r in stored(tmp_path)] == ["a", "b"]


def test_a_root_that_delta_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogContractError, match="choose another folder"):
        DeltaLogWriter(tmp_path / "100%", "g1").append("delays", "predictions", [row()], 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", [-1, True, 1.5])
def test_a_version_that_can_not_be_counted_is_refused(writer: DeltaLogWriter, version: Any) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 0"):
        writer.append("delays", "predictions", [row()], version)


# --- exactly once


def test_the_same_version_is_written_once_whoever_repeats_it(writer: DeltaLogWriter, tmp_path: Path) -> None:
    assert writer.append("delays", "predictions", [row()], 7) is True
    assert writer.append("delays", "predictions", [row()], 7) is False
    assert DeltaLogWriter(tmp_path, "g1").append("delays", "predictions", [row()], 7) is False
    assert len(stored(tmp_path)) == 1


def test_versions_of_other_tables_models_and_writers_are_their_own(writer: DeltaLogWriter, tmp_path: Path) -> None:
    outcome = {"request_id": "r1", "ts": NOON, "label": "1"}
    assert writer.append("delays", "predictions", [row()], 7)
    assert writer.append("delays", "outcomes", [outcome], 7)
    assert writer.append("other", "predictions", [row()], 7)
    assert DeltaLogWriter(tmp_path, "g2").append("delays", "predictions", [row("r2")], 7)
    assert len(stored(tmp_path)) == 2


def test_no_rows_make_no_table(writer: DeltaLogWriter, tmp_path: Path) -> None:
    assert writer.append("delays", "predictions", [], 0) is False
    assert not list(tmp_path.iterdir())


_CRASH = """
import os, signal, sys
from pathlib import Path
from model_rollouts.adapters import delta_writer
commit = delta_writer.write_deltalake
def crash(*arguments, **options):
    if sys.argv[2] == "after":
        commit(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
delta_writer.write_deltalake = crash
row = dict(request_id="r1", ts="2026-03-01T12:00:00Z", label="1")
delta_writer.DeltaLogWriter(Path(sys.argv[1]), "g1").append("delays", "outcomes", [row], 7)
"""


@pytest.mark.parametrize(("moment", "written_again"), [("before", True), ("after", False)])
def test_a_batch_whose_writer_was_killed_around_the_commit_is_there_once(
    tmp_path: Path, moment: str, written_again: bool
) -> None:
    killed = run(_CRASH, str(tmp_path), moment)
    assert killed.wait(timeout=60) == -9
    again = DeltaLogWriter(tmp_path, "g1")
    assert again.append("delays", "outcomes", [{"request_id": "r1", "ts": NOON, "label": "1"}], 7) is written_again
    assert len(stored(tmp_path, "outcomes")) == 1


_APPEND = """
import sys
from pathlib import Path
from model_rollouts.adapters.delta_log import DeltaLogWriter
root, app, feature, same = sys.argv[1:]
writer = DeltaLogWriter(Path(root), app)
print("ready", flush=True)
sys.stdin.readline()
row = dict(ts="2026-03-01T12:00:00Z", model="delays", version="3", arm="champion", served=True, status="ok",
           latency_ms=1.0, gateway_id=app, traffic_revision=1, features={feature: 1})
print(sum(writer.append("delays", "predictions", [row | {"request_id": f"{same or app}-{v}-{i}"} for i in range(10)], v)
          for v in range(12)))
"""


def race(root: Path, *arguments: tuple[str, str, str]) -> list[int]:
    """Processes that start to append at one moment to a table that is not there yet; how many batches each wrote."""
    processes = [run(_APPEND, str(root), *given) for given in arguments]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [int(output) for output in outputs]


def test_two_processes_that_make_the_table_and_add_columns_at_once_lose_nothing(tmp_path: Path) -> None:
    assert race(tmp_path, ("g1", "x", ""), ("g2", "y", "")) == [12, 12]
    rows = stored(tmp_path)
    assert len({r["request_id"] for r in rows}) == len(rows) == 240
    assert sum(r["f_x"] == 1.0 for r in rows) == sum(r["f_y"] == 1.0 for r in rows) == 120


def test_two_processes_with_the_same_batches_write_each_once(tmp_path: Path) -> None:
    assert sum(race(tmp_path, ("g1", "x", "same"), ("g1", "x", "same"))) == 12
    rows = stored(tmp_path)
    assert len({r["request_id"] for r in rows}) == len(rows) == 120


def test_a_rival_commit_of_the_same_batch_between_check_and_commit_is_seen(
    writer: DeltaLogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append("delays", "predictions", [row("a")], 0)
    rival = DeltaLogWriter(tmp_path, "g1")
    convert: Callable[..., Any] = delta_writer.to_arrow

    def convert_late(*arguments: Any) -> Any:
        monkeypatch.setattr(delta_writer, "to_arrow", convert)
        assert rival.append("delays", "predictions", [row("b")], 1) is True
        return convert(*arguments)

    monkeypatch.setattr(delta_writer, "to_arrow", convert_late)
    assert writer.append("delays", "predictions", [row("b")], 1) is False
    assert [r["request_id"] for r in stored(tmp_path)] == ["a", "b"]


# --- upkeep


def test_many_commits_leave_few_files_and_every_row(
    writer: DeltaLogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_writer, "_COMPACT_EVERY", 10)
    other = DeltaLogWriter(tmp_path, "g2")
    for version in range(24):
        assert writer.append("delays", "predictions", [row(f"a{version}")], version)
        assert other.append("delays", "predictions", [row(f"b{version}")], version)
    delta = DeltaTable(str(table_path(tmp_path, "delays", "predictions")))
    assert len(delta.file_uris()) < 20
    assert len({r["request_id"] for r in stored(tmp_path)}) == delta.count() == 48
    assert DeltaLogWriter(tmp_path, "g1").append("delays", "predictions", [row("a23")], 23) is False


def test_writers_leave_it_to_upkeep_to_remove_files(
    writer: DeltaLogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data rollback may go back to a version that these files make up; upkeep knows which."""
    monkeypatch.setattr(delta_writer, "_COMPACT_EVERY", 10)
    monkeypatch.setitem(delta_writer._CONFIGURATION, "delta.deletedFileRetentionDuration", "interval 0 seconds")
    for version in range(9):
        writer.append("delays", "predictions", [row(f"a{version}")], version)
    path = str(table_path(tmp_path, "delays", "predictions"))
    pinned = DeltaTable(path).version()
    writer.append("delays", "predictions", [row("a9")], 9)
    assert len(DeltaTable(path).file_uris()) == 1
    assert DeltaTable(path, version=pinned).to_pyarrow_table().num_rows == 9


def test_a_broken_table_is_an_error_and_not_replaced(writer: DeltaLogWriter, tmp_path: Path) -> None:
    log = table_path(tmp_path, "delays", "predictions") / "_delta_log"
    log.mkdir(parents=True)
    (log / "00000000000000000000.json").write_text("not a commit")
    with pytest.raises(Exception, match=r"(?i)json|commit|log|invalid|expected"):
        writer.append("delays", "predictions", [row()], 0)
    assert (log / "00000000000000000000.json").read_text() == "not a commit"
