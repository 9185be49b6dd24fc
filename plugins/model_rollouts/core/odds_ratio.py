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
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

WORSE_GRID = (1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.5, 6.0)
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


@lru_cache(maxsize=65_536)
def _log_normaliser(
    challenger_n: int, champion_n: int, total_bad: int, omegas: tuple[float, ...]
) -> npt.NDArray[np.float64]:
    """Log of the noncentral hypergeometric law's normalising sum, for each odds ratio."""
    k = np.arange(max(0, total_bad - champion_n), min(challenger_n, total_bad) + 1)
    log_ways = (
        -gammaln(k + 1)
        - gammaln(challenger_n - k + 1)
        - gammaln(total_bad - k + 1)
        - gammaln(champion_n - total_bad + k + 1)
    )
    result: npt.NDArray[np.float64] = logsumexp(log_ways[:, None] + k[:, None] * np.log(omegas), axis=0)
    return result


def log_likelihood_ratios(stratum: Stratum, null: float, alternatives: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Log likelihood ratio of one look for each alternative against the null odds ratio, shape (grid,).

    Zero where a look says nothing: an empty arm, nothing wrong anywhere, or everything wrong everywhere.
    """
    total_bad = stratum.challenger_bad + stratum.champion_bad
    if not stratum.challenger_n or not stratum.champion_n:
        return np.zeros(len(alternatives))
    norm = _log_normaliser(stratum.challenger_n, stratum.champion_n, total_bad, (*alternatives, null))
    gain: npt.NDArray[np.float64] = (
        norm[-1] - norm[:-1] + stratum.challenger_bad * np.log(np.asarray(alternatives) / null)
    )
    return gain


def log_e_process(
    strata: Iterable[Stratum], null: float, alternatives: tuple[float, ...], starts: Sequence[int] = (0,)
) -> float:
    """Log e-value after the given looks, in natural log.

    The null: in every look the odds ratio is at most `null` (for alternatives above it) or at least `null` (for
    alternatives below it).

    Args:
        strata: One entry a look, in order.
        null: The odds ratio at the edge of the null.
        alternatives: Grid of odds ratios, all on one side of the null, mixed with equal weights.
        starts: Positions in `strata` at which a process begins; the first must be 0. With more than one, half of
            the weight is on the first and the rest is shared by the later ones, which stay at 1 until they
            begin. A regression that begins late is then seen without first having to outweigh everything good
            that was seen before, and the mixture is still an e-process (a weighted mean of e-processes).
    """
    if not starts or starts[0] != 0:
        raise ValueError(f"starts is {list(starts)}, must begin with 0")
    gains = [log_likelihood_ratios(s, null, alternatives) for s in strata]
    weights = [1.0] if len(starts) == 1 else [0.5, *[0.5 / (len(starts) - 1)] * (len(starts) - 1)]
    parts = []
    for start, weight in zip(starts, weights, strict=True):
        total = np.sum(gains[start:], axis=0) if start < len(gains) else np.zeros(len(alternatives))
        parts.append(math.log(weight) + float(logsumexp(total)) - math.log(len(alternatives)))
    return float(logsumexp(parts))


def estimate(strata: Iterable[Stratum]) -> float | None:
    """Mantel-Haenszel odds ratio over the looks; None where it is undefined (nothing to compare)."""
    up = down = 0.0
    for s in strata:
        n = s.challenger_n + s.champion_n
        if n:
            up += s.challenger_bad * (s.champion_n - s.champion_bad) / n
            down += s.champion_bad * (s.challenger_n - s.challenger_bad) / n
    return up / down if down else None
