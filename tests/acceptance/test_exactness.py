"""Promise 1: the expectation of each e-value is 1 at the edge of its null and at most 1 inside, by enumeration."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from model_rollouts.core.odds_ratio import better_than, count_log_likelihood_ratios, mix_starts, worse_than
from model_rollouts.core.proportion import log_e_rate_above, log_e_rate_below
from model_rollouts.core.sample_ratio import log_e_mismatch_over

EXACT = 1e-12
NULLS = [1.0, 1.25, 1.5, 4.0]
SMALL = [(b, a, x) for b in range(1, 8) for a in range(1, 10) for x in range(b + a + 1)]
Grid = Callable[[float], tuple[float, ...]]


def tables(b: int, a: int, x: int, odds: float) -> tuple[np.ndarray, np.ndarray]:
    """Every table with these totals, and its probability at an odds ratio, from binomial coefficients alone."""
    k = range(max(0, x - a), min(b, x) + 1)
    weights = [math.comb(b, i) * math.comb(a, x - i) * odds**i for i in k]
    return np.array([(i, b, x - i, a) for i in k], np.int64), np.array(weights) / math.fsum(weights)


def expectations(shapes: list[tuple[int, int, int]], odds: float, null: float, grid: Grid) -> np.ndarray:
    """E[e] of one look of each shape, at the given odds ratio."""
    drawn = [tables(*shape, odds) for shape in shapes]
    gains = count_log_likelihood_ratios(np.concatenate([t for t, _ in drawn]), null, grid(null))
    e = np.exp(gains).mean(axis=1) * np.concatenate([p for _, p in drawn])
    ends = np.cumsum([len(p) for _, p in drawn])
    return np.array([math.fsum(part) for part in np.split(e, ends[:-1])])


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("grid", [worse_than, better_than])
def test_the_expectation_is_1_at_the_edge_of_the_null_for_every_small_table(grid: Grid, null: float) -> None:
    assert np.abs(expectations(SMALL, null, null, grid) - 1).max() <= EXACT


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("inside", [0.05, 0.4, 0.8, 0.99])
def test_the_expectation_is_at_most_1_inside_the_null(inside: float, null: float) -> None:
    assert expectations(SMALL, null * inside, null, worse_than).max() <= 1 + EXACT
    assert expectations(SMALL, null / inside, null, better_than).max() <= 1 + EXACT


def test_outside_the_null_the_expectation_exceeds_1() -> None:
    """The control: the enumeration can tell."""
    telling = [(b, a, x) for b, a, x in SMALL if 0 < x < a + b]
    assert expectations(telling, 2.0, 1.0, worse_than).min() > 1


@pytest.mark.parametrize("starts", [(0,), (0, 1), (0, 1, 2), (0, 2, 2)])
def test_the_expectation_after_three_looks_is_1_with_any_starts(starts: tuple[int, ...]) -> None:
    null, shapes = 1.25, [(3, 5, 2), (4, 4, 3), (2, 6, 4)]
    drawn = [tables(*shape, null) for shape in shapes]
    gains = [count_log_likelihood_ratios(t, null, worse_than(null)) for t, _ in drawn]
    total = math.fsum(
        math.prod(float(drawn[look][1][i]) for look, i in enumerate(path))
        * math.exp(mix_starts(np.stack([gains[look][i] for look, i in enumerate(path)]), starts)[-1])
        for path in np.ndindex(*(len(p) for _, p in drawn))
    )
    assert abs(total - 1) <= EXACT


def binomial(n: int, p: float) -> list[float]:
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize("edge", [0.005, 0.02, 0.3])
def test_the_test_of_one_rate_has_expectation_1_at_its_edge_and_less_inside(n: int, edge: float) -> None:
    def mean(log_e: Callable[[int, int, float], float], rate: float) -> float:
        return math.fsum(p * math.exp(log_e(k, n, edge)) for k, p in enumerate(binomial(n, rate)))

    assert abs(mean(log_e_rate_below, edge) - 1) <= EXACT
    assert abs(mean(log_e_rate_above, edge) - 1) <= EXACT
    assert mean(log_e_rate_below, edge * 1.5) <= 1
    assert mean(log_e_rate_above, edge / 1.5) <= 1


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_the_assignment_test_has_expectation_1_over_two_periods(share: float) -> None:
    first, second = binomial(12, share), binomial(9, 2 * share * 0.9)
    total = math.fsum(
        p * q * math.exp(log_e_mismatch_over([(i, 12 - i, share), (j, 9 - j, 2 * share * 0.9)]))
        for i, p in enumerate(first)
        for j, q in enumerate(second)
    )
    assert abs(total - 1) <= 1e-10  # its log-gammas are near 40,000, of which 1e-11 is the last digit
