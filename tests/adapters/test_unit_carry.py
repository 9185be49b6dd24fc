"""Sums over units that are carried from look to look: the numbers of a log that is read whole, and what is not read."""

import logging
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.adapters.unit_log import LOOKS, MINUTE, PRIOR, START, Bench, outcome, random_log, row

from model_rollouts.adapters import delta_unit_log
from model_rollouts.adapters.delta_log import DeltaPredictionLog, LogReadError
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.adapters.unit_carry import CarryBusyError, Part, UnitCarry, merged
from model_rollouts.ports import StageWindow

Ask = Callable[[DeltaPredictionLog, list[StageWindow], int], list[Any]]
QUESTIONS: dict[str, Ask] = {
    "units": lambda log, looks, fresh: log.unit_counts("delays", "ro", looks, fresh),
    "labels": lambda log, looks, fresh: log.label_evidence("delays", "ro", looks, fresh, MINUTE),
    "pairs": lambda log, looks, fresh: log.pair_clusters("delays", "ro", looks, fresh, None),
    "values": lambda log, looks, fresh: log.value_sums("delays", "ro", looks, fresh, MINUTE, PRIOR),
}


@pytest.fixture(params=QUESTIONS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return QUESTIONS[request.param]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return filled(Bench(tmp_path / "log"))


@pytest.fixture
def carrying(bench: Bench, tmp_path: Path) -> DeltaPredictionLog:
    return DeltaPredictionLog(bench.root, UnitCarry(tmp_path / "o'brien", "log"))


def filled(bench: Bench, seed: int = 3) -> Bench:
    """A log with all that can go wrong with a row, mirrored answers among it."""
    rows, outcomes = random_log(seed)
    dice = random.Random(seed)
    mirrored = [
        each | {"arm": "challenger", "cohort": "champion", "served": False, "prediction": dice.choice("01")}
        for each in rows
        if each["arm"] == "champion" and each["stage"] is not None
    ]
    bench.predictions(*rows, *mirrored)
    bench.outcomes(*outcomes)
    return bench


def files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("o'brien/units/*/*.parquet"))


@pytest.mark.parametrize("steps", [(1, 2, 3, 4, 5, 6), (2, 5, 5, 6)])
def test_looks_that_are_closed_one_by_one_give_the_numbers_of_the_whole_log(
    bench: Bench, carrying: DeltaPredictionLog, ask: Ask, steps: tuple[int, ...]
) -> None:
    """Also when a look is asked for again, as one is that could not be kept."""
    whole = ask(bench.log, LOOKS, 0)
    kept = 0
    for closed in steps:
        assert ask(carrying, LOOKS[:closed], kept) == whole[kept:closed]
        if closed == 5:
            assert ask(carrying, LOOKS[:closed], kept) == whole[kept:closed]
        kept = closed
    assert any(each for each in whole)


@pytest.mark.parametrize("part", ["unit=7", "arm=champion"])
def test_a_folder_named_like_a_partition_is_nothing_but_a_folder(
    bench: Bench, ask: Ask, tmp_path: Path, part: str
) -> None:
    carrying = DeltaPredictionLog(bench.root, UnitCarry(tmp_path / part, "log"))
    whole = ask(bench.log, LOOKS, 0)
    assert [ask(carrying, LOOKS[: at + 1], at)[0] for at in range(len(LOOKS))] == whole


def test_a_log_in_postgresql_is_carried_as_well(log_root: LogRoot, tmp_path: Path) -> None:
    ask = QUESTIONS["labels"]
    bench = filled(Bench(log_root))
    carrying = DeltaPredictionLog(bench.root, UnitCarry(tmp_path / "o'brien", "log"))
    whole = ask(bench.log, LOOKS, 0)
    assert [ask(carrying, LOOKS[: at + 1], at)[0] for at in range(len(LOOKS))] == whole


