"""The conditional e-process: exact, valid by enumeration, silent where a look says nothing."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nchypergeom_fisher

from model_rollouts.core.odds_ratio import (
    BETTER_GRID,
    WORSE_GRID,
    Stratum,
    better_than,
    count_log_likelihood_ratios,
    estimate,
    log_e_path,
    log_e_process,
    log_likelihood_ratios,
    worse_than,
)

TABLES = [(1, 1, 1), (2, 5, 3), (7, 23, 5), (12, 12, 12), (5, 40, 44), (30, 3, 7)]
NULLS = [1.0, 1.25, 1.5, 4.0]


def outcomes(b: int, a: int, x: int, odds: float) -> Iterator[tuple[Stratum, float]]:
    """Every table with these totals, and its probability at an odds ratio."""
    for k in range(max(0, x - a), min(b, x) + 1):
        yield Stratum(k, b, x - k, a), float(nchypergeom_fisher.pmf(k, a + b, b, x, odds))


def expectation(b: int, a: int, x: int, *, odds: float, null: float, grid: tuple[float, ...]) -> float:
    return math.fsum(p * math.exp(log_e_process([s], null, grid)) for s, p in outcomes(b, a, x, odds))


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("table", TABLES)
def test_one_look_is_worth_exactly_1_at_the_edge_of_the_null(table: tuple[int, int, int], null: float) -> None:
    for grid in (worse_than(null), better_than(null)):
        assert expectation(*table, odds=null, null=null, grid=grid) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("table", TABLES)
def test_one_look_is_worth_at_most_1_everywhere_in_the_null(table: tuple[int, int, int], null: float) -> None:
    for factor in (0.01, 0.3, 0.7, 0.95, 0.999):
        assert expectation(*table, odds=null * factor, null=null, grid=worse_than(null)) <= 1 + 1e-12
        assert expectation(*table, odds=null / factor, null=null, grid=better_than(null)) <= 1 + 1e-12


@pytest.mark.parametrize("odds", [0.4, 1.0, 1.25])
def test_the_mixture_over_starts_is_an_e_process(odds: float) -> None:
    """Three looks, each outcome: a gambler who stops at the best moment he can tell in advance never gains.

    The value of the optimal stopping problem is found by going backwards over the whole tree.
    """
    null, grid, table = 1.25, worse_than(1.25), (4, 6, 4)
    looks = list(outcomes(*table, odds=odds))
    for starts in ([0], [0, 1, 2], [0, 2, 2], [0, 1, 3], [0, 0, 3]):

        def value(seen: list[Stratum], starts: list[int] = starts) -> float:
            now = math.exp(log_e_process(seen, null, grid, starts))
            if len(seen) == 3:
                return now
            return max(now, math.fsum(p * value([*seen, s]) for s, p in looks))

        assert value([]) <= 1 + 1e-12


def test_starts_that_are_named_only_when_they_come_would_not_be_an_e_process() -> None:
    """The negative control of the test above: weights that are dealt anew with each stage gain under the null."""
    null, grid = 1.25, worse_than(1.25)
    looks = list(outcomes(4, 6, 4, odds=null))

    def value(seen: list[Stratum]) -> float:
        now = math.exp(log_e_process(seen, null, grid, list(range(max(1, len(seen))))))
        if len(seen) == 3:
            return now
        return max(now, math.fsum(p * value([*seen, s]) for s, p in looks))

    assert value([]) > 1.01


def test_a_start_adds_nothing_before_it_comes() -> None:
    looks = [Stratum(3, 10, 1, 10), Stratum(5, 10, 1, 10)]
    alone = math.exp(log_e_process(looks, 1.0, worse_than(1.0)))
    waiting = math.exp(log_e_process(looks, 1.0, worse_than(1.0), [0, 2, 2]))
    assert waiting == pytest.approx(0.5 * alone + 0.5)


def test_a_late_regression_is_seen_sooner_with_a_start_of_its_own() -> None:
    good, bad = [Stratum(10, 1000, 30, 1000)] * 20, [Stratum(60, 1000, 30, 1000)] * 4
    alone = log_e_process([*good, *bad], 1.25, worse_than(1.25))
    mixed = log_e_process([*good, *bad], 1.25, worse_than(1.25), [0, 20])
    assert alone < 0 < math.log(100) < mixed


@pytest.mark.parametrize(
    "silent",
    [Stratum(0, 0, 3, 9), Stratum(3, 9, 0, 0), Stratum(0, 9, 0, 9), Stratum(9, 9, 4, 4), Stratum(0, 0, 0, 0)],
    ids=["no challenger", "no champion", "nothing bad", "everything bad", "nothing at all"],
)
def test_a_look_that_says_nothing_adds_exactly_nothing(silent: Stratum) -> None:
    telling = Stratum(4, 30, 2, 70)
    for grid in (worse_than(1.25), better_than(1.25)):
        assert (log_likelihood_ratios([silent], 1.25, grid) == 0).all()
        assert log_e_process([silent], 1.25, grid) == 0
        with_it = log_e_process([silent, telling, silent], 1.25, grid)
        assert with_it == log_e_process([telling], 1.25, grid)


def test_no_looks_are_no_evidence() -> None:
    assert log_e_process([], 1.25, worse_than(1.25)) == 0
    assert log_e_process([], 1.25, worse_than(1.25), [0, 0, 0]) == 0
    assert log_e_path([], 1.25, worse_than(1.25)).shape == (0,)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(NULLS), st.data())
def test_likelihood_ratios_agree_with_scipy(b: int, a: int, null: float, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, a + b))
    k = data.draw(st.integers(max(0, x - a), min(b, x)))
    grid = (*worse_than(null),)
    found = log_likelihood_ratios([Stratum(k, b, x - k, a)], null, grid)[0]
    law = nchypergeom_fisher
    expected = [law.logpmf(k, a + b, b, x, w) - law.logpmf(k, a + b, b, x, null) for w in grid]
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-9)


counts = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 300), st.integers(0, 300)).map(
    lambda c: Stratum(c[0], c[0] + c[2], c[1], c[1] + c[3])
)


@settings(deadline=None, derandomize=True)
@given(st.lists(counts, max_size=12), st.lists(st.integers(0, 14), max_size=4))
def test_the_path_ends_where_the_process_stands_after_each_look(looks: list[Stratum], later: list[int]) -> None:
    starts = [0, *sorted(later)]
    path = log_e_path(looks, 1.25, worse_than(1.25), starts)
    for n in range(1, len(looks) + 1):
        assert path[n - 1] == pytest.approx(log_e_process(looks[:n], 1.25, worse_than(1.25), starts), abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(st.lists(counts, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_looks_does_not_matter_to_a_single_start(looks: list[Stratum], random: object) -> None:
    other = list(looks)
    random.shuffle(other)  # type: ignore[attr-defined]
    grid = better_than(1.5)
    assert log_e_process(looks, 1.5, grid) == pytest.approx(log_e_process(other, 1.5, grid), abs=1e-9)


def test_one_more_bad_answer_of_the_challenger_is_always_more_evidence_of_harm() -> None:
    for bad in range(1, 30):
        less, more = Stratum(bad - 1, 100, 10, 200), Stratum(bad, 100, 10, 200)
        assert log_e_process([less], 1.25, worse_than(1.25)) < log_e_process([more], 1.25, worse_than(1.25))
        assert log_e_process([less], 1.5, better_than(1.5)) > log_e_process([more], 1.5, better_than(1.5))


def test_the_array_form_gives_the_same_to_the_last_digit() -> None:
    rng = np.random.default_rng(3)
    table = np.array([(rng.integers(0, 20), 100, rng.integers(0, 60), 300) for _ in range(300)])
    strata = [Stratum(*map(int, row)) for row in table]
    grid = worse_than(1.25)
    assert (count_log_likelihood_ratios(table, 1.25, grid) == log_likelihood_ratios(strata, 1.25, grid)).all()


def test_a_look_weighs_the_same_whatever_it_is_computed_with() -> None:
    rng = np.random.default_rng(4)
    strata = [Stratum(int(rng.integers(0, 9)), 100, int(rng.integers(0, 2000)), 90_000) for _ in range(50)]
    grid = better_than(4.0)
    together = log_likelihood_ratios(strata, 4.0, grid)
    for one, row in itertools.zip_longest(strata, together):
        assert log_likelihood_ratios([one], 4.0, grid)[0] == pytest.approx(row, rel=1e-12, abs=1e-12)


def test_extreme_looks_stay_finite() -> None:
    n = 10**6
    extreme = [Stratum(n, n, 0, n), Stratum(0, n, n, n), Stratum(n, n, n - 1, n), Stratum(1, n, 0, 1)] * 500
    for grid in (worse_than(1.25), better_than(1.5)):
        null = 1.25 if grid[0] > 1.25 else 1.5
        assert np.isfinite(log_e_path(extreme, null, grid, [0, 5, 5, 2000])).all()


@pytest.mark.parametrize("starts", [[], [1], [0, 5, 3], [0, -1]])
def test_starts_that_make_no_mixture_are_refused(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="must begin with 0 and never decrease"):
        log_e_process([Stratum(1, 2, 1, 2)], 1.0, worse_than(1.0), starts)


@pytest.mark.parametrize(
    ("null", "grid"),
    [
        (1.0, ()),
        (1.0, (0.9, 1.1)),
        (1.0, (1.0,)),
        (1.0, (math.nan,)),
        (1.0, (math.inf,)),
        (0.0, (1.1,)),
        (1.0, (-1.0,)),
    ],
)
def test_a_grid_that_straddles_the_null_or_is_no_odds_ratio_is_refused(null: float, grid: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be positive, finite and all on one side"):
        log_e_process([], null, grid)


@pytest.mark.parametrize("bad", [(3, 2, 0, 1), (-1, 2, 0, 1), (0, 1, 2, 1), (0, 1, -2, 1)])
def test_counts_that_contradict_each_other_are_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"count is -?\d+ of \d+, must be between 0 and"):
        Stratum(*bad)


def test_grids_stay_on_their_side_of_any_null() -> None:
    assert all(w > 1 for w in WORSE_GRID)
    assert all(0 < w < 1.5 for w in BETTER_GRID)
    for null in NULLS:
        assert min(worse_than(null)) > null > max(better_than(null))


def test_the_estimate_is_the_odds_ratio_and_none_where_there_is_none() -> None:
    assert estimate([Stratum(20, 100, 10, 100)]) == pytest.approx((20 / 80) / (10 / 90))
    assert estimate([Stratum(20, 100, 10, 100), Stratum(0, 0, 3, 9)]) == estimate([Stratum(20, 100, 10, 100)])
    assert estimate([]) is None
    assert estimate([Stratum(0, 10, 0, 10)]) is None
    assert estimate([Stratum(5, 10, 0, 10)]) is None
    assert estimate([Stratum(0, 10, 5, 10)]) == 0
