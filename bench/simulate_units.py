"""Simulated rollouts in which units come back: their requests resemble each other, and each stays in its arm.

The sums over units are those that the docstrings of `ClusterSums` and `ValueSums` define, computed here from single
requests of many rollouts at once; the product computes them in the log's query engine.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.simulate import Counts, Floats, Ints
from model_rollouts.core.clustering import ClusterTotals, clustering_of
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.odds_ratio import mixture
from model_rollouts.core.unit_evidence import ClusterSums, ValueSums

CHAMPION, CHALLENGER = 0, 1


@dataclass(frozen=True)
class ClusteredRollouts:
    """Counts of requests, and the sums over pairs of requests of one unit.

    Attributes:
        counts: See `bench.simulate.Counts`.
        sums: The fields of `ClusterSums` in their order, shape (rollouts, looks, arms, 5).
    """

    counts: Counts
    sums: Floats


def clustered(
    seed: int,
    runs: int,
    *,
    users: int,
    requests: int,
    correlation: float,
    share: float | Floats = 0.25,
    rate: float = 0.02,
    lift: float = 1.0,
    wave: float | Floats = 1.0,
    activity: float = 0.0,
    looks: int = 200,
) -> ClusteredRollouts:
    """Users whose requests go wrong at a rate of their own: Beta with the mean `rate`.

    Args:
        seed: Of the generator.
        runs: How many rollouts.
        users: Of each rollout; each look's requests are of users drawn from all of them.
        requests: Of each look.
        correlation: Of two requests of one user (ICC), in [0, 1).
        share: The challenger's share of the users: one number, or one a look, growing.
        rate: Mean rate of bad outcomes.
        lift: Factor on the challenger's rates.
        wave: Factor on all rates: one number, or one a look.
        activity: Standard deviation of the logs of how active the users are; 0: all alike.
        looks: How many.
    """
    rng = np.random.default_rng(seed)
    strength = (1 - correlation) / correlation if correlation else np.inf
    own = rng.beta(rate * strength, (1 - rate) * strength, (runs, users)) if correlation else np.full((1, users), rate)
    own = np.broadcast_to(own, (runs, users))
    dealt = rng.random((runs, users))
    shares, waves = np.broadcast_to(share, (looks,)), np.broadcast_to(wave, (looks,))
    counts, sums = np.zeros((runs, looks, 4), np.int64), np.zeros((runs, looks, 2, 5))
    row, active = np.arange(runs)[:, None], np.exp(activity * rng.standard_normal(users)) if activity else None
    pairs = (_Pairs(runs, users), _Pairs(runs, users))
    for look in range(looks):
        if active is None:
            who = rng.integers(0, users, (runs, requests))
        else:
            who = rng.choice(users, (runs, requests), p=active / active.sum())
        challenger = dealt[row, who] < shares[look]
        bad = rng.random((runs, requests)) < own[row, who] * np.where(challenger, lift, 1.0) * waves[look]
        for arm, mask in ((CHAMPION, ~challenger), (CHALLENGER, challenger)):
            first = 2 if arm == CHAMPION else 0
            counts[:, look, first], counts[:, look, first + 1] = (bad & mask).sum(1), mask.sum(1)
            sums[:, look, arm] = pairs[arm].add(row * users + who, bad, mask)
    return ClusteredRollouts(counts, sums)


class _Pairs:
    """One arm's sums over each user's requests so far, from which the pairs with new requests follow."""

    def __init__(self, runs: int, users: int) -> None:
        self._shape = (runs, users)
        self._residuals, self._spreads, self._variances, self._requests = (np.zeros(self._shape) for _ in range(4))

    def add(self, user: Ints, bad: np.ndarray, mask: np.ndarray) -> Floats:
        """The look's `ClusterSums`, shape (rollouts, 5)."""
        n_user = np.bincount(user[mask], minlength=self._residuals.size).reshape(self._shape).astype(float)
        bad_user = np.bincount(user[mask & bad], minlength=self._residuals.size).reshape(self._shape).astype(float)
        n = n_user.sum(1, keepdims=True)
        mean = bad_user.sum(1, keepdims=True) / np.maximum(n, 1)
        variance = np.where(n > 1, mean * (1 - mean) * n / np.maximum(n - 1, 1), 0.0)
        spread = np.sqrt(variance)
        residual = bad_user - n_user * mean
        # of the ordered pairs within the look, the squared sum less each request's own square is the product
        alone = bad_user * (1 - mean) ** 2 + (n_user - bad_user) * mean**2
        within = n_user * (n_user - 1)
        products = 2 * self._residuals * residual + residual**2 - alone + within * variance / np.maximum(n, 1)
        scale = 2 * self._spreads * n_user * spread + within * variance
        noise = 2 * self._variances * n_user * variance + within * variance**2
        squares = 2 * self._requests * n_user + n_user**2
        self._residuals += residual
        self._spreads += n_user * spread
        self._variances += n_user * variance
        self._requests += n_user
        return np.stack([n[:, 0], squares.sum(1), products.sum(1), scale.sum(1), noise.sum(1)], 1)


