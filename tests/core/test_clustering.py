"""Repeat requests of a unit: how alike they are, and what that does to a count.

The sums are built here from single requests, pair by pair, by the definition in `unit_evidence.ClusterSums`.
"""

import numpy as np
import numpy.typing as npt
import pytest

from model_rollouts.core.checks import MOST_REQUESTS
from model_rollouts.core.clustering import Clustering, ClusterTotals, clustering_of, clustering_of_one
from model_rollouts.core.unit_evidence import ClusterSums

Units = npt.NDArray[np.int64]
Outcomes = npt.NDArray[np.int64]
ArmLooks = list[tuple[Units, Outcomes]]  # of one arm: who asked, and what came of it


def sums_of(looks: ArmLooks) -> list[ClusterSums]:
    """One entry a look, every pair counted by itself."""
    units, residuals, spreads = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    found = []
    for unit, outcome in looks:
        n, old = len(unit), len(units)
        if not n:
            found.append(ClusterSums())
            continue
        residual = outcome - outcome.mean()
        variance = float(residual @ residual) / (n - 1) if n > 1 else 0.0
        sizes_before = np.bincount(units, minlength=10_000)
        units, residuals = np.append(units, unit), np.append(residuals, residual)
        spreads = np.append(spreads, np.full(n, variance**0.5))
        sizes = np.bincount(units, minlength=10_000)
        same = unit[:, None] == units[None, :]
        same[np.arange(n), old + np.arange(n)] = False  # no request is a pair with itself
        weight = np.where(np.arange(len(units)) < old, 2.0, 1.0)  # (new, old) and (old, new); within, both are there
        pairs = same * weight

        found.append(
            ClusterSums(
                judged=n,
                squares=int((sizes**2 - sizes_before**2).sum()),
                products=float((pairs * np.outer(residual, residuals)).sum() + same[:, old:].sum() * variance / n),
                scale=float((pairs * np.outer(spreads[old:], spreads)).sum()),
                noise=float((pairs * np.outer(spreads[old:] ** 2, spreads**2)).sum()),
            )
        )
    return found


def totals_of(looks: ArmLooks) -> ClusterTotals:
    totals = ClusterTotals()
    for sums in sums_of(looks):
        totals.add(sums)
    return totals


def totals(**values: float) -> ClusterTotals:
    made = ClusterTotals()
    made.add(ClusterSums(**values))  # type: ignore[arg-type]
    return made


def standard_error(champion: ClusterTotals, challenger: ClusterTotals) -> float:
    return float((2 * (champion.noise + challenger.noise)) ** 0.5 / (champion.scale + challenger.scale))


def strangers(rng: np.random.Generator, rates: list[float], n: int, units: int) -> ArmLooks:
    """Requests that only look related: their unit says nothing of the outcome."""
    return [(rng.integers(0, units, n), rng.binomial(1, rate, n)) for rate in rates]


def relatives(rng: np.random.Generator, rate: float, icc: float, looks: int, n: int, units: int) -> ArmLooks:
    """Beta-binomial: a unit's own rate is drawn once, with correlation `icc` between two of its outcomes."""
    strength = 1 / icc - 1
    own = rng.beta(rate * strength, (1 - rate) * strength, units)
    drawn = [rng.integers(0, units, n) for _ in range(looks)]
    return [(unit, rng.binomial(1, own[unit])) for unit in drawn]


def test_two_pairs_by_hand() -> None:
    """Look 1: unit 0 fails, units 1 and 2 do not. Look 2: unit 0 fails twice, unit 1 does not."""
    first, second = sums_of([(np.array([0, 1, 2]), np.array([1, 0, 0])), (np.array([0, 0, 1]), np.array([1, 1, 0]))])
    assert (first.judged, first.squares, first.products, first.scale, first.noise) == (3, 3, 0, 0, 0)
    assert (second.judged, second.squares) == (3, 9 - 1 + 4 - 1)
    # residuals 2/3, -1/3, -1/3 and 1/3, 1/3, -2/3; variance 1/3 in both; 2 within, 2 * 3 across
    within, across = 2 * (1 / 9 + 1 / 9), 2 * (2 / 9 + 2 / 9 + 2 / 9)
    assert second.products == pytest.approx(within + across)
    assert second.scale == pytest.approx(8 / 3)
    assert second.noise == pytest.approx(8 / 9)


