"""What a champion did before a rollout, as read from real Delta tables."""

import math

import pytest
from tests.adapters.unit_log import (
    SECOND,
    START,
    TICK,
    Bench,
    Row,
    outcome,
    row,
)

from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.core.baseline import Baseline


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


def test_a_baseline_counts_a_champions_served_answers_in_and_out_of_rollouts(bench: Bench) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None}
    bench.predictions(row("a", 0, unit_id="u", **plain), row("b", 10, unit_id="u"), row("c", 20, unit_id="v"))
    bench.predictions(row("d", 30, status="error"), row("e", 40, latency_ms=math.nan), row("f", 541, **plain))
    bench.predictions(row("b", 11, unit_id="u", stage=1))  # again, in the next stage
    out: list[Row] = [
        {"version": "2"},
        {"served": False},
        {"cohort": "challenger"},
        {"arm": "challenger"},
        {"ts": START - TICK},
        {"ts": START + 600 * SECOND},
    ]
    bench.predictions(*(row(f"out{i}", 5, unit_id=f"out{i}") | changes for i, changes in enumerate(out)))
    bench.outcomes(outcome("a", 10, "1", 1.0), outcome("b", 20, "0", 4.0), outcome("c", 30, None, math.nan))
    bench.outcomes(outcome("e", 50, "1", 7.0), outcome("f", 550, "1", 50.0), outcome("d", 50, "1", 60.0))
    assert bench.baseline() == Baseline(
        requests=6,
        errors=2,
        seconds=600.0,
        due=4,  # f is too young, d failed
        labelled=3,
        wrong=1,
        units=5,
        valued=3,
        value_mean=4.0,
        value_sd=3.0,
    )


def test_a_call_that_the_champion_failed_counts_though_nobody_got_an_answer(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 6, status="timeout", served=False), row("c", 7, served=False))
    assert (bench.baseline().requests, bench.baseline().errors) == (2, 1)


@pytest.mark.parametrize(("end", "due"), [(65.0, 1), (64.999999, 0)])
def test_an_answer_is_due_once_its_maturity_has_passed(bench: Bench, end: float, due: int) -> None:
    bench.predictions(row("a", 5))
    assert bench.baseline(end).due == due


def test_a_request_that_began_before_the_baseline_is_none_of_it(bench: Bench) -> None:
    bench.predictions(row("a", -5), row("a", 5))
    assert bench.baseline().requests == 0


def test_one_value_has_no_spread(bench: Bench) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 10, None, 2.0))
    assert (bench.baseline().value_mean, bench.baseline().value_sd) == (2.0, None)


def test_values_too_large_to_be_added_up_are_missing_in_a_baseline(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 6), row("c", 7))
    bench.outcomes(outcome("a", 10, "1", 1e300), outcome("b", 10, None, -1e300), outcome("c", 10, None, 3.0))
    baseline = bench.baseline()
    assert (baseline.labelled, baseline.valued, baseline.value_mean) == (1, 1, 3.0)


def test_a_baseline_without_length_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="must be after the start"):
        bench.baseline(0)
