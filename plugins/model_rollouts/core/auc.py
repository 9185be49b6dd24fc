"""Area under the ROC curve from a histogram of scores by class.

With ties counted half, the area is P(score of a positive > score of a negative) + P(equal) / 2 (Mann-Whitney). What
lies in one bin of a histogram counts as tied, so that the area of the unbinned scores is at most half the share of such
pairs away: that bound is given with the value.
"""

import math
from collections.abc import Sequence

from model_rollouts.core.estimates import Estimate, Z, unknown

_TAIL = 0.025


def auc(bins: Sequence[tuple[int, int]]) -> Estimate:
    """The area with its 95 % interval.

    The variance is DeLong's (1988), on the binned scores, taken to the logit scale so that the ends stay within 0 and 1
    (Pepe, 2003). It is widened by the bound. Where one class is wholly above the other there is no variance to
    estimate; the smaller class then says what could have been missed, as for a rate of 0 of n (Clopper-Pearson).

    Args:
        bins: (negatives, positives) of each bin, from the lowest scores to the highest.

    Raises:
        ValueError: A count is negative.
    """
    for at, counts in enumerate(bins):
        if min(counts) < 0:
            raise ValueError(f"counts of bin {at} are {counts}, must be at least 0")
    negatives, positives = sum(n for n, _ in bins), sum(p for _, p in bins)
    if not negatives or not positives:
        missing = "no label at all" if not negatives and not positives else "labels of one class only"
        return unknown(f"{missing} with a score", negatives + positives)
    below, wins, tied, squares_pos = 0, 0.0, 0.0, 0.0
    for n, p in bins:
        place = (below + n / 2) / negatives
        wins += p * place
        squares_pos += p * place * place
        tied += n * p
        below += n
    above, squares_neg = positives, 0.0
    for n, p in bins:
        above -= p
        place = (above + p / 2) / positives
        squares_neg += n * place * place
    area = wins / positives
    bound = tied / 2 / negatives / positives
    spread = _spread(squares_pos, area, positives) + _spread(squares_neg, area, negatives)
    low, high = _interval(area, spread, min(negatives, positives))
    return Estimate(area, max(0.0, low - bound), min(1.0, high + bound), negatives + positives, "", bound)


def _spread(squares: float, area: float, n: int) -> float:
    """Variance of the mean of n placements whose mean is the area."""
    return max(0.0, squares / n - area * area) / max(n - 1, 1)


def _interval(area: float, spread: float, smaller: int) -> tuple[float, float]:
    far = _TAIL ** (1 / smaller)
    if spread <= 0.0 or not 0.0 < area < 1.0:
        return min(area, far), max(area, 1 - far)
    middle, half = math.log(area / (1 - area)), Z * math.sqrt(spread) / (area * (1 - area))
    return _sigmoid(middle - half), _sigmoid(middle + half)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
