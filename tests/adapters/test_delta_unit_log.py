"""Everything about units as read from real Delta tables: random logs, maturity, silence and damage."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.log_kinds import another, damage, is_untouched
from tests.adapters.unit_log import (
    LOOKS,
    MINUTE,
    NO_UNITS,
    SECOND,
    START,
    TICK,
    Bench,
    flat,
    label_counts,
    look,
    outcome,
    random_log,
    row,
    same,
    slow_labels,
    slow_units,
    slow_values,
    sums_by_pairs,
)

from model_rollouts.adapters.delta_log import (
    LogReadError,
)
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.core.baseline import Baseline
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, ValueSums
from model_rollouts.ports import StageWindow


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


@pytest.mark.parametrize("seed", range(3))
def test_random_logs_give_the_numbers_of_the_definitions_in_one_call_and_look_by_look(
    tmp_path: Path, seed: int
) -> None:
    bench = Bench(tmp_path)
    rows, outcomes = random_log(seed)
    for part in range(3):
        bench.predictions(*rows[part::3])
        bench.outcomes(*outcomes[part::3])
    checks: list[tuple[Callable[..., Any], Any]] = [
        (bench.units, slow_units(rows, LOOKS)),
        (bench.labels, slow_labels(rows, outcomes, LOOKS, MINUTE)),
        (bench.values, slow_values(rows, outcomes, LOOKS, MINUTE)),
    ]
    for ask, expected in checks:
        assert flat(ask()) == same(expected)
        for k in range(len(LOOKS) + 1):
            assert flat(ask(LOOKS, k)) == same(expected[k:])  # looks that are counted late
            if k < len(LOOKS):
                assert flat(ask(LOOKS[: k + 1], k)) == same(expected[k : k + 1])  # each look when it is closed
    units, values = checks[0][1], checks[2][1]
    assert all(sum(counts[arm].new for counts in units[3:]) for arm in (0, 1))  # the case is no empty one
    assert all(value.champion_n and value.challenger_n and value.xx for value in values[1:])


def test_the_counts_are_those_of_the_existing_evidence(bench: Bench) -> None:
    rows, outcomes = random_log(7)
    bench.predictions(*rows)
    bench.outcomes(*outcomes)
    for stage, looks in ((0, LOOKS[:3]), (1, LOOKS[3:])):
        windows = [each.window for each in looks]
        at = slice(3 * stage, 3 * stage + 3)
        requests = bench.log.request_counts("delays", "ro", stage, windows)
        labels = label_counts(bench.log, "delays", "ro", stage, windows, MINUTE)
        for counted, units in zip(requests, bench.units()[at], strict=True):
            for mine, unit in zip(counted, units, strict=True):
                assert unit.clusters["error_rate"].judged == mine.requests
                assert unit.clusters["latency_p95"].judged == mine.requests - mine.errors
        assert [tuple(arm.judged for arm in each) for each in bench.labels()[at]] == [
            tuple(arm.labelled for arm in each) for each in labels
        ]
    bench = Bench(another(bench.root))
    bench.predictions(*(each | {"served": True} for each in rows))
    for stage, looks in ((0, LOOKS[:3]), (1, LOOKS[3:])):
        labels = label_counts(bench.log, "delays", "ro", stage, [each.window for each in looks], MINUTE)
        values = bench.values()[3 * stage : 3 * stage + 3]
        assert [(each.champion_due, each.challenger_due) for each in values] == [
            tuple(arm.due for arm in each) for each in labels
        ]


# --- maturity


@pytest.mark.parametrize(("late", "judged"), [(timedelta(0), 1), (TICK, 0)])
def test_an_outcome_counts_up_to_the_end_of_the_maturity(bench: Bench, late: timedelta, judged: int) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 65, "0", 7.0) | {"ts": START + 65 * SECOND + late}, outcome("a", 66, "1", 8.0))
    assert bench.labels()[0][0].judged == judged
    (values,) = bench.values(LOOKS[:1])
    assert (values.champion_due, values.champion_n, values.champion_y) == (1, judged, 7.0 * judged)
    baseline = bench.baseline()
    assert (baseline.due, baseline.labelled, baseline.wrong, baseline.valued) == (1, judged, judged, judged)


def test_the_first_outcome_of_a_request_counts_and_repeats_count_once(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 6))
    bench.outcomes(outcome("a", 20, "0", 2.0), outcome("a", 10, "1", 1.0), outcome("a", 10, "1", 1.0))
    assert bench.labels()[0][0].judged == 1
    assert bench.values(LOOKS[:1])[0] == ValueSums(champion_due=2, champion_n=1, champion_y=1.0, champion_units=1)


def test_a_missing_prediction_is_wrong_wherever_there_is_a_label(bench: Bench) -> None:
    bench.predictions(row("a", 5, prediction=None), row("b", 6))
    bench.outcomes(outcome("a", 20, "1"), outcome("b", 20, "1"))
    bench.predictions(row("c", 605, prediction=None, unit_id="u"), row("d", 606, unit_id="u"))
    bench.outcomes(outcome("c", 620, "1"), outcome("d", 620, "1"))
    assert flat(bench.labels()[1][0]) == same(sums_by_pairs([[("u", 1), ("u", 0)]])[0])
    assert bench.labels()[1][0].scale == pytest.approx(2 * 0.5)
    assert bench.baseline(700).wrong == 2


# --- silence and damage

NO_BASELINE = Baseline(0, 0, 600.0, 0, 0, 0, 0, 0, None, None)


def test_a_model_that_nobody_has_called_yet_has_zeros(bench: Bench) -> None:
    assert bench.units(fresh=4) == [(NO_UNITS, NO_UNITS)] * 2
    assert bench.labels() == [(ClusterSums(), ClusterSums())] * 6
    assert bench.pairs() == [PairCounts()] * 3
    assert bench.values() == [ValueSums()] * 6
    assert bench.baseline() == NO_BASELINE
    assert is_untouched(bench.root)


def test_looks_without_rows_have_zeros(bench: Bench) -> None:
    bench.predictions(row("a", 5, rollout_id="other", version="9"))
    assert bench.units() == [(NO_UNITS, NO_UNITS)] * 6
    assert bench.labels() == [(ClusterSums(), ClusterSums())] * 6
    assert bench.pairs() == [PairCounts()] * 3
    assert bench.values() == [ValueSums()] * 6
    assert bench.baseline() == NO_BASELINE


def test_answers_without_any_outcome_are_due_and_missing(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 6, "challenger"))
    assert bench.labels()[0] == (ClusterSums(), ClusterSums())
    assert bench.values()[0] == ValueSums(champion_due=1, challenger_due=1)
    assert bench.baseline() == Baseline(1, 0, 595.0, 1, 0, 0, 1, 0, None, None)  # from its first request on


def test_no_windows_give_no_results(bench: Bench) -> None:
    assert bench.units([]) == bench.labels([]) == bench.pairs(None, []) == bench.values([]) == []
    assert bench.units(fresh=6) == bench.labels(fresh=6) == bench.values(fresh=6) == []


def every_question(bench: Bench) -> list[Callable[[], Any]]:
    return [bench.units, bench.labels, bench.pairs, bench.values, bench.baseline]


@pytest.mark.parametrize("question", range(5), ids=["units", "labels", "pairs", "values", "baseline"])
def test_a_damaged_log_is_an_error_and_not_a_smaller_count(bench: Bench, question: int) -> None:
    bench.predictions(row("a", 5))
    ask = every_question(bench)[question]
    ask()
    damage(bench.root, "delays", "predictions")
    with pytest.raises(LogReadError):
        ask()


@pytest.mark.parametrize("question", [1, 3, 4], ids=["labels", "values", "baseline"])
def test_lost_outcomes_are_an_error(bench: Bench, question: int) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 10, "1", 1.0))
    damage(bench.root, "delays", "outcomes")
    with pytest.raises(LogReadError):
        every_question(bench)[question]()


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        (
            [LOOKS[1], LOOKS[0]],
            "look 1 .stage 0. begins at 2026-03-01T12:00:00.* must not begin before 2026-03-01T12:20",
        ),
        ([LOOKS[0], look(0, 1, 9)], "look 1 .stage 0. begins at 2026-03-01T12:09:00.* must not begin before"),
        ([LOOKS[1], look(1, 0, 5)], "look 1 .stage 1. begins at 2026-03-01T12:05:00.* must not begin before"),
    ],
)
def test_looks_out_of_order_are_refused(bench: Bench, looks: list[StageWindow], message: str) -> None:
    for ask in (bench.units, bench.labels, bench.values):
        with pytest.raises(ValueError, match=message):
            ask(looks, prior=(START, START)) if ask == bench.values else ask(looks)


@pytest.mark.parametrize("fresh", [-1, 7])
def test_a_position_outside_of_the_looks_is_refused(bench: Bench, fresh: int) -> None:
    with pytest.raises(ValueError, match=f"fresh is {fresh}, must be between 0 and 6"):
        bench.units(fresh=fresh)
