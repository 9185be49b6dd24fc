import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from model_rollouts.core import proportion
from model_rollouts.core.proportion import log_e_rate_below


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
