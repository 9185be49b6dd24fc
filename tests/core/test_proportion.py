import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from model_rollouts.core import proportion
from model_rollouts.core.proportion import highest_rate, log_e_rate_above, log_e_rate_below, lowest_rate


@pytest.mark.parametrize("ceiling", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("n", [0, 1, 2, 17, 60])
def test_it_is_worth_exactly_1_at_the_ceiling(n: int, ceiling: float) -> None:
    total = math.fsum(binom.pmf(k, n, ceiling) * math.exp(log_e_rate_below(k, n, ceiling)) for k in range(n + 1))
    assert total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rate", [0.021, 0.05, 0.5, 1.0])
def test_it_is_worth_at_most_1_above_the_ceiling(rate: float) -> None:
    total = math.fsum(binom.pmf(k, 40, rate) * math.exp(log_e_rate_below(k, 40, 0.02)) for k in range(41))
    assert total <= 1 + 1e-12


def test_no_stopping_rule_gains_at_the_ceiling() -> None:
    """Backwards over every sequence of 12 outcomes: the best that a gambler can do is 1."""
    ceiling, length = 0.1, 12

    def value(bad: int, n: int) -> float:
        now = math.exp(log_e_rate_below(bad, n, ceiling))
        if n == length:
            return now
        return max(now, ceiling * value(bad + 1, n + 1) + (1 - ceiling) * value(bad, n + 1))

    assert value(0, 0) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("bad", "n", "ceiling"), [(0, 10, 0.02), (3, 50, 0.1), (9, 10, 0.5), (20, 20, 0.3), (0, 0, 0.7)]
)
def test_the_closed_form_is_the_integral(bad: int, n: int, ceiling: float) -> None:
    def ratio(p: float) -> float:
        return (p / ceiling) ** bad * ((1 - p) / (1 - ceiling)) ** (n - bad) / ceiling

    assert math.exp(log_e_rate_below(bad, n, ceiling)) == pytest.approx(quad(ratio, 0, ceiling)[0], rel=1e-9)


@settings(derandomize=True)
@given(st.integers(0, 10**9), st.floats(0, 1), st.floats(1e-6, 1 - 1e-6))
def test_it_is_a_number_whatever_the_counts(n: int, rate: float, ceiling: float) -> None:
    value = log_e_rate_below(round(n * rate), n, ceiling)
    assert math.isfinite(value)


def test_far_above_the_ceiling_the_series_takes_over_without_a_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(bad, 1000, 0.02) for bad in range(60, 1001, 47)]
    closed = [log_e_rate_below(*case) for case in cases if case[0] < 250]
    monkeypatch.setattr(proportion, "_SMALL", 2.0)  # the series for everything
    series = [log_e_rate_below(*case) for case in cases]
    assert series[: len(closed)] == pytest.approx(closed, abs=1e-9)
    assert series == sorted(series, reverse=True)


def test_all_bad_is_evidence_against_and_it_stays_finite() -> None:
    assert log_e_rate_below(10**9, 10**9, 0.02) == pytest.approx(-math.log(1e9), abs=0.1)


def test_a_run_without_errors_is_proof_only_once_it_is_long_enough() -> None:
    """The numbers of a time-uniform 95 % bound at 2 %: 224 without one bad outcome."""
    assert log_e_rate_below(0, 223, 0.02) < math.log(20) <= log_e_rate_below(0, 224, 0.02)
    assert log_e_rate_below(0, 0, 0.02) == 0


