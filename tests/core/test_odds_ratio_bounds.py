"""The conditional e-process with repeat requests, and turned into a confidence bound."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.odds_curve import LEAST_BETTER, LEAST_WORSE, MOST_BETTER, MOST_WORSE, OddsCurve
from model_rollouts.core.odds_ratio import (
    Stratum,
    better_than,
    estimate,
    log_e_process,
    log_likelihood_ratios,
    mixture,
    worse_than,
)

Ints = npt.NDArray[np.int64]
LOG_20 = math.log(20)


def strata_of(counts: Ints) -> list[Stratum]:
    return [Stratum(*map(int, row)) for row in counts]


def counts_of(*rows: Sequence[int]) -> Ints:
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def evidence(
    counts: Ints, stages: Ints, starts: int, null: float, design_effect: float = 1.0, *, worse: bool = True
) -> float:
    grid = worse_than(null) if worse else better_than(null)
    positions = [int(np.searchsorted(stages, start)) for start in range(starts)]
    return log_e_process(strata_of(counts), null, grid, positions, design_effect)


def proven_bound(
    counts: Ints, stages: Ints, starts: int, log_threshold: float, design_effect: float, *, worse: bool
) -> float | None:
    curve = OddsCurve(starts)
    curve.add(counts, stages)
    return curve.bound(log_threshold, design_effect, worse=worse)


def drawn(rng: np.random.Generator, odds_ratio: float, looks: int, n: int = 200, rate: float = 0.1) -> Ints:
    odds = odds_ratio * rate / (1 - rate)
    bad, champion_bad = rng.binomial(n, odds / (1 + odds), looks), rng.binomial(n, rate, looks)
    return np.stack([bad, np.full(looks, n), champion_bad, np.full(looks, n)], axis=1).astype(np.int64)


# --- design effect


def test_a_design_effect_of_1_changes_nothing() -> None:
    looks = strata_of(drawn(np.random.default_rng(1), 2.0, 10))
    grid = worse_than(1.25)
    assert log_e_process(looks, 1.25, grid, [0, 4]) == log_e_process(looks, 1.25, grid, [0, 4], 1.0)


def test_a_design_effect_makes_the_counts_as_large_as_those_of_independent_requests() -> None:
    """Four copies of each look at a design effect of 4 say what one copy says."""
    looks = strata_of(drawn(np.random.default_rng(2), 2.0, 10))
    for null, grid in ((1.25, worse_than(1.25)), (1.5, better_than(1.5))):
        once = log_e_process(looks, null, grid)
        assert log_e_process(looks * 4, null, grid, design_effect=4.0) == pytest.approx(once, abs=1e-9)
        assert once != pytest.approx(0, abs=0.1)


def test_the_larger_the_design_effect_the_less_is_said() -> None:
    looks = strata_of(drawn(np.random.default_rng(3), 3.0, 20))
    values = [log_e_process(looks, 1.25, worse_than(1.25), [0, 9, 30], d) for d in (1.0, 1.5, 4.0, 50.0, 1e9)]
    assert values == sorted(values, reverse=True)
    assert values[0] > math.log(1000)
    assert values[-1] == pytest.approx(0, abs=1e-6)


def test_the_weights_are_not_stretched() -> None:
    """Nothing seen is an e-value of 1 at any design effect, with any number of starts."""
    for starts in (1, 2, 5):
        assert mixture(np.zeros((starts, 8)), 7.0) == pytest.approx(0, abs=1e-12)


def test_the_mixture_is_the_mean_over_starts_and_grid() -> None:
    sums = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]])
    by_hand = 0.5 * np.exp(sums[0]).mean() + 0.25 * np.exp(sums[1]).mean() + 0.25 * np.exp(sums[2]).mean()
    assert mixture(sums) == pytest.approx(math.log(by_hand))


def test_clustered_healthy_traffic_alarms_without_the_design_effect_and_not_with_it() -> None:
    """Whole units of 10 like requests: the negative control, and what the design effect is there for."""
    rng = np.random.default_rng(4)
    naive = robust = 0
    for _ in range(300):
        counts = drawn(rng, 1.0, 40, n=20) * 10
        gains = log_likelihood_ratios(strata_of(counts), 1.0, worse_than(1.0)).cumsum(axis=0)
        naive += any(mixture(row[None]) >= LOG_20 for row in gains)
        robust += any(mixture(row[None], 10.0) >= LOG_20 for row in gains)
    assert naive > 60
    assert robust <= 15


# --- the bound

rows = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300), st.integers(0, 300)).map(
    lambda c: (c[0], c[0] + c[2], c[1], c[1] + c[3])
)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(st.lists(rows, max_size=6), st.lists(st.integers(0, 2), min_size=6, max_size=6), st.booleans())
def test_the_bound_is_where_the_evidence_reaches_the_threshold(
    looks: list[tuple[int, int, int, int]], stages: list[int], worse: bool
) -> None:
    """At the bound the e-value is there, by the test itself; 1 % further it is not."""
    counts, stage_of = counts_of(*looks), np.array(sorted(stages[: len(looks)]), dtype=np.int64)
    for effect in (1.0, 2.5):
        bound = proven_bound(counts, stage_of, 3, LOG_20, effect, worse=worse)
        sharper = 1.0101 if worse else 1 / 1.0101
        if bound is None:
            widest = LEAST_WORSE if worse else MOST_BETTER
            assert evidence(counts, stage_of, 3, widest, effect, worse=worse) < LOG_20
            continue
        assert evidence(counts, stage_of, 3, bound, effect, worse=worse) >= LOG_20 - 1e-9
        if 0.18 < bound * sharper < 4.1:
            assert evidence(counts, stage_of, 3, bound * sharper, effect, worse=worse) < LOG_20


@pytest.mark.parametrize("worse", [True, False])
def test_between_the_nodes_the_evidence_is_that_of_the_test_itself(worse: bool) -> None:
    rng = np.random.default_rng(5)
    for n, looks in ((20, 5), (200, 60), (10**6, 20), (10**9, 3)):
        counts, stages = drawn(rng, 1.3, looks, n=n), np.sort(rng.integers(0, 3, looks))
        curve = OddsCurve(3)
        for half in (counts[:2], stages[:2]), (counts[2:], stages[2:]):
            curve.add(*half)
        for null in (0.2, 0.9, 1.0, 1.31, 4.0):
            exact = evidence(counts, stages, 3, null, worse=worse)
            assert curve.log_e(null, 1.0, worse=worse) == pytest.approx(exact, rel=1e-9, abs=1e-7 * max(1, n / 1e6))


def test_the_bounds_hold_the_estimate_between_them_and_close_in_on_it() -> None:
    counts = drawn(np.random.default_rng(6), 2.0, 400)
    widths = []
    for looks in (25, 100, 400):
        part, stages = counts[:looks], np.zeros(looks, np.int64)
        near = estimate(strata_of(part))
        assert near is not None
        low = proven_bound(part, stages, 1, LOG_20, 1.0, worse=True)
        high = proven_bound(part, stages, 1, LOG_20, 1.0, worse=False)
        assert low is not None
        assert high is not None
        assert low < near < high
        widths.append(high / low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1.3


def test_repeat_requests_and_more_confidence_make_a_weaker_bound() -> None:
    counts, stages = drawn(np.random.default_rng(7), 2.0, 60), np.zeros(60, np.int64)

    def low(log_threshold: float, design_effect: float) -> float:
        bound = proven_bound(counts, stages, 1, log_threshold, design_effect, worse=True)
        assert bound is not None
        return bound

    assert low(LOG_20, 1.0) > low(LOG_20, 3.0) > low(LOG_20, 10.0)
    assert low(LOG_20, 1.0) > low(math.log(400), 1.0) > low(math.log(1e9), 1.0)


@pytest.mark.parametrize("odds_ratio", [0.6, 1.0, 2.5])
def test_the_true_odds_ratio_is_beyond_the_bounds_at_most_as_often_as_promised(odds_ratio: float) -> None:
    rng = np.random.default_rng(8)
    missed = {True: 0, False: 0}
    for _ in range(120):
        counts = drawn(rng, odds_ratio, 15, rate=float(rng.uniform(0.02, 0.3)))
        for looks in (3, 8, 15):
            part, stages = counts[:looks], np.zeros(looks, np.int64)
            low = proven_bound(part, stages, 1, LOG_20, 1.0, worse=True)
            high = proven_bound(part, stages, 1, LOG_20, 1.0, worse=False)
            missed[True] += low is not None and low > odds_ratio
            missed[False] += high is not None and high < odds_ratio
    assert max(missed.values()) <= 3 * 120 * 0.05


@pytest.mark.parametrize("worse", [True, False])
@pytest.mark.parametrize(
    "counts",
    [counts_of(), counts_of((0, 50, 0, 50)), counts_of((50, 50, 50, 50)), counts_of((1, 3, 1, 3))],
    ids=["no looks", "nothing bad", "everything bad", "next to nothing"],
)
def test_where_nothing_is_proven_there_is_no_bound(counts: Ints, worse: bool) -> None:
    for starts in (1, 3):
        stages = np.zeros(len(counts), np.int64)
        assert proven_bound(counts, stages, starts, LOG_20, 1.0, worse=worse) is None


def test_what_is_beyond_every_measure_is_given_as_the_last_ratio_that_is_looked_at() -> None:
    counts, stages = counts_of(*[(10**5, 10**5, 10, 10**5)] * 5), np.zeros(5, np.int64)
    assert proven_bound(counts, stages, 1, LOG_20, 1.0, worse=True) == pytest.approx(MOST_WORSE)
    mirrored = counts[:, [2, 3, 0, 1]]
    assert proven_bound(mirrored, stages, 1, LOG_20, 1.0, worse=False) == pytest.approx(LEAST_BETTER)


def test_a_regression_of_a_later_stage_is_bounded_by_its_own_start() -> None:
    rng = np.random.default_rng(9)
    counts = np.concatenate([drawn(rng, 0.7, 40), drawn(rng, 3.0, 10)])
    stages = np.array([0] * 40 + [1] * 10, dtype=np.int64)
    mixed = proven_bound(counts, stages, 2, LOG_20, 1.0, worse=True)
    alone = proven_bound(counts, np.zeros(50, np.int64), 1, LOG_20, 1.0, worse=True)
    assert mixed is not None
    assert alone is not None
    assert mixed > 1.8
    assert alone < 1.2
