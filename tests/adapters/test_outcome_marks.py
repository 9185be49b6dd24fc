"""Hashes of the ids of outcomes: which files a look leaves unread, and that no number depends on it."""

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.adapters.unit_log import LOOKS, MINUTE, PRIOR, Bench, outcome, random_log, row

from model_rollouts.adapters import outcome_marks
from model_rollouts.adapters.delta_files import current_files
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.outcome_marks import OutcomeMarks
from model_rollouts.adapters.unit_carry import UnitCarry
from model_rollouts.ports import StageWindow

Ask = Callable[[DeltaPredictionLog, list[StageWindow], int], list[Any]]
QUESTIONS: dict[str, Ask] = {
    "units": lambda log, looks, fresh: log.unit_counts("delays", "ro", looks, fresh),
    "labels": lambda log, looks, fresh: log.label_evidence("delays", "ro", looks, fresh, MINUTE),
    "values": lambda log, looks, fresh: log.value_sums("delays", "ro", looks, fresh, MINUTE, PRIOR),
}
ASKED = "SELECT unnest(['a', 'b', NULL]) AS request_id"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_marks, "LEAST_BYTES", 0)


@pytest.fixture
def marks(tmp_path: Path) -> OutcomeMarks:
    return OutcomeMarks(tmp_path / "o'brien")


def file_of(tmp_path: Path, name: str, ids: list[str | None]) -> str:
    file = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table({"request_id": pa.array(ids, pa.string())}), file)
    return str(file)


def holding(marks: OutcomeMarks, files: list[str], asked: str = ASKED) -> list[str]:
    with duckdb.connect() as database:
        return marks.holding(database, files, asked, {})


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "o'brien" / "ids").iterdir())


@pytest.mark.parametrize(
    ("ids", "has"), [(["a"], True), (["x", "b"], True), (["x", "y"], False), ([], False), ([None, "x"], True)]
)
def test_a_file_is_read_where_it_has_an_outcome_of_a_request(
    marks: OutcomeMarks, tmp_path: Path, ids: list[str | None], has: bool
) -> None:
    """Those without an id go by the rules, too: they are told apart nowhere here."""
    first, last = file_of(tmp_path, "first", ["b"]), file_of(tmp_path, "last", ["a", "z"])
    file = file_of(tmp_path, "file", ids)
    for _ in range(2):  # made, and there
        assert holding(marks, [first, file, last]) == [first, *([file] if has else []), last]
    assert len(kept(tmp_path)) == 3
    assert not holding(marks, [file], "SELECT NULL::VARCHAR AS request_id WHERE false")