@pytest.mark.parametrize("n", [5, 40], ids=["looks of 5", "looks of 40"])
def test_independent_requests_are_uncorrelated_on_average_however_small_the_looks(n: int) -> None:
    rng = np.random.default_rng(1)
    found, away = [], []
    for _ in range(400):
        arms = [totals_of(strangers(rng, [0.3] * 6, n, units=max(4, n // 4))) for _ in range(2)]
        correlation = clustering_of(*arms).correlation
        assert correlation is not None
        found.append(correlation)
        away.append(correlation / standard_error(*arms))
    assert abs(np.mean(found)) < 4 * np.std(found) / 20
    assert 0.6 < np.std(away) < 1.15  # it states no smaller an error than it makes


@pytest.mark.parametrize("icc", [0.05, 0.3])
def test_a_known_correlation_is_found(icc: float) -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        arms = [totals_of(relatives(rng, 0.2, icc, looks=8, n=50, units=60)) for _ in range(2)]
        correlation = clustering_of(*arms).correlation
        assert correlation is not None
        found.append(correlation)
    assert np.mean(found) == pytest.approx(icc, rel=0.1, abs=4 * float(np.std(found)) / 60**0.5)


def test_a_burst_within_one_look_is_seen() -> None:
    rng = np.random.default_rng(3)

    def bursts() -> ArmLooks:
        own = [np.repeat(rng.beta(0.3 * 1.5, 0.7 * 1.5, 8), 5) for _ in range(20)]  # correlation 1 / (1 + 1.5)
        return [(np.repeat(np.arange(8) + 8 * look, 5), rng.binomial(1, p)) for look, p in enumerate(own)]

    found = clustering_of(totals_of(bursts()), totals_of(bursts()))
    assert found.correlation == pytest.approx(0.4, abs=0.12)
    assert found.requests_per_unit == 5
    assert found.design_effect > 2


@pytest.mark.parametrize(
    ("champion", "challenger"),
    [([0.02] * 20, [0.5] * 20), ([0.05, 0.3, 0.6, 0.3] * 5, [0.05, 0.3, 0.6, 0.3] * 5)],
    ids=["an effect between the arms", "a daily wave"],
)
def test_what_all_units_share_does_not_look_like_correlation(champion: list[float], challenger: list[float]) -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(60):
        arms = [totals_of(strangers(rng, rates, 20, units=10)) for rates in (champion, challenger)]
        correlation = clustering_of(*arms).correlation
        assert correlation is not None
        found.append(correlation)
    assert abs(np.mean(found)) < 4 * np.std(found) / 60**0.5
    assert np.std(found) < 0.02


def test_the_design_effect_is_what_correlation_does_to_the_challengers_count() -> None:
    """Challenger units of 10 requests, champion units of 2, share 20 %; the count less what the total lets expect."""
    rng = np.random.default_rng(5)
    rate, icc, rollouts = 0.3, 0.25, 6_000
    strength = 1 / icc - 1

    def bad(units: int, size: int) -> Outcomes:
        own = rng.beta(rate * strength, (1 - rate) * strength, (rollouts, units))
        return rng.binomial(size, own).sum(axis=1)

    challenger, champion = bad(40, 10), bad(800, 2)
    stretched = np.var(0.8 * challenger - 0.2 * champion) / (2000 * 0.2 * 0.8 * rate * (1 - rate))
    # the correlation is stated without noise, so that nothing is added for caution
    found = clustering_of(
        totals(judged=1600, squares=3200, products=0.5, scale=2.0, noise=0.0),
        totals(judged=400, squares=4000, products=0.5, scale=2.0, noise=0.0),
    )
    assert found.correlation == icc
    assert found.requests_per_unit == 7200 / 2000
    assert stretched == pytest.approx(found.design_effect, rel=0.05)


def test_requests_that_are_all_alike_count_as_one_a_unit() -> None:
    alike = totals(judged=70, squares=490, products=5.0, scale=5.0, noise=0.0)
    assert clustering_of(alike, alike) == Clustering(1.0, 7.0, 7.0)


def test_an_estimate_above_1_is_taken_for_1() -> None:
    beyond = totals(judged=70, squares=490, products=6.0, scale=5.0, noise=0.2)
    assert clustering_of(beyond, beyond).design_effect == 7.0


@pytest.mark.parametrize("standard_errors", [-3.0, 0.0, 0.5, 1.0])
def test_the_design_effect_is_exactly_1_while_the_correlation_is_not_clearly_above_0(standard_errors: float) -> None:
    # scale 10 an arm, noise 4 an arm: a standard error of 4 / 20
    arm = totals(judged=100, squares=1000, products=standard_errors * 2.0, scale=10.0, noise=4.0)
    found = clustering_of(arm, arm)
    assert found.correlation == pytest.approx(0.2 * standard_errors)
    assert found.requests_per_unit == 10
    assert found.design_effect == 1.0


def test_a_clear_correlation_counts_with_its_standard_error_on_top() -> None:
    arm = totals(judged=100, squares=1000, products=3.0, scale=10.0, noise=4.0)
    assert clustering_of(arm, arm).design_effect == pytest.approx(1 + (0.3 + 0.2) * 9)


def test_healthy_traffic_of_strangers_is_rarely_stretched() -> None:
    """One standard error: 16 in 100, and by little; otherwise a rollout would need more requests for nothing."""
    rng = np.random.default_rng(6)
    effects = [
        clustering_of(*(totals_of(strangers(rng, [0.2] * 5, 30, units=40)) for _ in range(2))).design_effect
        for _ in range(200)
    ]
    assert 0.05 < np.mean(np.array(effects) > 1) < 0.25
    assert max(effects) < 2


@pytest.mark.parametrize(
    ("looks", "effect"),
    [
        ([], 1),
        ([(np.zeros(0, np.int64), np.zeros(0, np.int64))], 1),
        ([(np.arange(9), np.ones(9, np.int64))], 1),
        ([(np.zeros(9, np.int64), np.ones(9, np.int64))], 9),
        ([(np.zeros(1, np.int64), np.ones(1, np.int64))] * 4, 4),
    ],
    ids=["no look", "an empty look", "no unit twice", "nothing varies", "one request a look"],
)
def test_where_no_pair_tells_anything_a_units_requests_are_taken_for_one(looks: ArmLooks, effect: float) -> None:
    """A challenger that failed every request of its one user has failed one user."""
    found = clustering_of(totals_of(looks), totals_of(looks))
    assert found.correlation is None
    assert found.design_effect == pytest.approx(effect)
    assert clustering_of_one(totals_of(looks)).design_effect == pytest.approx(effect)
    assert found.requests_per_unit >= 1


def test_totals_may_grow_beyond_what_one_look_can_hold() -> None:
    most = ClusterSums(MOST_REQUESTS, MOST_REQUESTS**2, 1e24, 1e24, 1e23)
    arm = ClusterTotals()
    for _ in range(3):
        arm.add(most)
    assert (arm.judged, arm.squares) == (3 * MOST_REQUESTS, 3 * MOST_REQUESTS**2)
    assert arm.unit_size == MOST_REQUESTS
    assert clustering_of(arm, arm).design_effect == pytest.approx(MOST_REQUESTS)


def test_an_empty_arm_has_units_of_one_request() -> None:
    assert ClusterTotals().unit_size == 1
