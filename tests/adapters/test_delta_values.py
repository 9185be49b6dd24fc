"""Business values as read from real Delta tables."""

import math

import pytest
from tests.adapters.unit_log import (
    DAY,
    LOOKS,
    PRIOR,
    SECOND,
    START,
    TICK,
    Bench,
    Row,
    outcome,
    row,
)

from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.core.unit_evidence import ValueSums


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf, 1e300, -1e300, 1.0000001e9])
def test_a_value_that_is_no_number_or_too_large_is_missing(bench: Bench, missing: float | None) -> None:
    bench.predictions(row("a", 1), row("b", 2))
    bench.outcomes(outcome("a", 10, "1", missing), outcome("b", 10, "1", 3.0))
    (values,) = bench.values(LOOKS[:1])
    assert (values.champion_due, values.champion_n, values.champion_y) == (2, 1, 3.0)


def test_a_unit_has_the_worth_it_had_before_the_rollout_and_a_new_one_the_mean(bench: Bench) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None}
    bench.predictions(row("p1", -500, unit_id="u", **plain), row("p2", -400, unit_id="u", **plain))
    bench.predictions(row("p3", -300, unit_id="v", **plain), row("p4", -10, unit_id="u", **plain))
    bench.outcomes(outcome("p1", -450, None, 1.0), outcome("p2", -1, None, 3.0), outcome("p3", -200, None, 8.0))
    bench.outcomes(outcome("p4", 0, None, 999.0))  # known too late to be from before the rollout
    bench.predictions(row("a", 1, unit_id="u"), row("b", 2, unit_id="v"), row("c", 3, "challenger", unit_id="new"))
    bench.outcomes(*(outcome(each, 20, None, 1.0) for each in "abc"))
    (values,) = bench.values(LOOKS[:1])
    assert (values.champion_x, values.challenger_x) == (2.0 + 8.0, 5.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"arm": "challenger"},
        {"served": False},
        {"ts": PRIOR[0] - TICK},
        {"ts": PRIOR[1]},
    ],
)
def test_what_is_no_answer_of_the_champions_before_the_rollout_is_no_worth(bench: Bench, changes: Row) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None}
    bench.predictions(row("p1", -500, unit_id="u", **plain), row("p2", -400, unit_id="u", **plain) | changes)
    known = min(changes.get("ts", START) + SECOND, START - TICK)
    bench.outcomes(outcome("p1", -400, None, 1.0), outcome("p2", -1, None, 77.0) | {"ts": known})
    bench.predictions(row("a", 1, unit_id="u"))
    bench.outcomes(outcome("a", 20, None, 1.0))
    assert bench.values(LOOKS[:1])[0].champion_x == 1.0


def test_a_repeated_request_before_the_rollout_is_worth_once(bench: Bench) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None, "unit_id": "u"}
    bench.predictions(row("p1", -500, **plain), row("p1", -499, **plain), row("p2", -400, **plain))
    bench.outcomes(outcome("p1", -400, None, 1.0), outcome("p2", -390, None, 4.0))
    bench.predictions(row("a", 1, unit_id="u"))
    bench.outcomes(outcome("a", 20, None, 1.0))
    assert bench.values(LOOKS[:1])[0].champion_x == 2.5


def test_what_a_unit_was_worth_days_before_is_read_from_files_of_that_time(bench: Bench) -> None:
    ago = (PRIOR[0] - START).total_seconds()
    bench.predictions(row("p1", ago, unit_id="u", rollout_id=None, stage=None, cohort=None))
    bench.outcomes(outcome("p1", ago + 10, None, 6.0))
    bench.predictions(row("a", 1, unit_id="u"))
    bench.outcomes(outcome("a", 20, None, 1.0))
    assert bench.values(LOOKS[:1])[0].champion_x == 6.0


def test_without_any_value_from_before_the_worth_is_zero(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2, "challenger"))
    bench.outcomes(outcome("a", 10, None, 3.0), outcome("b", 10, None, 5.0))
    assert bench.values(LOOKS[:1]) == [ValueSums(1, 1, 1, 1, 3.0, 5.0, 0.0, 0.0, 1, 1, yy=0.5, xy=0.0, xx=0.0)]


