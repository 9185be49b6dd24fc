"""The normalising sums against sums over the whole support, and their cost."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, logsumexp

from model_rollouts.core import hypergeometric
from model_rollouts.core.hypergeometric import log_normalisers

ODDS = np.log([0.01, 0.35, 0.8, 1.0, 1.25, 2.0, 7.5, 100.0])


def whole_sum(b: int, a: int, x: int) -> np.ndarray:
    k = np.arange(max(0, x - a), min(b, x) + 1)
    ways = -gammaln(k + 1.0) - gammaln(b - k + 1.0) - gammaln(x - k + 1.0) - gammaln(a - x + k + 1.0)
    return logsumexp(ways[:, None] + k[:, None] * ODDS, axis=0)


def worst_error(found: np.ndarray, exact: np.ndarray) -> float:
    """Only differences between odds ratios mean anything."""
    return float(np.abs((found - found[0]) - (exact - exact[0])).max())


def columns(b: int, a: int, x: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([b]), np.array([a]), np.array([x])


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(0, 200_000), st.integers(0, 200_000), st.data())
def test_window_and_stride_agree_with_the_whole_sum(b: int, a: int, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, a + b))
    found = hypergeometric._sum_window(*columns(b, a, x), ODDS)[0]
    assert worst_error(found, whole_sum(b, a, x)) < 1e-8


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.integers(0, 400), st.integers(0, 400), st.data())
def test_small_supports_are_exact(b: int, a: int, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, a + b))
    exact = whole_sum(b, a, x)
    assert worst_error(log_normalisers(*columns(b, a, x), ODDS)[0], exact) < 1e-11
    assert worst_error(hypergeometric._sum_window(*columns(b, a, x), ODDS)[0], exact) < 1e-11


@pytest.mark.parametrize(("n", "x"), [(10**6, 20_000), (10**6, 999_999), (10**6, 600), (2 * 10**6, 10**6)])
def test_a_million_requests_a_look_are_summed_exactly(n: int, x: int) -> None:
    for b in (n // 100, n // 2, n):
        found = log_normalisers(*columns(b, n, x), ODDS)[0]
        assert worst_error(found, whole_sum(b, n, x)) < 1e-7


def test_the_mass_outside_of_the_window_is_below_the_bound_that_is_claimed() -> None:
    """Bernstein's bound, at the window's half-width, for every spread from none to huge."""
    spread = np.geomspace(1e-3, 1e6, 1000)
    reach = 30 + 10 * spread
    assert (2 * np.exp(-(reach**2) / (2 * spread**2 + 2 * reach / 3))).max() < 1e-17


def test_the_stride_keeps_the_error_below_the_bound_even_when_the_spread_is_half_of_its_estimate() -> None:
    for stride in (2, 3, 10, 1000):
        spread = 2 * stride  # half of the 4 strides that the estimate has to reach
        j = np.arange(1, stride)
        error = np.exp(-(spread**2) * (1 - np.cos(2 * np.pi * j / stride))).sum()
        assert error <= 2.1 * np.exp(-8 * (spread / stride) ** 2) < 1e-13


@pytest.mark.parametrize("n", [10**9, 10**12])
def test_absurdly_large_looks_stay_finite(n: int) -> None:
    for x in (1, n // 50, 2 * n - 1):
        assert np.isfinite(log_normalisers(*columns(n, n, x), ODDS)).all()


def test_thousands_of_huge_looks_cost_little_time_and_memory() -> None:
    rng = np.random.default_rng(1)
    looks, n = 4000, 500_000
    b = np.full(looks, n)
    tracemalloc.start()
    began = time.perf_counter()
    log_normalisers(b, b, rng.binomial(2 * n, 0.1, looks), ODDS)
    took, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 5
    assert peak < 100e6
