"""Estimates with 95 % intervals for one point in time, from counts and sums, and the difference of two of them.

What can't be computed has no number, and says why; it is never 0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Z = 1.959963984540054  # 97.5 % quantile of the normal law: two-sided 95 %


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The estimate; None: it can't be computed.
        low: Lower end of the 95 % interval; None where there is none.
        high: Upper end.
        n: How many requests it is of.
        reason: Why the value or its interval is missing; "" where nothing is.
        bound: The most that the value is off by because of how it is computed; None: nothing but rounding.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""
    bound: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `reason` and `bound` where there is one."""
        told: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        told |= {"reason": self.reason} if self.reason else {}
        return told | ({} if self.bound is None else {"bound": self.bound})


def unknown(reason: str, n: int = 0) -> Estimate:
    """What can't be computed, and why."""
    return Estimate(None, None, None, n, reason)


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, clipped to 0 to 1 (Wilson, 1927).

    Raises:
        ValueError: count is not between 0 and of, or of is not positive.
    """
    if not 0 <= count <= of:
        raise ValueError(f"count is {count} of {of}, must be between 0 and {of}")
    if of == 0:
        raise ValueError("of is 0, must be at least 1: a share of nothing has no interval")
    rate = count / of
    middle = (rate + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z / (1 + Z * Z / of) * math.sqrt(rate * (1 - rate) / of + Z * Z / (4 * of * of))
    # Rounding must not push the interval off its own rate at 0 or 1.
    return max(0.0, min(middle - half, rate)), min(1.0, max(middle + half, rate))


def share(count: int, of: int, nothing: str) -> Estimate:
    """A share with its Wilson interval.

    Args:
        count: Those that count.
        of: All of them.
        nothing: The reason where `of` is 0.

    Raises:
        ValueError: count is not between 0 and of.
    """
    if of == 0 and count == 0:
        return unknown(nothing)
    return Estimate(count / max(of, 1), *wilson(count, of), of)


def variance(n: int, total: float, squares: float) -> float:
    """Sample variance from a sum and a sum of squares; at least 0, which rounding may take it below.

    Raises:
        ValueError: n is below 2.
    """
    if n < 2:  # noqa: PLR2004
        raise ValueError(f"n is {n}, must be at least 2")
    return max(0.0, (squares - total * total / n) / (n - 1))


def mean(n: int, total: float | None, squares: float | None, nothing: str) -> Estimate:
    """A mean with its normal interval; without one below two rows.

    Args:
        n: Rows.
        total: Their sum; None where there are none.
        squares: The sum of their squares.
        nothing: The reason where there are none.
    """
    if n == 0 or total is None or squares is None:
        return unknown(nothing)
    if not (math.isfinite(total) and math.isfinite(squares)):
        return unknown("the sums are beyond the largest number", n)
    value = total / n
    if n == 1:
        return Estimate(value, None, None, n, "one row has no interval")
    half = Z * math.sqrt(variance(n, total, squares) / n)
    return Estimate(value, value - half, value + half, n)


def root_mean_square(n: int, squares: float | None, fourths: float | None, nothing: str) -> Estimate:
    """Root of the mean square: the interval is that of the mean square, its root taken at both ends."""
    found = mean(n, squares, fourths, nothing)
    if found.value is None:
        return found
    low = None if found.low is None else math.sqrt(max(found.low, 0.0))
    high = None if found.high is None else math.sqrt(found.high)
    return Estimate(math.sqrt(found.value), low, high, n, found.reason)


def quantile(histogram: Mapping[int, int], q: float, edge: Callable[[int], float], nothing: str) -> Estimate:
    """A quantile of a histogram: the upper edge of its bin, at most one bin's width too high and never too low.

    The interval holds the bins of the order statistics at n q +- 1.96 sqrt(n q (1 - q)) (the binomial law of the rank).

    Args:
        histogram: Bin -> count.
        q: Which quantile, in (0, 1).
        edge: Lower edge of a bin.
        nothing: The reason where the histogram is empty.

    Raises:
        ValueError: q is out of its bounds.
    """
    if not 0 < q < 1:
        raise ValueError(f"q is {q}, must be between 0 and 1, both excluded")
    total = sum(histogram.values())
    if total == 0:
        return unknown(nothing)
    half = Z * math.sqrt(total * q * (1 - q))
    ranks = (math.floor(total * q - half), max(1, math.ceil(total * q)), math.ceil(total * q + half) + 1)
    low, value, high = (_bin_at(histogram, rank) for rank in ranks)
    if ranks[0] < 1 or ranks[2] > total:
        return Estimate(edge(value + 1), None, None, total, f"{total:,} rows are too few for an interval")
    return Estimate(edge(value + 1), edge(low), edge(high + 1), total)


def _bin_at(histogram: Mapping[int, int], rank: int) -> int:
    running = 0
    for index in sorted(histogram):
        running += histogram[index]
        if running >= rank:
            return index
    return max(histogram)


def difference(challenger: Estimate, champion: Estimate) -> Estimate:
    """Challenger minus champion, with an interval made of both intervals.

    MOVER (Zou and Donner, 2008; for rates: Newcombe, 1998, method 10): the distances from the estimates to their ends
    are added as squares, each on its own side. It takes the two for independent. Where both arms answered the same
    requests they go together, and the interval is wider than it need be.
    """
    n = min(challenger.n, champion.n)
    for arm, each in (("challenger", challenger), ("champion", champion)):
        if each.value is None:
            return unknown(f"{arm}: {each.reason}", n)
    if challenger.value is None or champion.value is None:
        raise AssertionError("unreachable")
    value = challenger.value - champion.value
    bounds = [each.bound for each in (challenger, champion) if each.bound is not None]
    bound = sum(bounds) if bounds else None
    ends = (challenger.low, challenger.high, champion.low, champion.high)
    if any(end is None for end in ends):
        missing = challenger if challenger.low is None or challenger.high is None else champion
        return Estimate(value, None, None, n, missing.reason, bound)
    low_1, high_1, low_2, high_2 = (float(end) for end in ends if end is not None)
    below = math.hypot(challenger.value - low_1, high_2 - champion.value)
    above = math.hypot(high_1 - challenger.value, champion.value - low_2)
    return Estimate(value, value - below, value + above, n, "", bound)
