"""Distances between two sides of a column, from counts alone, and what chance does to them.

A side without values has no distribution: every distance to it is None, never 0.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

_PRIOR = 0.5  # added to each count of PSI, which an empty bin would make infinite
_LEAST_EXPECTED = 5.0  # Cochran (1954): expected counts from which on the chi-square law is near enough


def psi(reference: Sequence[int], current: Sequence[int]) -> float | None:
    """Population stability index: sum of (p - q) * ln(p / q) over the bins, at least 0 and without a bound above.

    Half a count is added to each bin of each side, so that an empty bin is far away and not infinitely so. The index
    is Jeffreys' divergence (Jeffreys 1946) of the two; below 0.1 is custom for "the same", from 0.2 on for "drift"
    (Siddiqi, Credit Risk Scorecards, 2006).

    Args:
        reference: Counts by bin or category.
        current: Counts of the same ones.

    Raises:
        ValueError: The sides differ in length, or a count is negative.
    """
    if not _both(reference, current):
        return None
    n, m, prior = sum(reference), sum(current), _PRIOR * len(reference)
    pairs = [((a + _PRIOR) / (n + prior), (b + _PRIOR) / (m + prior)) for a, b in zip(reference, current, strict=True)]
    return math.fsum((p - q) * math.log(p / q) for p, q in pairs)


def js_distance(reference: Sequence[int], current: Sequence[int]) -> float | None:
    """Jensen-Shannon distance with logarithms to base 2: 0 for the same shares, 1 for sides that share no bin.

    The square root of the divergence, which makes it a metric (Endres and Schindelin 2003); as
    `scipy.spatial.distance.jensenshannon(p, q, 2)`.

    Args:
        reference: Counts by bin or category.
        current: Counts of the same ones.

    Raises:
        ValueError: The sides differ in length, or a count is negative.
    """
    if not _both(reference, current):
        return None
    n, m = sum(reference), sum(current)
    divergence = 0.0
    for a, b in zip(reference, current, strict=True):
        p, q = a / n, b / m
        middle = (p + q) / 2
        divergence += (p * math.log2(p / middle) if p else 0.0) + (q * math.log2(q / middle) if q else 0.0)
    return math.sqrt(min(max(divergence / 2, 0.0), 1.0))


def wasserstein(positions: Sequence[float], reference: Sequence[int], current: Sequence[int]) -> float | None:
    """Wasserstein distance of order 1, in the column's own unit: how far the values of one side moved on average.

    The area between the two distribution functions (Vallender 1974). In numbers that are no further than e from their
    bin's position, the distance of the counts is within 2 e of that of the values.

    Args:
        positions: The number that stands for each bin, strictly increasing.
        reference: Counts by bin.
        current: Counts of the same ones.

    Raises:
        ValueError: The lengths differ, the positions do not increase, or a count is negative.
    """
    if not _both(reference, current):
        return None
    _increasing(positions, reference)
    n, m = sum(reference), sum(current)
    below_reference = below_current = 0
    parts = []
    for at, (low, high) in enumerate(pairwise(positions)):
        below_reference += reference[at]
        below_current += current[at]
        parts.append(abs(below_reference / n - below_current / m) * (high - low))
    return math.fsum(parts)


def missing_difference(
    reference_missing: int, reference_rows: int, current_missing: int, current_rows: int
) -> float | None:
    """Share of rows without a value now minus that of the reference, -1 to 1; None where a side has no row.

    Raises:
        ValueError: A count is negative, or more is missing than there are rows.
    """
    for name, missing, rows in (
        ("reference", reference_missing, reference_rows),
        ("current", current_missing, current_rows),
    ):
        if not 0 <= missing <= rows:
            raise ValueError(f"{name} has {missing} of {rows} rows without a value, must be between 0 and {rows}")
    if not reference_rows or not current_rows:
        return None
    return current_missing / current_rows - reference_missing / reference_rows


# --- what chance does


def psi_of_chance(bins: int, n: int, m: int) -> float:
    """What PSI is on average where nothing drifted: (bins - 1) * (1/n + 1/m) (Yurdakul and Naranjo 2020)."""
    return (bins - 1) * (1 / n + 1 / m)


def divergence_of_chance(bins: int, n: int, m: int) -> float:
    """The same for the squared Jensen-Shannon distance in bits: an eighth of PSI's, to second order, over ln 2."""
    return psi_of_chance(bins, n, m) / (8 * math.log(2))


def wasserstein_of_chance(
    positions: Sequence[float], reference: Sequence[int], current: Sequence[int], level: float
) -> tuple[float, float]:
    """(mean, bound) of the Wasserstein distance where nothing drifted; above the bound in at most `level` of cases.

    Without drift the difference of the two distribution functions is a Brownian bridge of variance
    F (1 - F) (1/n + 1/m) (del Barrio, Gine and Matran 1999), and its area is that of a Gaussian process: on average
    sqrt(2 / pi) times its standard deviation's. The area's excess over it is bounded by Gaussian concentration
    (Borell 1975) with the largest variance of a function that rises no faster than the number itself, which is the
    variance of the numbers. F is taken from both sides together.

    Raises:
        ValueError: The lengths differ, the positions do not increase, a count is negative or a side is empty.
    """
    if not _both(reference, current):
        raise ValueError("a side has no values: nothing is known of its chance")
    _increasing(positions, reference)
    n, m = sum(reference), sum(current)
    rate = math.sqrt(1 / n + 1 / m)
    below, parts = 0, []
    for at, (low, high) in enumerate(pairwise(positions)):
        below += reference[at] + current[at]
        share = below / (n + m)
        parts.append(math.sqrt(share * (1 - share)) * (high - low))
    mean = math.sqrt(2 / math.pi) * rate * math.fsum(parts)
    both = [a + b for a, b in zip(reference, current, strict=True)]
    return mean, mean + rate * (standard_deviation(positions, both) or 0.0) * math.sqrt(2 * math.log(1 / level))