def clustered_evidence(rollouts: ClusteredRollouts, gains: Floats, starts: tuple[int, ...] = (0,)) -> Floats:
    """The engine's log e-value after each look, each look judged by the design effect known by then.

    Args:
        rollouts: With `sums`.
        gains: From `bench.simulate.gains`.
        starts: Looks at which a stage begins.
    """
    runs, looks, grid = gains.shape
    log_e = np.zeros((runs, looks))
    for run in range(runs):
        totals = ClusterTotals(), ClusterTotals()
        running = np.zeros((len(starts), grid))
        for look, arms in enumerate(rollouts.sums[run].tolist()):
            for total, (judged, squares, *rest) in zip(totals, arms, strict=True):
                total.add(ClusterSums(round(judged), round(squares), *rest))
            running[[start <= look for start in starts]] += gains[run, look]
            log_e[run, look] = mixture(running, clustering_of(*totals).design_effect)
    return log_e


@dataclass(frozen=True)
class ValueRollouts:
    """Business values by look.

    Attributes:
        sums: The fields of `ValueSums` in their order, shape (rollouts, looks, 13).
        alone: The last three of them as they would be if every request were a unit of its own.
    """

    sums: Floats
    alone: Floats

    def looks(self, run: int, *, repeats: bool = True, covariate: bool = True) -> Iterator[Look]:
        """A rollout's looks; without `repeats` each request counts as a unit, without `covariate` nothing is known."""
        for index in range(self.sums.shape[1]):
            fields = self.sums[run, index].tolist()
            if not repeats:
                fields[10:] = self.alone[run, index].tolist()
            if not covariate:
                fields[6:8], fields[11:] = [0.0, 0.0], [0.0, 0.0]
            whole = [round(value) for value in (*fields[:4], *fields[8:10])]
            values = ValueSums(*whole[:4], *fields[4:8], *whole[4:], *fields[10:])
            yield Look(0, index, RequestCounts(), RequestCounts(), LabelCounts(), LabelCounts(), values=values)


def valued(
    seed: int,
    runs: int,
    *,
    users: int,
    requests: int,
    share: float = 0.25,
    lift: float = 1.0,
    between: float = 0.8,
    within: float = 0.5,
    new: float = 0.2,
    looks: int = 200,
) -> ValueRollouts:
    """Users who spend log-normally around a level of their own, and were seen spending before.

    Args:
        seed: Of the generator.
        runs: How many rollouts.
        users: Of each rollout; each look's requests are of users drawn from all of them.
        requests: Of each look.
        share: The challenger's share of the users.
        lift: Factor on the challenger's values.
        between: Standard deviation of the users' log levels.
        within: The same of a user's requests around their level.
        new: Share of the users of whom nothing is known; the others made five requests before.
        looks: How many.
    """
    rng = np.random.default_rng(seed)
    shape, row = (runs, users), np.arange(runs)[:, None]
    level = 10 * np.exp(between * rng.standard_normal(shape))
    before = level * np.exp(within * rng.standard_normal((5, *shape))).mean(0)
    unknown = rng.random(shape) < new
    known_mean = np.where(unknown, 0, before).sum(1, keepdims=True) / (~unknown).sum(1, keepdims=True)
    before = np.where(unknown, known_mean, before)
    challenger_user = rng.random(shape) < share
    scores, seen = np.zeros((2, *shape)), np.zeros(shape, bool)
    sums, alone = np.zeros((runs, looks, 13)), np.zeros((runs, looks, 3))
    for look in range(looks):
        who = rng.integers(0, users, (runs, requests))
        challenger = challenger_user[row, who]
        noise = np.exp(within * rng.standard_normal((runs, requests)))
        y = level[row, who] * noise * np.where(challenger, lift, 1.0)
        x = before[row, who]
        contrast = challenger - challenger.mean(1, keepdims=True)
        score_y, score_x = (y - y.mean(1, keepdims=True)) * contrast, (x - x.mean(1, keepdims=True)) * contrast
        user = (row * users + who).ravel()
        added = np.stack([np.bincount(user, s.ravel(), scores[0].size).reshape(shape) for s in (score_y, score_x)])
        old, scores = scores, scores + added
        fresh = (np.bincount(user, minlength=seen.size).reshape(shape) > 0) & ~seen
        seen |= fresh
        n = np.stack([(~challenger).sum(1), challenger.sum(1)], 1)
        sums[:, look, 0:2] = sums[:, look, 2:4] = n
        for first, values in ((4, y), (6, x)):
            sums[:, look, first] = np.where(challenger, 0, values).sum(1)
            sums[:, look, first + 1] = np.where(challenger, values, 0).sum(1)
        sums[:, look, 8], sums[:, look, 9] = (fresh & ~challenger_user).sum(1), (fresh & challenger_user).sum(1)
        for column, (i, j) in enumerate(((0, 0), (1, 0), (1, 1))):
            sums[:, look, 10 + column] = (scores[i] * scores[j] - old[i] * old[j]).sum(1)
        alone[:, look] = np.stack([(score_y**2).sum(1), (score_x * score_y).sum(1), (score_x**2).sum(1)], 1)
    return ValueRollouts(sums, alone)