def test_what_is_carried_is_not_read_again(bench: Bench, carrying: DeltaPredictionLog, ask: Ask) -> None:
    """A row that comes hours late is told by who reads the whole log, and not by who carries its sums on."""
    before = ask(bench.log, LOOKS, 5)
    ask(carrying, LOOKS[:5], 4)
    late = [row(f"late{i}", 60 + i, unit_id="u0", status="ok", prediction="7") for i in range(40)]
    late += [each | {"arm": "challenger", "cohort": "champion", "prediction": "0"} for each in late]
    bench.predictions(*late)
    bench.outcomes(*(outcome(f"late{i}", 61 + i, "1", 1000.0) for i in range(40)))
    assert ask(carrying, LOOKS, 5) == before
    assert ask(bench.log, LOOKS, 5) != before


def test_sums_of_other_looks_limits_or_rollouts_are_not_taken(bench: Bench, carrying: DeltaPredictionLog) -> None:
    def labels(log: DeltaPredictionLog, looks: list[StageWindow], maturity: timedelta = MINUTE) -> Any:
        return log.label_evidence("delays", "ro", looks, len(looks) - 1, maturity)

    labels(carrying, LOOKS[:3])
    moved = [LOOKS[0], *LOOKS[2:4]]
    for looks, maturity in ((moved, MINUTE), (LOOKS[:4], MINUTE / 2)):
        assert labels(carrying, looks, maturity) == labels(bench.log, looks, maturity)
    carrying.unit_counts("delays", "ro", LOOKS[:3], 2)
    other = carrying.unit_counts("delays", "no", LOOKS[:4], 3)
    assert other == bench.log.unit_counts("delays", "no", LOOKS[:4], 3)


def test_sums_of_another_log_are_not_taken_and_those_of_this_one_are_by_the_next_process(
    bench: Bench, carrying: DeltaPredictionLog, tmp_path: Path
) -> None:
    carrying.unit_counts("delays", "ro", LOOKS[:3], 2)
    before = files(tmp_path)
    next_process = DeltaPredictionLog(bench.root, UnitCarry(tmp_path / "o'brien", "log"))
    next_process.unit_counts("delays", "ro", LOOKS[:4], 3)
    assert {file.parent for file in files(tmp_path)} == {file.parent for file in before}
    empty = DeltaPredictionLog(tmp_path / "other", UnitCarry(tmp_path / "o'brien", "other"))
    assert not any(
        champion.new or challenger.new for champion, challenger in empty.unit_counts("delays", "ro", LOOKS, 3)
    )


@pytest.mark.parametrize(("kind", "damage"), [("units", b""), ("values", b"PAR1 no more"), ("values", None)])
def test_damaged_sums_are_told_and_made_again(
    bench: Bench, carrying: DeltaPredictionLog, kind: str, tmp_path: Path, damage: bytes | None, caplog: Any
) -> None:
    ask = QUESTIONS[kind]
    whole = ask(bench.log, LOOKS, 0)
    for at in range(1, 5):
        ask(carrying, LOOKS[: at + 1], at)
    assert files(tmp_path)
    for file in files(tmp_path):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert ask(carrying, LOOKS, 5) == whole[5:]
    assert ("made again" in caplog.text) is (damage is not None)
    assert ask(carrying, LOOKS, 5) == whole[5:]
    caplog.clear()
    assert ask(carrying, LOOKS, 5) == whole[5:]
    assert not caplog.text