def standard_deviation(positions: Sequence[float], counts: Sequence[int]) -> float | None:
    """Standard deviation of counted numbers, over their number; None without any."""
    total = sum(counts)
    if not total:
        return None
    mean = math.fsum(at * count / total for at, count in zip(positions, counts, strict=True))
    return math.sqrt(math.fsum((at - mean) ** 2 * (count / total) for at, count in zip(positions, counts, strict=True)))


def pooled(reference: Sequence[int], current: Sequence[int]) -> tuple[list[int], list[int]]:
    """The counts with bins that are too small for any law put together into one, and empty ones left out.

    A bin is small when either side is expected to have fewer than 5 of it, going by both sides together.

    Raises:
        ValueError: The sides differ in length, or a count is negative.
    """
    if not _both(reference, current):
        return list(reference), list(current)
    n, m = sum(reference), sum(current)
    kept: list[tuple[int, int]] = []
    small = [0, 0]
    for a, b in zip(reference, current, strict=True):
        if (a + b) * min(n, m) / (n + m) >= _LEAST_EXPECTED:
            kept.append((a, b))
        else:
            small[0] += a
            small[1] += b
    if any(small):
        if kept and sum(small) * min(n, m) / (n + m) < _LEAST_EXPECTED:  # still: to the smallest of the others
            at = min(range(len(kept)), key=lambda each: sum(kept[each]))
            kept[at] = (kept[at][0] + small[0], kept[at][1] + small[1])
        else:
            kept.append((small[0], small[1]))
    return [a for a, _ in kept], [b for _, b in kept]


def same_shares(reference: Sequence[int], current: Sequence[int]) -> float | None:
    """The p-value of both sides having the same shares: Pearson's chi-square test of homogeneity (1900).

    Give it bins that `pooled` made. 1 where there is one bin alone, None where a side is empty.

    Raises:
        ValueError: The sides differ in length, or a count is negative.
    """
    if not _both(reference, current):
        return None
    n, m = sum(reference), sum(current)
    used = [(a, b) for a, b in zip(reference, current, strict=True) if a + b]
    if len(used) < 2:  # noqa: PLR2004
        return 1.0
    chi2 = math.fsum((a * math.sqrt(m / n) - b * math.sqrt(n / m)) ** 2 / (a + b) for a, b in used)
    from scipy.special import chdtrc  # takes longer to import than all of the core

    return float(chdtrc(len(used) - 1, chi2))


def same_missing(reference_missing: int, reference_rows: int, current_missing: int, current_rows: int) -> float:
    """The two-sided p-value of the same share of missing values: difference of two proportions, one added to each.

    Raises:
        ValueError: A side has no row.
    """
    if not reference_rows or not current_rows:
        raise ValueError("a side has no rows: nothing is known of its missing values")
    share = (reference_missing + current_missing + 1) / (reference_rows + current_rows + 2)
    error = math.sqrt(share * (1 - share) * (1 / reference_rows + 1 / current_rows))
    difference = abs(reference_missing / reference_rows - current_missing / current_rows)
    return 2 * NormalDist().cdf(-difference / error)


def quantile_bins(counts: Sequence[int], bins: int) -> list[int]:
    """Positions after which to cut neighbouring counts into at most `bins` groups of about the same size.

    A count that is larger than a group has one of its own.

    Returns:
        Increasing positions; group i is what follows position i - 1 up to position i, and what follows the last one
        is a group too.
    """
    cuts: list[int] = []
    total = left = sum(counts)
    taken = 0
    for at, count in enumerate(counts):
        if taken:
            size = _size(left + taken, bins - len(cuts), total, bins)
            if taken >= size or taken + count - size > size - taken:  # full, or closer to the size without it
                cuts.append(at - 1)
                taken = 0
        if len(cuts) >= bins - 1:
            break
        taken += count
        left -= count
    return cuts


def _size(left: int, groups: int, total: int, bins: int) -> float:
    """Of the next group: what is left shared out, but not so little that the group tells nothing."""
    return max(left / groups, total / (2 * bins))


def _both(reference: Sequence[int], current: Sequence[int]) -> bool:
    """Whether both sides have values."""
    if len(reference) != len(current):
        raise ValueError(f"reference has {len(reference)} counts and current {len(current)}, must be equally many")
    if any(count < 0 for side in (reference, current) for count in side):
        raise ValueError("a count is negative, must be at least 0")
    return sum(reference) > 0 and sum(current) > 0


def _increasing(positions: Sequence[float], counts: Sequence[int]) -> None:
    if len(positions) != len(counts):
        raise ValueError(f"there are {len(positions)} positions for {len(counts)} counts, must be equally many")
    if not all(low < high for low, high in pairwise(positions)):
        raise ValueError("positions must be strictly increasing")
