"""Evidence of a whole rollout from one reading of the log: the numbers are those of one question after the other."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.test_comparison import rollout
from tests.adapters.unit_log import (
    DAY,
    LOOKS,
    MINUTE,
    PRIOR,
    START,
    Bench,
    flat,
    look,
    outcome,
    random_log,
    row,
    same,
    slow_labels,
    slow_units,
    slow_values,
)

from model_rollouts.adapters import looks_at_once
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import EngineLog
from model_rollouts.adapters.postgres_engine import PostgresEngine
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.looks import due_looks
from model_rollouts.ports import StageWindow

FEW = [LOOKS[0], LOOKS[1]]
MANY = [look(0, at, at * 2, 2) for at in range(15)] + [look(1, at, 35 + at * 2, 2) for at in range(15)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "log")


def filled(bench: Bench, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, outcomes = random_log(seed)
    bench.predictions(*rows)
    bench.outcomes(*outcomes)
    return rows, outcomes


def parts(log: DeltaPredictionLog, looks: Sequence[StageWindow]) -> list[Any]:
    by_stage = {stage: [each.window for each in looks if each.stage == stage] for stage in (0, 1)}
    return [
        [log.request_counts("delays", "ro", stage, windows) for stage, windows in by_stage.items()],
        log.unit_counts("delays", "ro", looks, 0),
        log.label_evidence("delays", "ro", looks, 0, MINUTE),
        log.value_sums("delays", "ro", looks, 0, MINUTE, PRIOR),
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("looks", [LOOKS, MANY, FEW], ids=["six looks", "thirty looks", "two looks"])
@pytest.mark.parametrize(("rows_at_once", "classes"), [(10**6, 10**6), (7, 10**6), (7, 3)])
def test_the_numbers_are_those_of_one_question_after_the_other(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    looks: list[StageWindow],
    rows_at_once: int,
    classes: int,
) -> None:
    filled(bench, seed)
    monkeypatch.setattr(looks_at_once, "_ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(looks_at_once, "_ROWS_IN_ORDER", rows_at_once)
    monkeypatch.setattr(looks_at_once, "_MOST_CLASSES", classes)
    with bench.log.at_once("delays", "ro", looks, MINUTE) as once:
        assert once is not bench.log
        monkeypatch.setattr(DeltaPredictionLog, "_run", None)  # nothing more is asked of the log
        found = parts(once, looks)
    monkeypatch.undo()
    assert found == parts(bench.log, looks)


def test_sums_beyond_64_bits_are_added_up_by_the_database(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(bench, 2)

    def add(*_: Any) -> None:
        raise OverflowError

    monkeypatch.setattr(looks_at_once.EarlierSums, "add", add)
    with bench.log.at_once("delays", "ro", MANY, MINUTE) as once:
        assert parts(once, MANY) == parts(bench.log, MANY)


def test_they_are_those_counted_in_plain_python(bench: Bench) -> None:
    rows, outcomes = filled(bench, 11)
    with bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        _, units, labels, values = parts(once, LOOKS)
    assert flat(units) == same(slow_units(rows, LOOKS))
    clusters = [(champion.clusters, challenger.clusters) for champion, challenger in labels]
    assert flat(clusters) == same(slow_labels(rows, outcomes, LOOKS, MINUTE))
    assert flat(values) == same(slow_values(rows, outcomes, LOOKS, MINUTE))


def test_labels_of_the_looks_that_are_mature_come_from_the_same_reading(bench: Bench) -> None:
    filled(bench, 5)
    mature = LOOKS[:4]
    with bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        found = (
            once.label_evidence("delays", "ro", mature, 0, MINUTE),
            once.value_sums("delays", "ro", mature, 0, MINUTE, PRIOR),
        )
    assert found == (
        bench.log.label_evidence("delays", "ro", mature, 0, MINUTE),
        bench.log.value_sums("delays", "ro", mature, 0, MINUTE, PRIOR),
    )


def test_whatever_else_is_asked_is_asked_of_the_log(bench: Bench) -> None:
    filled(bench, 6)
    other = [look(0, 0, 5, 5), look(0, 1, 10, 5)]
    asked = {
        "other looks": lambda log: parts(log, other),
        "another maturity": lambda log: log.label_evidence("delays", "ro", LOOKS, 0, 2 * MINUTE),
        "later looks": lambda log: log.unit_counts("delays", "ro", LOOKS, 3),
        "another rollout": lambda log: log.unit_counts("delays", "no", LOOKS, 0),
        "its requests": lambda log: log.request_counts("delays", "no", 0, [each.window for each in LOOKS[:3]]),
        "pairs": lambda log: log.pair_clusters("delays", "ro", LOOKS, 0, None),
        "another prior": lambda log: log.value_sums("delays", "ro", LOOKS, 0, MINUTE, (START - DAY, START - MINUTE)),
    }
    with bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        for what, ask in asked.items():
            assert ask(once) == ask(bench.log), what
        assert parts(once, LOOKS) == parts(bench.log, LOOKS)


def test_a_log_without_rows_has_none(bench: Bench) -> None:
    with bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        assert parts(once, LOOKS) == parts(bench.log, LOOKS)
    bench.predictions(row("r1", rollout_id="other"))
    with bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        assert parts(once, LOOKS) == parts(bench.log, LOOKS)


def test_without_outcomes_nothing_is_labelled_and_everything_is_due(bench: Bench) -> None:
    rows, _ = random_log(9)
    bench.predictions(*rows)
    with bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        found = parts(once, LOOKS)
    assert found == parts(bench.log, LOOKS)
    assert all(arm.counts.due > 0 == arm.counts.labelled for pair in found[2] for arm in pair)


# --- units are told apart by a hash, as far as it tells them apart


def rows_of_units(*units: str | None) -> list[dict[str, Any]]:
    return [row(f"r{at}", at, unit_id=unit) for at, unit in enumerate(units)]


@pytest.mark.parametrize(
    ("units", "told_apart"),
    [(["a", "bb", "a"], True), (["a", "b"], False), (["a", None], True), ([None, None], False)],
    ids=["units", "two units", "a unit and a request", "two requests"],
)
def test_units_of_one_hash_are_counted_by_their_names(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    units: list[str | None],
    told_apart: bool,
) -> None:
    bench.predictions(*rows_of_units(*units))
    monkeypatch.setattr(looks_at_once, "_SAME_CODE", looks_at_once._SAME_CODE.replace("hash(", "length("))
    with caplog.at_level(logging.WARNING), bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        assert (once is not bench.log) == told_apart
        assert parts(once, LOOKS) == parts(bench.log, LOOKS)
    assert ("two units have one hash" in caplog.text) != told_apart


def test_a_unit_of_before_the_rollout_with_the_hash_of_another_one_is_told_apart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = row("old", -3600.0, unit_id="b", rollout_id=None, stage=None, cohort=None)
    bench.predictions(*rows_of_units("a", "long"), before)
    bench.outcomes(outcome("old", -3500.0, None, 7.0), outcome("r0", 5.0, "1", 3.0), outcome("r1", 5.0, "1", 4.0))
    monkeypatch.setattr(looks_at_once, "_SAME_CODE", looks_at_once._SAME_CODE.replace("hash(", "length("))
    with caplog.at_level(logging.WARNING), bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        assert once is not bench.log
        assert parts(once, LOOKS) == parts(bench.log, LOOKS)
        assert parts(once, LOOKS) == parts(bench.log, LOOKS)  # units and labels after the values
    assert "business values of ro are counted by themselves: two units have one hash" in caplog.text


# --- who asks


def test_a_log_that_can_not_be_read_is_asked_as_ever(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    filled(bench, 7)
    for file in table_path(bench.log.root, "delays", "predictions").rglob("*.parquet"):  # type: ignore[arg-type]
        file.write_bytes(b"no Parquet")
    with caplog.at_level(logging.WARNING), bench.log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        assert once is bench.log
        with pytest.raises(LogReadError):
            once.unit_counts("delays", "ro", LOOKS, 0)
    assert "looks of ro are counted part by part" in caplog.text


def test_a_log_that_another_engine_is_asked_for_is_asked_part_by_part(bench: Bench) -> None:
    log = DeltaPredictionLog(EngineLog(bench.root, PostgresEngine()))
    with log.at_once("delays", "ro", LOOKS, MINUTE) as once:
        assert once is log


class CountingLog(DeltaPredictionLog):
    readings = 0

    def at_once(self, *asked: Any) -> Any:
        self.readings += 1
        return super().at_once(*asked)


def test_a_rollout_that_nothing_is_known_of_is_counted_from_one_reading(bench: Bench) -> None:
    filled(bench, 8)
    plan = replace(plan_canary(CanaryParameters(steps=(10, 50, 100), look_seconds=600.0)), label_maturity_seconds=60.0)
    asked = rollout(plan=plan)
    log, now = CountingLog(bench.root), START + timedelta(seconds=1300 + plan.grace_seconds)
    spans = {0: (START, None)}
    first = due_looks(log, asked, spans, [], now)
    assert (len(first.looks), first.failure, log.readings) == (2, "", 1)
    one_by_one = due_looks(log, asked, spans, first.looks[:1], now)
    assert one_by_one.looks == first.looks[1:]
    assert log.readings == 1