def test_a_full_disk_costs_the_carry_and_no_number(
    bench: Bench, carrying: DeltaPredictionLog, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise duckdb.IOException("no space left on device")

    monkeypatch.setattr("model_rollouts.adapters.carried_looks._write", full)
    assert ask(carrying, LOOKS, 3) == ask(bench.log, LOOKS, 3)


def test_a_folder_of_somebody_else_is_not_used(bench: Bench, tmp_path: Path, caplog: Any) -> None:
    ask = QUESTIONS["units"]
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    log = DeltaPredictionLog(bench.root, UnitCarry(folder, "log"))
    with caplog.at_level(logging.WARNING):
        assert ask(log, LOOKS, 3) == ask(bench.log, LOOKS, 3)
    assert "must be this user's" in caplog.text
    assert not list(folder.iterdir())


def test_there_are_few_files_however_many_looks(bench: Bench, carrying: DeltaPredictionLog, tmp_path: Path) -> None:
    thin = [
        StageWindow(each.stage, type(each.window)(5 * each.window.index + part, start, start + 2 * MINUTE))
        for each in LOOKS
        for part in range(5)
        for start in [each.window.start + part * 2 * MINUTE]
    ]
    whole = bench.log.unit_counts("delays", "ro", thin, 0)
    for at in range(1, len(thin)):
        assert carrying.unit_counts("delays", "ro", thin[: at + 1], at) == whole[at : at + 1]
        assert len(files(tmp_path)) <= 7
    assert not list(tmp_path.glob("o'brien/units/*/.*parquet*"))


def test_what_nobody_asks_for_any_more_is_removed(bench: Bench, carrying: DeltaPredictionLog, tmp_path: Path) -> None:
    carrying.unit_counts("delays", "ro", LOOKS[:2], 1)
    (old,) = (tmp_path / "o'brien" / "units").iterdir()
    os.utime(old, (0, 0))
    carrying.unit_counts("delays", "other", LOOKS[:2], 1)
    assert not old.exists()
    assert len(list((tmp_path / "o'brien" / "units").iterdir())) == 1


def test_many_may_read_sums_and_one_may_write_while_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_rollouts.adapters.unit_carry._LOCK_SECONDS", 0.1)
    carry = UnitCarry(tmp_path / "scratch", "log")
    with carry.open(["question"]) as one, carry.open(["question"]), one.writing() as free:
        assert not free
    with carry.open(["question"]) as one:
        left = one.other("new").with_name(".new.parquet.123")
        left.write_text("of a process that was killed")
        with one.writing() as free:
            assert free
            assert not left.exists()
            with pytest.raises(CarryBusyError, match=r"writing to .* for 0.1 s"), carry.open(["question"]):
                pass
        with carry.open(["question"]):
            pass


def test_a_log_is_read_whole_while_another_process_writes_its_sums_for_long(
    bench: Bench, carrying: DeltaPredictionLog, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    ask = QUESTIONS["units"]
    monkeypatch.setattr("model_rollouts.adapters.unit_carry._locked", lambda *_: False)
    with caplog.at_level(logging.WARNING):
        assert ask(carrying, LOOKS, 3) == ask(bench.log, LOOKS, 3)
    assert "another process has been writing" in caplog.text


def test_a_look_that_was_not_kept_is_counted_again(bench: Bench, carrying: DeltaPredictionLog, ask: Ask) -> None:
    """The store may have another process's count of it, or none."""
    ask(carrying, LOOKS[:5], 4)
    inside = (LOOKS[4].window.start - START).total_seconds() + 10
    late = [row(f"late{i}", inside + i, unit_id=f"u{i % 3}", stage=1, prediction="7") for i in range(40)]
    late += [each | {"arm": "challenger", "cohort": "champion", "prediction": "0"} for each in late]
    bench.predictions(*late)
    bench.outcomes(*(outcome(f"late{i}", inside + i + 1, "1", 1000.0) for i in range(40)))
    assert ask(carrying, LOOKS, 5) == ask(bench.log, LOOKS, 5)


def test_a_query_that_does_not_fit_leaves_the_sums_alone(
    bench: Bench, carrying: DeltaPredictionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = QUESTIONS["units"]
    ask(carrying, LOOKS[:4], 3)
    before = files(tmp_path)
    query = delta_unit_log.UNIT_COUNTS
    sums = query.sums.replace("sum(units * asked) AS judged_1", "sum(error('too much')) AS judged_1")
    monkeypatch.setattr(delta_unit_log, "UNIT_COUNTS", replace(query, sums=sums))
    with pytest.raises(LogReadError, match=r"looks of delays: .*too much"):
        ask(carrying, LOOKS[:5], 4)
    monkeypatch.undo()
    assert files(tmp_path) == before != []
    assert ask(carrying, LOOKS[:5], 4) == ask(bench.log, LOOKS[:5], 4)


def parts(*rows: int) -> Iterator[Part]:
    return (Part(Path(str(at)), at, at + 1, n) for at, n in enumerate(rows))


@pytest.mark.parametrize(
    ("rows", "new", "merges"), [((), 5, 0), ((100,), 5, 0), ((10,), 5, 1), ((100, 25, 9), 5, 2), ((100, 12), 5, 0)]
)
def test_parts_are_merged_until_one_is_twice_as_large(rows: tuple[int, ...], new: int, merges: int) -> None:
    assert merged(list(parts(*rows)), new) == merges
