"""Bounds for one window of live traffic: of a rate, of a quantile and of a mean, each robust to repeats.

Each bound is one-sided at a level that the caller states, such as 0.999, and for one point in time: a monitor looks at
one window after the other and forgets, unlike a rollout, which adds up (see core/confidence_sequence.py).

Requests of one unit, and rows of one call, resemble each other. The design effect says how much: the variance of a sum
over groups as they are, over its variance if all rows were independent (Kish, Survey Sampling, 1965). Bounds count
n / effect rows.

Sources: Wilson, Probable inference, the law of succession, and statistical inference (1927); order statistics as
bounds of a quantile: David and Nagaraja, Order Statistics (2003), section 7.1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from model_rollouts.core.evidence import latency_edge_ms


@dataclass(frozen=True, slots=True)
class Grouped:
    """A count of hits among rows that come in groups, as sums over the groups.

    Attributes:
        rows: Sum of the groups' rows.
        hits: Sum of their hits; for values, of their values.
        rows_rows: Sum of the squares of their rows.
        rows_hits: Sum of the products of rows and hits.
        hits_hits: Sum of the squares of their hits.
        groups: How many there are.
    """

    rows: float = 0
    hits: float = 0
    rows_rows: float = 0
    rows_hits: float = 0
    hits_hits: float = 0
    groups: int = 0

    @property
    def variance(self) -> float:
        """Estimated variance of the sum of hits around rows * mean; infinite for a single group."""
        if self.groups <= 1 or not self.rows:
            return math.inf
        mean = self.hits / self.rows
        squares = self.hits_hits - 2 * mean * self.rows_hits + mean * mean * self.rows_rows
        return max(0.0, squares) * self.groups / (self.groups - 1)


def design_effect(grouped: Grouped) -> float:
    """How many rows are worth one, at least 1 and at most all of them.

    Where every row is a hit, or none is, nothing tells how much rows of a group resemble each other: they then count as
    if they were one.
    """
    if not grouped.rows:
        return 1.0
    mean = grouped.hits / grouped.rows
    independent = grouped.rows * mean * (1 - mean)
    alike = grouped.rows_rows / grouped.rows
    effect = grouped.variance / independent if independent > 0 else alike
    return min(max(1.0, effect), float(grouped.rows))


def mean_error(grouped: Grouped) -> float | None:
    """Standard error of a mean over rows; None where there are fewer than two groups to tell it from."""
    if not math.isfinite(grouped.variance):
        return None
    return math.sqrt(grouped.variance) / grouped.rows


def rate_bounds(hits: int, rows: int, effect: float, level: float) -> tuple[float, float]:
    """Wilson's lower and upper bound of a rate; 0 and 1 where there are no rows."""
    if not rows:
        return 0.0, 1.0
    z, n, rate = _z(level), rows / effect, hits / rows
    middle = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # rounding must not push a bound beyond its own rate
    return max(0.0, min(rate, (middle - half) / scale)), min(1.0, max(rate, (middle + half) / scale))


def quantile_bounds(histogram: Mapping[int, int], quantile: float, effect: float, level: float) -> tuple[float, float]:
    """Lower and upper bound of a latency's quantile in ms, by order statistics, at the outer edges of their bins.

    Args:
        histogram: Count by latency bin (see `core/evidence.py`).
        quantile: Which one, between 0 and 1.
        effect: Design effect of being slow.
        level: Of each bound.

    Returns:
        0 below and infinity above where too few were counted to bound it.
    """
    rows = sum(histogram.values())
    n = math.floor(rows / effect)
    if n < 1:
        return 0.0, math.inf
    # The k-th smallest is at most the quantile unless fewer than k of n are below it.
    below, above = _binomial(1 - level, n, quantile), _binomial(level, n, quantile) + 1
    low, high = math.floor(below * rows / n), math.ceil(above * rows / n)
    return (
        latency_edge_ms(_bin_at(histogram, low)) if low >= 1 else 0.0,
        latency_edge_ms(_bin_at(histogram, high) + 1) if high <= rows else math.inf,
    )


def quantile_of(histogram: Mapping[int, int], quantile: float) -> float | None:
    """A latency's quantile in ms, at the upper edge of its bin; None where nothing was counted."""
    rows = sum(histogram.values())
    return latency_edge_ms(_bin_at(histogram, max(1, math.ceil(quantile * rows))) + 1) if rows else None


def mean_bounds(mean: float, error: float, level: float) -> tuple[float, float]:
    """Lower and upper bound of a mean, by the normal law: for many groups only."""
    return mean - _z(level) * error, mean + _z(level) * error


def _z(level: float) -> float:
    if not 0.5 < level < 1:  # noqa: PLR2004 - a bound at one half or less bounds nothing
        raise ValueError(f"level is {level}, must be above 0.5 and below 1")
    return NormalDist().inv_cdf(level)


def _binomial(level: float, n: int, rate: float) -> int:
    """The smallest k for which at most k of n happen with a probability of at least `level`, by bisection."""
    from scipy.special import bdtr  # takes longer to import than all of the core

    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if bdtr(middle, n, rate) >= level:
            high = middle
        else:
            low = middle + 1
    return low


def _bin_at(histogram: Mapping[int, int], place: int) -> int:
    """The bin that holds the place-th smallest, counted from 1."""
    passed = 0
    for index in sorted(histogram):
        passed += histogram[index]
        if passed >= place:
            return index
    raise ValueError(f"place is {place}, must be between 1 and {passed}")
