"""Conditional odds-ratio e-process for two arms, stratified by look.

Given the totals of a look, the challenger's count follows Fisher's noncentral hypergeometric law, whose only
parameter is the odds ratio between the arms. The base rate cancels, so neither a daily wave nor a ramping share
can bias the test. The likelihood ratio of each look against the null's odds ratio is multiplied over looks and
averaged over a grid of alternatives; by Ville's inequality it exceeds 1/alpha with probability at most alpha,
at any look.

Sources: Johari et al., Always valid inference (2022); Vovk and Wang, E-values (2021); Turner, Ly and Grünwald,
Generic e-variables for two samples (2024).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model_rollouts.core.hypergeometric import Floats, Ints, log_normalisers

# The last two are for what breaks outright: at a share of 1 % a failure counts up to a hundredfold if the champion has
# none, but only if some alternative says so.
WORSE_GRID = (1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.5, 6.0, 15.0, 50.0)
BETTER_GRID = (0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.2)


@dataclass(frozen=True, slots=True)
class Stratum:
    """Counts of one look: how many were tried in each arm, and how many of those went wrong."""

    challenger_bad: int
    challenger_n: int
    champion_bad: int
    champion_n: int

    def __post_init__(self) -> None:
        for bad, n, arm in (
            (self.challenger_bad, self.challenger_n, "challenger"),
            (self.champion_bad, self.champion_n, "champion"),
        ):
            if not 0 <= bad <= n:
                raise ValueError(f"{arm} count is {bad} of {n}, must be between 0 and {n}")


def worse_than(null: float) -> tuple[float, ...]:
    """Alternatives for "the odds ratio is above `null`": the grid, moved to start at the null."""
    return tuple(null * w for w in WORSE_GRID)


def better_than(null: float) -> tuple[float, ...]:
    """Alternatives for "the odds ratio is below `null`": the usual grid, scaled for a null of 1.5."""
    return tuple(null * w / 1.5 for w in BETTER_GRID)


def log_likelihood_ratios(strata: Sequence[Stratum], null: float, alternatives: Sequence[float]) -> Floats:
    """Log likelihood ratio of each look for each alternative against the null odds ratio, shape (looks, grid).

    Zero where a look says nothing: an empty arm, nothing wrong anywhere, or everything wrong everywhere.

    Raises:
        ValueError: The alternatives are not all on one side of the null, or not positive and finite.
    """
    _check(null, alternatives)
    counts = np.array(
        [(s.challenger_bad, s.challenger_n, s.champion_bad, s.champion_n) for s in strata], dtype=np.int64
    ).reshape(-1, 4)
    return count_log_likelihood_ratios(counts, null, alternatives)


def count_log_likelihood_ratios(counts: Ints, null: float, alternatives: Sequence[float]) -> Floats:
    """The same for counts in an array, for replays of many rollouts at once.

    Args:
        counts: Columns challenger_bad, challenger_n, champion_bad, champion_n, shape (looks, 4).
        null: The odds ratio at the edge of the null.
        alternatives: Grid of odds ratios.
    """
    bad, n, champion_bad, champion_n = counts.T
    total = bad + champion_bad
    telling = np.flatnonzero((n > 0) & (champion_n > 0) & (total > 0) & (total < n + champion_n))
    gains = np.zeros((len(counts), len(alternatives)))
    log_odds = np.log([*alternatives, null])
    norm = log_normalisers(n[telling], champion_n[telling], total[telling], log_odds)
    gains[telling] = norm[:, -1:] - norm[:, :-1] + bad[telling, None] * (log_odds[:-1] - log_odds[-1])
    return gains


def log_e_path(
    strata: Sequence[Stratum], null: float, alternatives: Sequence[float], starts: Sequence[int] = (0,)
) -> Floats:
    """Log e-value after each look, in natural log, shape (looks,).

    The null: in every look the odds ratio is at most `null` (for alternatives above it) or at least `null` (for
    alternatives below it).

    Args:
        strata: One entry a look, in order.
        null: The odds ratio at the edge of the null.
        alternatives: Grid of odds ratios, all on one side of the null, mixed with equal weights.
        starts: Positions in `strata` at which a process begins, increasing; the first must be 0. With more than
            one, half of the weight is on the first and the rest is shared by the later ones, which stay at 1
            until they begin. A regression that begins late is then seen without first having to outweigh
            everything good that was seen before. The mixture is an e-process as long as the *number* of starts
            never changes: a start that has not come yet has to be named too, by any position at or past the
            end. Taking its weight only when it comes would renew the others' credit, which no e-process may.

    Raises:
        ValueError: The starts do not begin with 0, or decrease; or the grid is unusable.
    """
    return mix_starts(log_likelihood_ratios(strata, null, alternatives), starts)


def mix_starts(gains: Floats, starts: Sequence[int]) -> Floats:
    """Log e-value after each look from each look's log likelihood ratios.

    Args:
        gains: From `log_likelihood_ratios`, shape (looks, grid).
        starts: See `log_e_path`.
    """
    if not starts or starts[0] != 0 or any(b < a for a, b in pairwise(starts)):
        raise ValueError(f"starts is {list(starts)}, must begin with 0 and never decrease")
    looks, grid = gains.shape
    later = len(starts) - 1
    weights = [0.5, *[0.5 / later] * later] if later else [1.0]
    mixed = np.full(looks, -np.inf)
    for start, weight in zip(starts, weights, strict=True):
        total = np.zeros((looks, grid))
        total[start:] = np.cumsum(gains[start:], axis=0)
        mixed = np.logaddexp(mixed, math.log(weight / grid) + np.logaddexp.reduce(total, axis=1))
    return mixed


def log_e_process(
    strata: Sequence[Stratum],
    null: float,
    alternatives: Sequence[float],
    starts: Sequence[int] = (0,),
    design_effect: float = 1.0,
) -> float:
    """Log e-value after all of the looks: the end of `log_e_path`, 0 where there are none.

    Args:
        strata: See `log_e_path`, as the next three.
        null: The same.
        alternatives: The same.
        starts: The same.
        design_effect: What repeat requests of units stretch the variance by (`core/clustering.py`), at least 1; each
            look then says that much less. Above 1 the process is an e-process in large samples only.
    """
    gains = log_likelihood_ratios(strata, null, alternatives)
    if not starts or starts[0] != 0 or any(b < a for a, b in pairwise(starts)):
        raise ValueError(f"starts is {list(starts)}, must begin with 0 and never decrease")
    if not len(gains):
        return 0.0
    return mixture(np.stack([gains[start:].sum(axis=0) for start in starts]), design_effect)


def mixture(sums: Floats, design_effect: float = 1.0) -> float:
    """Log e-value from summed log likelihood ratios: a mean over the grid, and over the starts.

    Args:
        sums: One row a start (see `log_e_path`), one column an alternative, shape (starts, grid).
        design_effect: See `log_e_process`.
    """
    later, grid = len(sums) - 1, sums.shape[1]
    weights = np.array([0.5, *[0.5 / later] * later] if later else [1.0])
    return float(np.logaddexp.reduce(np.log(weights / grid) + np.logaddexp.reduce(sums / design_effect, axis=1)))


def _check(null: float, alternatives: Sequence[float]) -> None:
    one_side = all(w > null for w in alternatives) or all(w < null for w in alternatives)
    if not (alternatives and one_side and all(0 < w < math.inf for w in (null, *alternatives))):
        raise ValueError(
            f"alternatives are {list(alternatives)} for a null of {null}, must be positive, finite and all on one "
            "side of it"
        )


def estimate(strata: Iterable[Stratum]) -> float | None:
    """Mantel-Haenszel odds ratio over the looks; None where it is undefined (nothing to compare)."""
    up = down = 0.0
    for s in strata:
        n = s.challenger_n + s.champion_n
        if n:
            up += s.challenger_bad * (s.champion_n - s.champion_bad) / n
            down += s.champion_bad * (s.challenger_n - s.challenger_bad) / n
    return up / down if down else None
