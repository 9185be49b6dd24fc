"""Bounds of rates, quantiles and means: their coverage by enumeration, and what repeats are worth."""

import math
import random
from collections import Counter

import pytest
from scipy.stats import binom

from model_rollouts.core.evidence import latency_bin, latency_edge_ms
from model_rollouts.core.intervals import (
    Grouped,
    design_effect,
    mean_bounds,
    mean_error,
    quantile_bounds,
    quantile_of,
    rate_bounds,
)


def grouped(*groups: tuple[float, float]) -> Grouped:
    """(rows, hits) of each group."""
    return Grouped(
        sum(n for n, _ in groups),
        sum(y for _, y in groups),
        sum(n * n for n, _ in groups),
        sum(n * y for n, y in groups),
        sum(y * y for _, y in groups),
        len(groups),
    )


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [200, 1000])
def test_a_rates_bounds_are_crossed_about_as_often_as_they_say(rate: float, n: int) -> None:
    missed_low = sum(binom.pmf(k, n, rate) for k in range(n + 1) if rate_bounds(k, n, 1, 0.99)[0] > rate)
    missed_high = sum(binom.pmf(k, n, rate) for k in range(n + 1) if rate_bounds(k, n, 1, 0.99)[1] < rate)
    # Wilson's interval is no exact one: for rare events a one-sided bound misses up to twice as often
    assert max(missed_low, missed_high) < 0.031


def test_rates_at_their_ends_stay_within_0_and_1() -> None:
    assert rate_bounds(0, 1000, 1, 0.999)[0] == 0
    assert rate_bounds(1000, 1000, 1, 0.999)[1] == 1
    assert rate_bounds(0, 1000, 1, 0.999)[1] == pytest.approx(0.00946, abs=1e-4)
    assert rate_bounds(0, 0, 1, 0.999) == (0, 1)


def test_repeats_widen_the_bounds_of_a_rate() -> None:
    assert rate_bounds(50, 500, 5, 0.999) == pytest.approx(rate_bounds(10, 100, 1, 0.999))


@pytest.mark.parametrize("level", [0.5, 1.0, 0.2, math.nan])
def test_a_level_that_bounds_nothing_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level is"):
        rate_bounds(1, 10, 1, level)


@pytest.mark.parametrize(("n", "level"), [(60, 0.95), (200, 0.999), (1000, 0.99)])
def test_the_order_statistics_bound_the_quantile_as_often_as_they_say(n: int, level: float) -> None:
    # one row a bin, so that the k-th smallest is in bin k
    histogram = dict.fromkeys(range(1, n + 1), 1)
    low, high = quantile_bounds(histogram, 0.95, 1, level)
    k = next(k for k in range(1, n + 1) if latency_edge_ms(k) == low)
    assert binom.cdf(k - 1, n, 0.95) <= 1 - level < binom.cdf(k, n, 0.95)
    if math.isfinite(high):
        s = next(s for s in range(1, n + 1) if latency_edge_ms(s + 1) == high)
        assert binom.cdf(s - 1, n, 0.95) >= level > binom.cdf(s - 2, n, 0.95)
    else:
        assert binom.cdf(n - 1, n, 0.95) < level


def test_too_few_answers_bound_no_quantile() -> None:
    assert quantile_bounds({}, 0.95, 1, 0.999) == (0, math.inf)
    assert quantile_bounds({5: 1}, 0.95, 1, 0.999) == (0, math.inf)
    assert quantile_bounds({5: 50}, 0.95, 1, 0.999)[1] == math.inf


def test_repeats_widen_the_bounds_of_a_quantile() -> None:
    dice = random.Random(1)
    histogram = Counter(latency_bin(dice.lognormvariate(2, 1)) for _ in range(5000))
    plain, repeated = quantile_bounds(histogram, 0.95, 1, 0.999), quantile_bounds(histogram, 0.95, 5, 0.999)
    assert repeated[0] < plain[0] < math.exp(2 + 1.6449) < plain[1] < repeated[1]


def test_a_quantile_is_the_upper_edge_of_its_bin() -> None:
    assert quantile_of({100: 94, 200: 6}, 0.95) == latency_edge_ms(201)
    assert quantile_of({100: 95, 200: 5}, 0.95) == latency_edge_ms(101)
    assert quantile_of({}, 0.95) is None


def test_rows_of_groups_that_do_not_resemble_each_other_count_as_they_are() -> None:
    dice = random.Random(2)
    groups = [(10, sum(dice.random() < 0.3 for _ in range(10))) for _ in range(3000)]
    assert design_effect(grouped(*groups)) == pytest.approx(1, abs=0.06)


def test_rows_of_groups_that_are_all_alike_count_as_one() -> None:
    assert design_effect(grouped(*[(10, 10)] * 50, *[(10, 0)] * 150)) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("hits", [0, 1])
def test_where_nothing_differs_groups_count_as_one(hits: int) -> None:
    assert design_effect(grouped(*[(10, 10 * hits)] * 50)) == 10
    assert design_effect(grouped(*[(1, hits)] * 50)) == 1


def test_a_single_group_is_worth_one_row() -> None:
    assert design_effect(grouped((40, 10))) == 40
    assert design_effect(grouped()) == 1


def test_the_error_of_a_mean_counts_units() -> None:
    alone = grouped(*[(1, 1.0), (1, 3.0)] * 100)
    assert mean_error(alone) == pytest.approx(1 / math.sqrt(200), rel=0.01)
    together = grouped(*[(4, 4.0), (4, 12.0)] * 100)  # four equal values a unit
    assert mean_error(together) == pytest.approx(1 / math.sqrt(200), rel=0.01)
    assert mean_error(grouped((5, 5.0))) is None
    assert mean_error(grouped()) is None


def test_a_means_bounds_lie_on_both_sides_of_it() -> None:
    low, high = mean_bounds(5.0, 1.0, 0.999)
    assert (low, high) == (pytest.approx(5 - 3.0902, abs=1e-4), pytest.approx(5 + 3.0902, abs=1e-4))