@pytest.mark.parametrize(("bad", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_counts_that_contradict_each_other_are_refused(bad: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"bad is {bad} of {n}, must be between 0 and {n}"):
        log_e_rate_below(bad, n, 0.02)


@pytest.mark.parametrize("ceiling", [0, 1, -0.1, 1.1, math.nan])
def test_a_ceiling_that_is_no_rate_is_refused(ceiling: float) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1, both excluded"):
        log_e_rate_below(0, 5, ceiling)


def test_fractions_of_a_count_lie_between_the_counts() -> None:
    """Planning asks about expected counts."""
    values = [log_e_rate_below(bad, 400.5, 0.02) for bad in (2, 2.5, 3, 3.25, 4)]
    assert values == sorted(values, reverse=True)
    assert log_e_rate_below(3, 400, 0.02) < log_e_rate_below(3, 400.5, 0.02) < log_e_rate_below(3, 401, 0.02)


@pytest.mark.parametrize("floor", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("n", [0, 1, 17, 60])
def test_evidence_above_a_floor_is_worth_exactly_1_at_it_and_less_below(n: int, floor: float) -> None:
    def expected(rate: float) -> float:
        return math.fsum(binom.pmf(k, n, rate) * math.exp(log_e_rate_above(k, n, floor)) for k in range(n + 1))

    assert expected(floor) == pytest.approx(1, abs=1e-12)
    assert expected(floor * 0.8) < 1 or n == 0


def test_more_bad_outcomes_are_evidence_above_and_against_below() -> None:
    above = [log_e_rate_above(bad, 300, 0.02) for bad in range(301)]
    assert above == sorted(above)
    assert above[6] < 0 < math.log(100) < above[20]
    assert log_e_rate_above(0, 0, 0.02) == 0


@pytest.mark.parametrize("floor", [0, 1, -0.1, 1.1, math.nan])
def test_a_floor_that_is_no_rate_is_refused_as_a_floor(floor: float) -> None:
    with pytest.raises(ValueError, match=f"floor is {floor}, must be between 0 and 1, both excluded"):
        log_e_rate_above(0, 5, floor)


@pytest.mark.parametrize(("bad", "n"), [(-1, 5), (6, 5)])
def test_counts_that_contradict_each_other_are_refused_from_above_with_the_counts_that_were_given(
    bad: int, n: int
) -> None:
    with pytest.raises(ValueError, match=f"bad is {bad} of {n}, must be between 0 and {n}"):
        log_e_rate_above(bad, n, 0.02)


LOG_20 = math.log(20)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 10**7), st.floats(0, 1), st.floats(0.7, 20))
def test_the_highest_rate_is_the_smallest_ceiling_that_is_proven(n: int, part: float, threshold: float) -> None:
    bad = round(n * part)
    found = highest_rate(bad, n, threshold)
    assert bad / n <= found <= 1
    if found < 1:
        assert log_e_rate_below(bad, n, min(found + 1e-9, 1 - 1e-12)) >= threshold - 1e-6
    if found - 1e-9 > bad / n:
        assert log_e_rate_below(bad, n, found - 1e-9) < threshold + 1e-6


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 10**7), st.floats(0, 1), st.floats(0.7, 20))
def test_the_lowest_rate_is_the_largest_floor_that_is_proven(n: int, part: float, threshold: float) -> None:
    bad = round(n * part)
    found = lowest_rate(bad, n, threshold)
    assert 0 <= found <= bad / n
    if found > 1e-9:
        assert log_e_rate_above(bad, n, found - 1e-9) >= threshold - 1e-6
        assert log_e_rate_above(bad, n, min(found + 1e-9, 1 - 1e-12)) < threshold + 1e-6 or found + 1e-9 > bad / n


def test_the_bounds_of_a_rate_agree_with_the_runs_that_prove_it() -> None:
    assert highest_rate(0, 223, LOG_20) > 0.02 >= highest_rate(0, 224, LOG_20)
    assert highest_rate(0, 10**9, LOG_20) < 1e-7
    assert lowest_rate(224, 224, LOG_20) >= 0.98 > lowest_rate(223, 223, LOG_20)


def test_where_nothing_is_proven_the_bounds_say_nothing() -> None:
    assert (lowest_rate(0, 0, LOG_20), highest_rate(0, 0, LOG_20)) == (0, 1)
    assert highest_rate(50, 50, LOG_20) == 1
    assert lowest_rate(0, 50, LOG_20) == 0


def test_more_confidence_makes_wider_bounds() -> None:
    highs = [highest_rate(30, 1000, math.log(t)) for t in (2, 20, 1000, 1e9)]
    lows = [lowest_rate(30, 1000, math.log(t)) for t in (2, 20, 1000, 1e9)]
    assert highs == sorted(set(highs))
    assert lows == sorted(set(lows), reverse=True)


@pytest.mark.parametrize("rate", [0.02, 0.4])
def test_the_true_rate_leaves_its_bounds_at_any_time_at_most_as_often_as_promised(rate: float) -> None:
    """The bounds are left exactly when a test at the true rate rejects, which is much cheaper to look at."""
    rng = np.random.default_rng(11)
    left = 0
    for _ in range(400):
        counts = enumerate(np.cumsum(rng.binomial(20, rate, 40)).tolist(), start=1)
        left += any(log_e_rate_below(bad, 20 * k, rate) >= LOG_20 for k, bad in counts)
    assert left <= 400 * 0.05
    for bad in (0, 3, 8, 30):
        assert (highest_rate(bad, 100, LOG_20) <= rate) == (log_e_rate_below(bad, 100, rate) >= LOG_20)
        assert (lowest_rate(bad, 100, LOG_20) >= rate) == (log_e_rate_above(bad, 100, rate) >= LOG_20)