def test_small_files_are_read_as_they_are(marks: OutcomeMarks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = file_of(tmp_path, "small", ["x"]), file_of(tmp_path, "large", [f"x{i}" for i in range(1000)])
    monkeypatch.setattr(outcome_marks, "LEAST_BYTES", os.path.getsize(small) + 1)
    assert holding(marks, [small, large]) == [small]
    assert len(kept(tmp_path)) == 1


def test_another_file_of_the_same_name_has_hashes_of_its_own(marks: OutcomeMarks, tmp_path: Path) -> None:
    file = file_of(tmp_path, "file", ["x"])
    assert holding(marks, [file]) == []
    file_of(tmp_path, "file", ["a"])
    assert holding(marks, [file]) == [file]


@pytest.mark.parametrize("damage", [b"", b"PAR1 no more", None])
def test_damaged_hashes_are_told_and_made_again(
    marks: OutcomeMarks, tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    files = [file_of(tmp_path, name, [name]) for name in ("a", "x")]
    assert holding(marks, files) == files[:1]
    for mark in kept(tmp_path):
        if damage is None:
            mark.unlink()
        else:
            mark.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert holding(marks, files) == (files[:1] if damage is None else files)
    assert ("can't be used" in caplog.text) is (damage is not None)
    caplog.clear()
    assert holding(marks, files) == files[:1]
    assert not caplog.text


def test_hashes_that_can_be_read_are_kept_when_others_cannot(marks: OutcomeMarks, tmp_path: Path) -> None:
    files = [file_of(tmp_path, name, [name]) for name in ("a", "x")]
    holding(marks, files)
    broken, sound = kept(tmp_path)
    broken.write_bytes(b"PAR1 no more")
    holding(marks, files)
    assert kept(tmp_path) == [sound]


def test_too_little_memory_leaves_the_hashes_alone(
    marks: OutcomeMarks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file_of(tmp_path, name, [name]) for name in ("a", "x")]
    holding(marks, files)

    def full(*_: Any) -> set[str]:
        raise duckdb.OutOfMemoryException("no memory")

    monkeypatch.setattr(outcome_marks, "_having", full)
    assert holding(marks, files) == files
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize(
    "ids", [pa.array([5, 6]), pa.array([5.0, 6.0]), pa.array([b"\xff", b"b"]), pa.array(["5", "6"], pa.large_string())]
)
def test_ids_that_are_no_texts_are_read_as_they_are(marks: OutcomeMarks, tmp_path: Path, ids: pa.Array) -> None:
    """What is alike is up to the query: '5' and 5 are for it, and have other hashes."""
    file = tmp_path / "file.parquet"
    pq.write_table(pa.table({"request_id": ids}), file)
    assert holding(marks, [str(file)], "SELECT '5' AS request_id") == [str(file)]
    assert holding(marks, [file_of(tmp_path, "texts", ["x"])], "SELECT 5 AS request_id") == [
        str(tmp_path / "texts.parquet")
    ]


@pytest.mark.parametrize("part", ["id=7", "request_id=a", "filename=b"])
def test_folders_named_like_partitions_are_nothing_but_folders(tmp_path: Path, part: str) -> None:
    folder = tmp_path / part
    folder.mkdir()
    files = [file_of(folder, name, [name]) for name in ("x", "b", "y")]
    for _ in range(2):
        assert holding(OutcomeMarks(folder / "scratch"), files) == files[1:2]


@pytest.mark.parametrize("place", ["ids", "mark"])
def test_what_is_in_the_way_costs_time_and_no_number(
    marks: OutcomeMarks, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = [file_of(tmp_path, name, [name]) for name in ("a", "x")]
    if place == "ids":
        (tmp_path / "o'brien").mkdir(mode=0o700)
        (tmp_path / "o'brien" / "ids").write_text("a file")
    else:
        holding(marks, files)
        for mark in kept(tmp_path):
            mark.unlink()
            mark.mkdir()
    with caplog.at_level(logging.WARNING):
        assert holding(marks, files) == files
    assert "can't be used" in caplog.text


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    files = [file_of(tmp_path, "x", ["x"])]
    with caplog.at_level(logging.WARNING):
        assert holding(OutcomeMarks(folder), files) == files
    assert "must be this user's" in caplog.text
    assert not list(folder.iterdir())


def test_hashes_that_nobody_wants_any_more_are_removed(marks: OutcomeMarks, tmp_path: Path) -> None:
    old, new = file_of(tmp_path, "old", ["x"]), file_of(tmp_path, "new", ["x"])
    holding(marks, [old, new])
    for mark in kept(tmp_path):
        os.utime(mark, (0, time.time() - 3 * 86_400))
    before = set(kept(tmp_path))
    holding(marks, [new, file_of(tmp_path, "newer", ["x"])])  # whoever wants one keeps it
    assert len(kept(tmp_path)) == 2
    assert len(before & set(kept(tmp_path))) == 1


def test_a_file_that_is_gone_is_said(marks: OutcomeMarks, tmp_path: Path) -> None:
    file = file_of(tmp_path, "gone", ["a"])
    Path(file).unlink()
    with pytest.raises(FileNotFoundError):
        holding(marks, [file])


# --- looks


def test_a_column_that_only_files_have_that_are_left_out_is_found(tmp_path: Path) -> None:
    """Outcomes of before there were values."""
    bench = Bench(tmp_path / "log")
    bench.predictions(*(row(f"r{i}", 30 + 60 * i, unit_id=f"u{i % 3}") for i in range(30)))
    for at in range(30):
        bench.outcomes(outcome(f"r{at}", 60 * at + 40, "0", float(at)))
    for file in current_files(tmp_path / "log" / "delays" / "outcomes", LOOKS[0].window.start, LOOKS[-1].window.end):
        table = pq.read_table(file)
        if int(table.column("request_id")[0].as_py()[1:]) >= 10:
            pq.write_table(table.drop_columns(["value"]), file)
    carrying = DeltaPredictionLog(bench.root, UnitCarry(tmp_path / "scratch", "log"))
    for fresh in (1, 2):
        (found,) = QUESTIONS["labels"](carrying, LOOKS[: fresh + 1], fresh)
        assert found == QUESTIONS["labels"](bench.log, LOOKS[: fresh + 1], fresh)[0]
        assert found[0].counts.labelled == 10


def spread(bench: Bench, seed: int) -> None:
    """A log with all that can go wrong with a row, its outcomes in many files by chance."""
    rows, outcomes = random_log(seed)
    bench.predictions(*rows)
    random.Random(seed).shuffle(outcomes)
    for start in range(0, len(outcomes), 5):
        bench.outcomes(*outcomes[start : start + 5])


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("seed", [3, 4])
def test_looks_have_the_numbers_of_the_whole_log(
    tmp_path: Path, kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, bench = QUESTIONS[kind], Bench(tmp_path / "log")
    spread(bench, seed)
    left: list[int] = []
    real = OutcomeMarks.holding

    def watched(self: OutcomeMarks, database: Any, files: list[str], *of: Any) -> list[str]:
        chosen = real(self, database, files, *of)
        left.append(len(files) - len(chosen))
        return chosen

    monkeypatch.setattr(OutcomeMarks, "holding", watched)
    whole = ask(bench.log, LOOKS, 0)
    carrying = DeltaPredictionLog(bench.root, UnitCarry(tmp_path / "scratch", "log"))
    assert [ask(carrying, LOOKS[: at + 1], at)[0] for at in range(len(LOOKS))] == whole
    assert kind == "units" or sum(left) > 0  # some were not read


def test_a_look_reads_only_files_that_have_an_outcome_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a label's clock is half a day behind; and requests before the look tell repeats, and no more."""
    bench = Bench(tmp_path / "log")
    bench.predictions(*(row(f"r{i}", 30 + 60 * i, unit_id=f"u{i % 3}") for i in range(60)))
    for at in range(60):
        bench.outcomes(outcome(f"r{at}", 60 * at + (40 if at != 14 else -43_200), "0"))
    files: list[list[str]] = []
    real = OutcomeMarks.holding

    def watched(self: OutcomeMarks, *of: Any) -> list[str]:
        files.append(real(self, *of))
        return files[-1]

    monkeypatch.setattr(OutcomeMarks, "holding", watched)
    carrying = DeltaPredictionLog(bench.root, UnitCarry(tmp_path / "scratch", "log"))
    for fresh in (1, 2):  # the first one reads both looks, and keeps the first of them
        (found,) = carrying.label_evidence("delays", "ro", LOOKS[: fresh + 1], fresh, MINUTE)
        assert found == bench.log.label_evidence("delays", "ro", LOOKS[: fresh + 1], fresh, MINUTE)[0]
        assert found[0].counts.labelled == 10
    read = [pq.read_table(file, columns=["request_id"]).column(0).to_pylist() for file in files[-1]]
    assert sorted(name for (name,) in read) == [f"r{i}" for i in range(10, 30)]
