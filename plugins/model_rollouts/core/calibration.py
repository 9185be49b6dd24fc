"""Whether scores are probabilities: reliability bins, expected calibration error, and calibration in the large."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model_rollouts.core.estimates import Estimate, Z, share, unknown

BINS = 10


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """The labelled answers with scores in one bin.

    Attributes:
        n: How many.
        positives: Those whose label is 1.
        scores: Sum of the scores.
        squares: Sum of (score - label)^2.
    """

    n: int
    positives: int
    scores: float
    squares: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the bins say.

    Attributes:
        ece: Expected calibration error (Naeini, Cooper and Hauskrecht, 2015): the mean distance of score and rate over
            the bins, weighed by size, 0 to 1. Perfect scores have one above 0 too: see `chance`.
        chance: The error that perfectly calibrated scores would have by chance, about.
        offset: Mean score minus share of positives: above 0 the scores are too high.
        bins: For each bin: `n`, mean `score`, and the `rate` of positives with its interval; None where it is empty.
    """

    ece: Estimate
    chance: float | None
    offset: Estimate
    bins: tuple[dict[str, Any] | None, ...]


def calibration(bins: Sequence[ScoreBin]) -> Calibration:
    """Calibration of scores from 0 to 1.

    The interval of the error takes the side of each bin for known: a normal interval of the mean distance, with the
    variance of (score - label) within the bins. Its lower end stops at 0.

    Args:
        bins: The bins, of equal width, from the lowest scores to the highest.

    Raises:
        ValueError: More positives than labels in a bin.
    """
    total = sum(each.n for each in bins)
    shown = tuple(_shown(each) for each in bins)
    if not total:
        nothing = unknown("no label with a score")
        return Calibration(nothing, None, nothing, shown)
    distance = sum(abs(each.scores - each.positives) for each in bins)
    gap = sum(each.scores - each.positives for each in bins)
    spread = sum(_within(each) for each in bins)
    chance = sum(math.sqrt(2 / math.pi * max(each.squares, 0.0)) for each in bins) / total
    half, value = Z * math.sqrt(spread) / total, distance / total
    ece = Estimate(value, max(0.0, value - half), min(1.0, value + half), total)
    squares = sum(each.squares for each in bins)
    half = Z * math.sqrt(max(0.0, squares / total - (gap / total) ** 2) / total)
    return Calibration(ece, chance, Estimate(gap / total, gap / total - half, gap / total + half, total), shown)


def _within(each: ScoreBin) -> float:
    """Variance of the sum of (score - label) of a bin."""
    return max(0.0, each.squares - (each.scores - each.positives) ** 2 / each.n) if each.n else 0.0


def _shown(each: ScoreBin) -> dict[str, Any] | None:
    if not each.n:
        return None
    rate = share(each.positives, each.n, "")
    return {"n": each.n, "score": each.scores / each.n, "rate": rate.to_dict()}
