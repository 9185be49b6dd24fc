"""Distances: golden values from scipy, brute force on the values themselves, and what chance does."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, wasserstein_distance

from model_rollouts.core.drift import (
    js_distance,
    missing_difference,
    pooled,
    psi,
    psi_of_chance,
    quantile_bins,
    same_missing,
    same_shares,
    wasserstein,
    wasserstein_of_chance,
)

COUNTS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=1, max_size=30)


@given(COUNTS)
def test_js_distance_is_scipys(pairs: list[tuple[int, int]]) -> None:
    reference, current = [a for a, _ in pairs], [b for _, b in pairs]
    found = js_distance(reference, current)
    if not sum(reference) or not sum(current):
        assert found is None
    else:
        assert found == pytest.approx(float(jensenshannon(reference, current, 2)), abs=1e-7)


@given(COUNTS)
def test_wasserstein_is_scipys(pairs: list[tuple[int, int]]) -> None:
    reference, current = [a for a, _ in pairs], [b for _, b in pairs]
    positions = [at**1.5 - 3 for at in range(len(pairs))]
    found = wasserstein(positions, reference, current)
    if not sum(reference) or not sum(current):
        assert found is None
    else:
        assert found == pytest.approx(wasserstein_distance(positions, positions, reference, current), abs=1e-9)


@given(COUNTS)
def test_psi_is_its_formula_and_no_less_than_nothing(pairs: list[tuple[int, int]]) -> None:
    reference, current = [a for a, _ in pairs], [b for _, b in pairs]
    found = psi(reference, current)
    if not sum(reference) or not sum(current):
        assert found is None
        return
    p = (np.array(reference) + 0.5) / (sum(reference) + 0.5 * len(pairs))
    q = (np.array(current) + 0.5) / (sum(current) + 0.5 * len(pairs))
    assert found == pytest.approx(float(((p - q) * np.log(p / q)).sum()), abs=1e-9)
    assert found >= 0


def test_golden_values() -> None:
    assert psi([100, 200, 300], [300, 200, 100]) == pytest.approx(2 * (1 / 3) * math.log(3), rel=1e-2)
    assert psi([1_000_000, 0], [0, 1_000_000]) == pytest.approx(2 * math.log(2_000_001), rel=1e-4)
    assert js_distance([1, 0], [0, 1]) == 1.0
    assert js_distance([5, 5], [50, 50]) == 0.0
    assert wasserstein([0.0, 10.0], [4, 0], [0, 9]) == 10.0
    assert missing_difference(1, 10, 5, 10) == pytest.approx(0.4)
    assert missing_difference(5, 10, 0, 10) == -0.5


@pytest.mark.parametrize("sides", [([0, 0], [1, 2]), ([1, 2], [0, 0]), ([0], [0]), ([], [])])
def test_an_empty_side_has_no_number(sides: tuple[list[int], list[int]]) -> None:
    assert psi(*sides) is None
    assert js_distance(*sides) is None
    assert wasserstein([float(at) for at in range(len(sides[0]))], *sides) is None
    assert same_shares(*sides) is None
    with pytest.raises(ValueError, match="a side has no values"):
        wasserstein_of_chance([float(at) for at in range(len(sides[0]))], *sides, 0.01)
    assert missing_difference(0, 0, 1, 2) is None
    assert missing_difference(1, 2, 0, 0) is None
    with pytest.raises(ValueError, match="a side has no rows"):
        same_missing(0, 0, 1, 2)


@pytest.mark.parametrize("measure", [psi, js_distance, same_shares, pooled])
@pytest.mark.parametrize(
    ("sides", "message"), [(([1], [1, 2]), "must be equally many"), (([1, -1], [1, 1]), "a count is negative")]
)
def test_counts_that_do_not_fit_are_refused(measure, sides, message) -> None:
    with pytest.raises(ValueError, match=message):
        measure(*sides)


def test_positions_must_increase_and_missing_fit_the_rows() -> None:
    for positions in ([1.0, 1.0], [2.0, 1.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="strictly increasing"):
            wasserstein(positions, [1, 1], [1, 1])
    with pytest.raises(ValueError, match="has 3 of 2 rows"):
        missing_difference(3, 2, 0, 1)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=2, max_size=12))
def test_the_test_of_shares_is_scipys_on_bins_that_are_large_enough(pairs: list[tuple[int, int]]) -> None:
    reference, current = pooled([a for a, _ in pairs], [b for _, b in pairs])
    assert sum(reference) == sum(a for a, _ in pairs)
    assert sum(current) == sum(b for _, b in pairs)
    found = same_shares(reference, current)
    if not sum(reference) or not sum(current):
        assert found is None
    elif len(reference) < 2:
        assert found == 1.0
    else:
        theirs = chi2_contingency([reference, current], correction=False)
        assert found == pytest.approx(theirs.pvalue, abs=1e-9)
        assert theirs.expected_freq.min() >= 5 - 1e-9


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 12))
def test_quantile_bins_cover_everything_once(counts: list[int], bins: int) -> None:
    cuts = quantile_bins(counts, bins)
    assert cuts == sorted(set(cuts))
    assert len(cuts) < bins
    assert all(0 <= cut < len(counts) for cut in cuts)


def test_quantile_bins_are_of_one_size_where_the_counts_let_them() -> None:
    assert quantile_bins([10] * 100, 10) == [9, 19, 29, 39, 49, 59, 69, 79, 89]
    assert quantile_bins([1, 1, 1, 900, 1, 1, 1], 10) == [2, 3]  # what is too large stays alone
    assert quantile_bins([5], 10) == []


def rates_without_drift(n: int, m: int, level: float, rounds: int) -> dict[str, float]:
    """How often each chance bound is crossed where both sides are of one law."""
    rng = np.random.default_rng(7)
    positions = [float(at) for at in range(60)]
    law = np.exp(-((np.arange(60) - 20) ** 2) / 200)
    law /= law.sum()
    crossed = {"shares": 0, "wasserstein": 0, "missing": 0}
    for _ in range(rounds):
        reference, current = rng.multinomial(n, law).tolist(), rng.multinomial(m, law).tolist()
        cuts = [-1, *quantile_bins(reference, 10), 59]
        sides = [[sum(side[a + 1 : b + 1]) for a, b in pairwise(cuts)] for side in (reference, current)]
        crossed["shares"] += (same_shares(*pooled(*sides)) or 0) <= level
        distance = wasserstein(positions, reference, current)
        assert distance is not None
        crossed["wasserstein"] += distance > wasserstein_of_chance(positions, reference, current, level)[1]
        missing = rng.binomial(n, 0.03), rng.binomial(m, 0.03)
        crossed["missing"] += same_missing(missing[0], n, missing[1], m) <= level
    return {name: count / rounds for name, count in crossed.items()}


@pytest.mark.parametrize(("n", "m"), [(200, 200), (5_000, 200)])
def test_chance_crosses_its_bounds_as_seldom_as_they_say(n: int, m: int) -> None:
    rounds, level = 4_000, 0.01
    noise = 3 * math.sqrt(level / rounds)
    for name, rate in rates_without_drift(n, m, level, rounds).items():
        assert rate <= level + noise, name


def test_psi_without_drift_is_on_average_what_chance_makes_of_it() -> None:
    rng = np.random.default_rng(3)
    found = [
        psi(rng.multinomial(400, [0.1] * 10).tolist(), rng.multinomial(200, [0.1] * 10).tolist()) for _ in range(2000)
    ]
    assert np.mean(found) == pytest.approx(psi_of_chance(10, 400, 200), rel=0.05)


def test_wasserstein_without_drift_is_on_average_what_chance_makes_of_it() -> None:
    rng = np.random.default_rng(4)
    positions = [float(at) for at in range(30)]
    pairs = [
        (rng.multinomial(300, [1 / 30] * 30).tolist(), rng.multinomial(500, [1 / 30] * 30).tolist()) for _ in range(800)
    ]
    distances = [wasserstein(positions, *pair) for pair in pairs]
    means = [wasserstein_of_chance(positions, *pair, 0.01)[0] for pair in pairs]
    assert np.mean(distances) == pytest.approx(np.mean(means), rel=0.05)
