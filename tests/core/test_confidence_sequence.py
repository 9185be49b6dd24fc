"""The one-sided normal mixture, its inverse, and the scores that go into it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from model_rollouts.core.confidence_sequence import Scores, bound_of_total, log_e_positive, tuned_rho2


@pytest.mark.parametrize("rho2", [0.02, 1.0, 3.0])
@pytest.mark.parametrize("variance", [0.3, 5.0])
@pytest.mark.parametrize("total", [-6.0, -1.0, 0.0, 0.7, 8.0])
def test_it_is_the_integral_over_all_positive_means(total: float, variance: float, rho2: float) -> None:
    def likelihood_ratio(mean: float) -> float:
        prior = 2 * math.exp(-mean * mean / (2 * rho2)) / math.sqrt(2 * math.pi * rho2)
        return prior * math.exp(mean * total - mean * mean * variance / 2)

    expected, _ = quad(likelihood_ratio, 0, np.inf, epsabs=0, epsrel=1e-11)
    assert math.exp(log_e_positive(total, variance, rho2)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("rho2", [0.05, 1.0, 20.0])
def test_it_is_worth_exactly_1_at_the_edge_of_the_null_and_less_inside(rho2: float) -> None:
    def expected(mean: float) -> float:
        def weighted(s: float) -> float:
            return math.exp(log_e_positive(s, 2.0, rho2) - (s - 2 * mean) ** 2 / 4) / math.sqrt(4 * math.pi)

        return float(quad(weighted, -60, 60, points=[-4, 0, 4], limit=200)[0])

    assert expected(0.0) == pytest.approx(1, abs=1e-7)
    assert expected(-0.3) < 1 - 1e-3


def test_a_random_walk_without_drift_seldom_reaches_the_threshold_at_any_time() -> None:
    rng = np.random.default_rng(9)
    walks = rng.normal(size=(1000, 400)).cumsum(axis=1)
    rho2 = tuned_rho2(100, 0.05)
    bounds = np.array([bound_of_total(n, rho2, math.log(20)) for n in range(1, 401)])
    crossed = (walks >= bounds).any(axis=1).mean()
    assert crossed <= 0.05
    # the peeking z-test on the same walks, so that the walks are known to tempt
    assert (walks >= 1.645 * np.sqrt(np.arange(1, 401))).any(axis=1).mean() > 0.2


@settings(derandomize=True)
@given(st.floats(1e-6, 1e12), st.floats(1e-9, 1e6), st.floats(0.1, 60))
def test_the_bound_is_where_the_evidence_reaches_the_threshold(variance: float, width: float, log_e: float) -> None:
    rho2 = width / variance
    bound = bound_of_total(variance, rho2, log_e)
    assert log_e_positive(bound, variance, rho2) == pytest.approx(log_e, abs=1e-6)
    assert (
        log_e_positive(bound * (1 - 1e-6), variance, rho2) < log_e <= log_e_positive(bound * (1 + 1e-6), variance, rho2)
    )


def test_more_confidence_needs_a_larger_total() -> None:
    bounds = [bound_of_total(10.0, 0.1, math.log(threshold)) for threshold in (2, 20, 100, 1e6, 1e30)]
    assert bounds == sorted(set(bounds))


@pytest.mark.parametrize("variance", [1e-3, 1.0, 1e9])
def test_a_larger_total_is_always_more_evidence_across_the_change_of_formula(variance: float) -> None:
    rho2 = 0.7 / variance
    per_z = math.sqrt((variance * rho2 + 1) / rho2)
    z = np.concatenate([np.linspace(-40, 10, 4001), -30 + np.linspace(-1e-3, 1e-3, 20)])
    values = [log_e_positive(float(at) * per_z, variance, rho2) for at in np.sort(z)]
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("z", [-6.0, -9.0, -20.0, -29.99, -30.01, -38.0, 5.0])
def test_far_tails_keep_their_digits(z: float) -> None:
    from scipy.special import log_ndtr

    per_z = math.sqrt(2.0)  # variance 1, rho2 1
    expected = math.log(2) - math.log(2) / 2 + z * z / 2 + float(log_ndtr(z))
    assert log_e_positive(z * per_z, 1.0, 1.0) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("z", [1e3, 1e6, 1e9])
def test_extreme_totals_stay_finite(z: float) -> None:
    for variance in (1e-12, 1.0, 1e12):
        total = z * math.sqrt(variance)
        assert 0.2 * z * z < log_e_positive(total, variance, 3 / variance) < math.inf
        assert -2 * math.log(z) - 5 < log_e_positive(-total, variance, 3 / variance) < 0


def test_no_variance_says_nothing() -> None:
    assert log_e_positive(5.0, 0.0, 1.0) == 0
    assert log_e_positive(-5.0, 0.0, 1.0) == 0
    assert bound_of_total(0.0, 1.0, math.log(20)) == math.inf
    assert log_e_positive(5.0, math.nan, 1.0) == 0


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("variance", [0.01, 1.0, 1e6])
def test_the_boundary_is_tightest_near_the_variance_that_it_was_tuned_for(variance: float, alpha: float) -> None:
    """In standard deviations; Robbins' tuning is an approximation, good to 1 % of the best width there is."""
    tuned = tuned_rho2(variance, alpha)

    def boundary(rho2: float, at: float) -> float:
        return bound_of_total(at, rho2, -math.log(alpha)) / math.sqrt(at)

    here = boundary(tuned, variance)
    best = min(boundary(tuned * factor, variance) for factor in np.geomspace(0.01, 100, 81))
    assert here <= 1.01 * best
    for factor in (0.05, 20.0):
        assert boundary(tuned * factor, variance) > 1.03 * here
        assert boundary(tuned, variance * factor) > 1.02 * here


finite = st.floats(-1e150, 1e150)


@settings(derandomize=True, max_examples=300)
@given(st.builds(Scores, y=finite, x=finite, yy=finite, xy=finite, xx=finite, information=finite))
def test_no_sums_make_a_negative_variance_or_no_number(scores: Scores) -> None:
    assert math.isfinite(scores.theta)
    assert scores.variance >= 0
    assert 0 <= scores.variance_explained <= 1


def test_an_adjustment_out_of_all_measure_is_none() -> None:
    assert Scores(xy=1e200, xx=1e-200).theta == 0
    assert Scores(xy=1.0, xx=0.0).theta == 0
    assert Scores(xy=1.0, xx=-1.0).theta == 0
    # large and yet a number: its square is none
    assert Scores(yy=1.0, xy=1e100, xx=1e-100).variance == 0


def test_cuped_takes_away_what_was_known_before() -> None:
    rng = np.random.default_rng(10)
    x = rng.normal(size=500)
    y = 2 * x + rng.normal(size=500)
    scores = Scores(float(y.sum()), float(x.sum()), float(y @ y), float(x @ y), float(x @ x), 125.0)
    residual = y - scores.theta * x
    assert scores.theta == pytest.approx(2, abs=0.2)
    assert scores.adjusted == pytest.approx(residual.sum())
    assert scores.variance == pytest.approx(residual @ residual)
    assert scores.variance_explained == pytest.approx(0.8, abs=0.05)
    assert scores.difference == pytest.approx(residual.sum() / 125)


def test_what_says_nothing_changes_nothing() -> None:
    plain = Scores(y=3.0, yy=9.0, information=2.0)
    assert (plain.theta, plain.adjusted, plain.variance, plain.variance_explained) == (0, 3, 9, 0)
    assert plain.difference == 1.5
    assert Scores().difference is None
    assert Scores().variance_explained == 0
