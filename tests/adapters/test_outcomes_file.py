"""Files of outcomes, into a real Delta log."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from model_rollouts.adapters import outcomes_file
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.outcomes_file import OutcomesFileError, import_file, parse_row

_NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    return tmp_path / "log"


def _kept(log_dir: Path) -> list[dict[str, Any]]:
    path = table_path(log_dir, "flights", "outcomes")
    if not DeltaTable.is_deltatable(str(path)):
        return []
    rows: list[dict[str, Any]] = pa.table(DeltaTable(str(path)).to_pyarrow_table()).to_pylist()
    return sorted(({k: v for k, v in row.items() if k != "day"} for row in rows), key=lambda row: row["request_id"])


def _file(tmp_path: Path, name: str, text: str) -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def _written(tmp_path: Path, suffix: str) -> Path:
    ts = _NOON.isoformat()
    if suffix == "parquet":
        columns = {"request_id": ["a", "b"], "label": [1.0, None], "value": [None, 2.5], "ts": [_NOON, _NOON]}
        pq.write_table(pa.table(columns), tmp_path / "outcomes.parquet")
        return tmp_path / "outcomes.parquet"
    if suffix == "jsonl":
        lines = [{"request_id": "a", "label": True, "ts": ts}, {"request_id": "b", "value": 2.5, "ts": ts}]
        return _file(tmp_path, "outcomes.jsonl", "\n".join(json.dumps(line) for line in lines) + "\n\n")
    return _file(tmp_path, "outcomes.csv", f"\ufeffrequest_id,label,value,ts\na,1.0,,{ts}\n\nb,,2.5,{ts}\n")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_each_format_gives_the_same_outcomes_and_twice_adds_nothing(tmp_path: Path, log_dir: Path, suffix: str) -> None:
    file = _written(tmp_path, suffix)

    assert import_file(log_dir, "flights", file) == (2, 0)
    kept = _kept(log_dir)
    assert import_file(log_dir, "flights", file) == (0, 2)

    assert kept == _kept(log_dir)
    assert kept == [
        {"request_id": "a", "ts": _NOON, "label": "1", "value": None},
        {"request_id": "b", "ts": _NOON, "label": None, "value": 2.5},
    ]


def test_an_import_that_broke_off_goes_on_where_it_was(
    tmp_path: Path, log_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes_file, "_CHUNK_ROWS", 2)
    file = _file(tmp_path, "five.csv", "request_id,label\n" + "".join(f"r{i},1\n" for i in range(5)))
    from model_rollouts.adapters.delta_writer import DeltaLogWriter

    append = DeltaLogWriter.append

    def killed_after_the_first(self: Any, model: str, table: Any, rows: Any, version: int) -> bool:
        if version:
            raise ConnectionError("gone")
        return append(self, model, table, rows, version)

    monkeypatch.setattr(DeltaLogWriter, "append", killed_after_the_first)
    with pytest.raises(ConnectionError):
        import_file(log_dir, "flights", file)
    monkeypatch.setattr(DeltaLogWriter, "append", append)

    assert import_file(log_dir, "flights", file) == (3, 2)
    assert [row["request_id"] for row in _kept(log_dir)] == [f"r{i}" for i in range(5)]


def test_bad_rows_are_named_by_number_and_nothing_is_written(tmp_path: Path, log_dir: Path) -> None:
    rows = ["good,1,,", ",1,,", "b,,,", "c,,much,", "d,1,,yesterday", "e,1", "f,1,nan,"] + ["g,,,"] * 10
    file = _file(tmp_path, "bad.csv", "request_id,label,value,ts\n" + "\n".join(rows))

    with pytest.raises(OutcomesFileError) as caught:
        import_file(log_dir, "flights", file)

    told = str(caught.value).splitlines()
    assert told[0].endswith("bad.csv are wrong; nothing was imported")
    assert told[0].startswith("16 of 17 rows of")
    assert told[1] == "row 2: request_id is None, must be text of 1 to 220 characters"
    assert told[2] == "row 3: neither label nor value; give at least one"
    assert told[3] == "row 4: value is 'much', must be a finite number"
    assert told[4].startswith("row 5: ts is 'yesterday', must be ISO 8601")
    assert told[5] == "row 6: not as many cells as the header has columns"
    assert told[6] == "row 7: value is 'nan', must be a finite number"
    assert told[-1] == "... and 6 more"
    assert _kept(log_dir) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "columns are none; need request_id, and label or value"),
        ("x.csv", "request_id,lable\na,1\n", "unknown column lable; known are request_id, label, value, ts"),
        ("x.csv", "request_id,label,label\na,1,2\n", "a column is there twice"),
        ("x.csv", "label\n1\n", "columns are label; need request_id"),
        ("x.csv", "request_id,label\n", "has no rows"),
        ("x.csv", 'request_id,label\na,"1\n', "line 2: no valid CSV"),
        ("x.jsonl", "", "has no rows"),
        ("x.jsonl", '{"request_id": "a", "label": 1}\n{"request_id"', "line 2: no valid JSON"),
        ("x.jsonl", "[1]", "line 1: a list, must be an object"),
        ("x.jsonl", '{"request_id": "a", "lable": 1}', "line 1: unknown column lable"),
        ("x.parquet", "no parquet", "no valid Parquet file"),
        ("x.xlsx", "", "ends with '.xlsx', must end with .csv, .parquet, .jsonl or .ndjson"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, log_dir: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(OutcomesFileError, match=message):
        import_file(log_dir, "flights", _file(tmp_path, name, text))

    assert _kept(log_dir) == []


def test_a_file_that_is_no_text_is_refused(tmp_path: Path, log_dir: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"request_id,label\na,\xff\xfe\n")

    with pytest.raises(OutcomesFileError, match="no valid CSV in UTF-8"):
        import_file(log_dir, "flights", tmp_path / "x.csv")


def test_a_file_that_changes_during_the_import_is_said_so(
    tmp_path: Path, log_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path, "x.csv", "request_id,label\na,1\n")
    check = outcomes_file._check

    def check_and_grow(path: Path, now: datetime) -> None:
        check(path, now)
        with path.open("a") as more:
            more.write("b,1\n")

    monkeypatch.setattr(outcomes_file, "_check", check_and_grow)

    with pytest.raises(OutcomesFileError, match="changed while it was imported, 2 outcomes of it were added"):
        import_file(log_dir, "flights", file)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (True, "1"),
        (False, "0"),
        (0.25, "0.25"),
        ("1.0", "1"),
        ("0.250", "0.25"),
        ("1e3", "1000"),
        ("007", "007"),
        ("late", "late"),
        (" late", " late"),
        ("1.2.3", "1.2.3"),
        ("nan", "nan"),
    ],
)
def test_labels_are_written_as_predictions_are(label: Any, text: str) -> None:
    assert parse_row({"request_id": "a", "label": label}, _NOON)["label"] == text


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"label": float("nan")}, "label is nan, must be finite"),
        ({"label": "1e999"}, "label is inf, must be finite"),
        ({"label": [1]}, r"label is \[1\], must be text"),
        ({"label": "  "}, "not only blanks"),
        ({"label": "x" * 1001}, "label has 1001 characters"),
        ({"value": float("inf")}, "must be a finite number"),
        ({"value": True}, "value is True, must be a number"),
        ({"value": 10**400}, "must be a finite number"),
        ({"label": 1, "request_id": 7}, "request_id is 7, must be text"),
        ({"label": 1, "request_id": "x" * 221}, "must be text of 1 to 220"),
        ({"label": 1, "ts": 1767225600}, "ts is 1767225600, must be a time in ISO 8601"),
        ({"label": 1, "ts": _NOON + timedelta(hours=1)}, "must be between 2000-01-01 and now"),
        ({"label": 1, "ts": "1999-12-31"}, "must be between 2000-01-01 and now"),
    ],
    ids=str,
)
def test_what_the_log_can_not_use_is_refused(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row({"request_id": "a", **item}, _NOON)


def test_times_are_utc_where_they_say_nothing_else_and_now_where_they_are_missing() -> None:
    def time_of(ts: Any) -> datetime:
        moment: datetime = parse_row({"request_id": "a", "label": 1, "ts": ts}, _NOON)["ts"]
        return moment

    assert time_of(None) == _NOON
    assert time_of("2026-01-31T10:00:00") == _NOON - timedelta(hours=2)
    assert time_of("2026-01-31T12:00:00+02:00") == _NOON - timedelta(hours=2)
    assert time_of("2026-01-31T10:00:00Z").tzinfo is UTC