def test_a_units_score_goes_over_both_arms(bench: Bench) -> None:
    """The unit moves to the challenger between the looks; its deviations from the two means are the same."""
    bench.predictions(row("a", 1, unit_id="u"), row("b", 2, "challenger", unit_id="v"))
    bench.predictions(row("c", 601, "challenger", unit_id="u"), row("d", 602, unit_id="w"))
    bench.outcomes(outcome("a", 9, None, 4.0), outcome("b", 9, None, 2.0))
    bench.outcomes(outcome("c", 609, None, 4.0), outcome("d", 609, None, 2.0))
    first, second = bench.values(LOOKS[:2])
    assert first.yy == pytest.approx(0.5)
    # u: -0.5, then +0.5 makes 0; w is new with +0.5.
    assert second.yy == pytest.approx((0.0 - 0.25) + 0.25)
    assert (first.champion_units, first.challenger_units) == (1, 1)
    assert (second.champion_units, second.challenger_units) == (1, 1)  # u is the challenger's first time


def test_a_unit_counts_once_in_each_arm(bench: Bench) -> None:
    for at in (0, 600):
        bench.predictions(row(f"a{at}", at + 1, unit_id="u"), row(f"b{at}", at + 2, unit_id="u"))
        bench.predictions(row(f"c{at}", at + 3, "challenger", unit_id="u"))
        bench.outcomes(*(outcome(f"{each}{at}", at + 9, None, 4.0) for each in "abc"))
    assert [(each.champion_units, each.challenger_units) for each in bench.values(LOOKS[:2])] == [(1, 1), (0, 0)]


def test_a_prior_time_that_reaches_into_the_rollout_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"prior time is .* must end at 2026-03-01T12:00:00"):
        bench.values(prior=(START - DAY, START + TICK))
    with pytest.raises(ValueError, match="prior time is"):
        bench.values(prior=(START, START - DAY))


def test_the_largest_values_are_added_up(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2, "challenger"))
    bench.outcomes(outcome("a", 10, None, 1e9), outcome("b", 10, None, -1e9))
    (values,) = bench.values(LOOKS[:1])
    assert (values.champion_y, values.challenger_y, values.yy) == (1e9, -1e9, pytest.approx(5e17))


def test_a_usable_value_after_one_that_is_too_large_counts(bench: Bench) -> None:
    bench.predictions(row("a", 1))
    bench.outcomes(outcome("a", 10, None, 1e300), outcome("a", 11, None, 2.0))
    assert bench.values(LOOKS[:1])[0].champion_y == 2.0


@pytest.mark.parametrize("missing", [math.nan, 1e300])
def test_a_value_from_before_that_is_no_number_or_too_large_is_no_worth(bench: Bench, missing: float) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None, "unit_id": "u"}
    bench.predictions(row("p1", -500, **plain), row("p2", -400, **plain), row("a", 1, unit_id="u"))
    bench.outcomes(outcome("p1", -490, None, 4.0), outcome("p2", -390, None, missing), outcome("a", 20, None, 1.0))
    assert bench.values(LOOKS[:1])[0].champion_x == 4.0


def test_an_answer_that_nobody_got_has_no_value(bench: Bench) -> None:
    """The control request at a share of 100: the challenger's answer went out, the champion's did not."""
    bench.predictions(row("a", 1, served=False), row("a", 1, "challenger", cohort="champion"))
    bench.predictions(row("b", 2, "challenger"), row("c", 3, "challenger", served=False))
    bench.outcomes(*(outcome(each, 10, None, 4.0) for each in "abc"))
    (values,) = bench.values(LOOKS[:1])
    assert values == ValueSums(challenger_due=1, challenger_n=1, challenger_y=4.0, challenger_units=1)


def test_a_request_whose_first_answer_nobody_got_has_no_value_when_it_is_repeated(bench: Bench) -> None:
    bench.predictions(row("a", 1, served=False), row("a", 2))
    bench.outcomes(outcome("a", 10, None, 4.0))
    assert bench.values(LOOKS[:1]) == [ValueSums()]
