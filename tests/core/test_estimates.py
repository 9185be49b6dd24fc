"""Estimates and their intervals: golden values, how often they hold, and what has none."""

import math
import random

import pytest

from model_rollouts.core.estimates import (
    Estimate,
    difference,
    mean,
    quantile,
    root_mean_square,
    share,
    unknown,
    variance,
    wilson,
)


def test_a_share_of_nothing_is_unknown_and_never_zero() -> None:
    found = share(0, 0, "no requests")
    assert (found.value, found.low, found.high, found.reason) == (None, None, None, "no requests")
    with pytest.raises(ValueError, match="count is 3 of 2, must be between 0 and 2"):
        share(3, 2, "")
    with pytest.raises(ValueError, match="count is 1 of 0"):
        share(1, 0, "")
    with pytest.raises(ValueError, match="of is 0, must be at least 1"):
        wilson(0, 0)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows_have_no_interval(n: int) -> None:
    found = mean(n, float(n), float(n), "nothing there")
    assert (found.low, found.high) == (None, None)
    assert found.value == (1.0 if n else None)
    assert found.reason
    with pytest.raises(ValueError, match=f"n is {n}, must be at least 2"):
        variance(n, 0, 0)


def test_sums_beyond_a_float_are_unknown() -> None:
    assert mean(5, math.inf, math.inf, "").value is None
    assert mean(5, 1.0, math.nan, "").value is None


def test_means_are_those_of_the_rows() -> None:
    rows = [1.0, 2.0, 4.0, 9.0]
    found = mean(4, sum(rows), sum(row * row for row in rows), "")
    assert found.value == 4.0
    assert found.high == pytest.approx(4 + 1.959964 * math.sqrt(38 / 3 / 4))  # statistics.variance(rows) == 38 / 3
    root = root_mean_square(4, sum(row**2 for row in rows), sum(row**4 for row in rows), "")
    assert root.value == pytest.approx(math.sqrt(102 / 4))
    assert root.low == 0.0


def test_quantiles_are_of_ranks() -> None:
    histogram = dict.fromkeys(range(1000), 10)
    found = quantile(histogram, 0.5, float, "")
    assert (found.value, found.low, found.high) == (500.0, 490.0, 510.0)  # ranks 5000 +- 98
    assert quantile({3: 5}, 0.99, float, "").low is None
    assert quantile({3: 5}, 0.99, float, "").value == 4.0
    assert quantile({}, 0.5, float, "no answers").reason == "no answers"
    with pytest.raises(ValueError, match="q is 1, must be between 0 and 1"):
        quantile(histogram, 1, float, "")


def test_the_difference_of_rates_is_newcombes() -> None:
    # Newcombe (1998), table II, (a) 56/70 - 48/80, method 10
    found = difference(share(56, 70, ""), share(48, 80, ""))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_difference_needs_both_and_says_which_is_missing() -> None:
    known = share(1, 10, "")
    assert difference(known, unknown("no labels")).reason == "champion: no labels"
    assert difference(unknown("no labels"), known).reason == "challenger: no labels"
    half = difference(Estimate(1.0, None, None, 1, "one row has no interval"), known)
    assert (half.value, half.low, half.reason) == (0.9, None, "one row has no interval")
    bound = difference(Estimate(0.5, 0.4, 0.6, 9, bound=0.01), Estimate(0.5, 0.4, 0.6, 9, bound=0.02))
    assert bound.bound == pytest.approx(0.03)


def test_the_difference_of_means_covers_what_it_says() -> None:
    rng = random.Random(3)
    covered = 0
    for _ in range(400):
        arms = []
        for centre in (1.0, 1.3):
            rows = [rng.gauss(centre, 1) for _ in range(60)]
            arms.append(mean(60, sum(rows), sum(row * row for row in rows), ""))
        found = difference(arms[1], arms[0])
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert 0.92 <= covered / 400 <= 0.98
