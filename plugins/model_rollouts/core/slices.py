"""In which slices of the requests is the challenger worse? One-sided tests, corrected for how many were looked at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from model_rollouts.core.estimates import Estimate, difference, mean, share, variance
from model_rollouts.core.multiple_tests import holm

LEAST_REQUESTS = 200  # of each arm, of those that the metric is about
LEAST_FOR_MEANS = 500  # the tests of means are asymptotic
FALSE_FINDINGS = 0.05

Better = Literal["less", "more"]


@dataclass(frozen=True, slots=True)
class Count:
    """Bad outcomes of one arm in one slice."""

    n: int
    bad: int


@dataclass(frozen=True, slots=True)
class Sums:
    """A measured quantity of one arm in one slice: number, sum and sum of squares."""

    n: int
    total: float
    squares: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric in one slice.

    Attributes:
        dimension: What the requests are cut by.
        slice: The part.
        metric: Its name.
        better: Which way is better: "less" for errors, "more" for value.
        champion: The champion's numbers.
        challenger: The challenger's, of the same kind.
    """

    dimension: str
    slice: str
    metric: str
    better: Better
    champion: Count | Sums
    challenger: Count | Sums

    @property
    def looked_at(self) -> bool:
        """Whether there are requests enough to say anything."""
        least = LEAST_REQUESTS if isinstance(self.champion, Count) else LEAST_FOR_MEANS
        return min(self.champion.n, self.challenger.n) >= least


@dataclass(frozen=True, slots=True)
class Found:
    """A slice that was looked at, with the evidence that the challenger is worse there.

    Attributes:
        cell: What was counted.
        champion: The champion's estimate.
        challenger: The challenger's.
        effect: Challenger minus champion.
        p: One-sided p-value of "the challenger is no worse here".
        corrected: The same by Holm's procedure over all that was looked at.
    """

    cell: Cell
    champion: Estimate
    challenger: Estimate
    effect: Estimate
    p: float
    corrected: float

    @property
    def finding(self) -> bool:
        """Whether it stands after the correction."""
        return self.corrected <= FALSE_FINDINGS

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "dimension": self.cell.dimension,
            "slice": self.cell.slice,
            "metric": self.cell.metric,
            "better": self.cell.better,
            "champion": self.champion.to_dict(),
            "challenger": self.challenger.to_dict(),
            "effect": self.effect.to_dict(),
            "p": self.p,
            "corrected": self.corrected,
            "finding": self.finding,
        }


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes:
        looked_at: How many tests were made: the number that is corrected for.
        too_small: How many were left out, as an arm has too few requests there.
        found: All that were looked at, those with the least p-value first.
    """

    looked_at: int
    too_small: int
    found: tuple[Found, ...]

    @property
    def findings(self) -> tuple[Found, ...]:
        """Those that stand after the correction."""
        return tuple(each for each in self.found if each.finding)


def search(cells: Sequence[Cell], design_effects: Mapping[str, float] | None = None) -> Search:
    """Test every cell that is large enough, and correct for their number.

    Rates are tested by Fisher's exact test (hypergeometric, conservative), means by Welch's t-test.

    Args:
        cells: All slices and metrics.
        design_effects: By metric: by how much repeat requests of units stretch the variance; at least 1. A metric that
            is left out takes its requests for independent.

    Raises:
        ValueError: A count is negative or more than it can be, or a design effect is below 1.
    """
    effects = design_effects or {}
    for metric, effect in effects.items():
        if not (math.isfinite(effect) and effect >= 1):
            raise ValueError(f"design effect of {metric} is {effect}, must be a finite number of at least 1")
    looked = [cell for cell in cells if cell.looked_at]
    p_values = [_p(cell, effects.get(cell.metric, 1.0)) for cell in looked]
    found = [
        Found(cell, champion, challenger, difference(challenger, champion), p, corrected)
        for cell, p, corrected in zip(looked, p_values, holm(p_values), strict=True)
        for champion, challenger in [(_estimate(cell.champion), _estimate(cell.challenger))]
    ]
    found.sort(key=lambda each: (each.p, -abs(each.effect.value or 0.0)))
    return Search(len(looked), len(cells) - len(looked), tuple(found))


def _estimate(numbers: Count | Sums) -> Estimate:
    if isinstance(numbers, Count):
        return share(numbers.bad, numbers.n, "no requests")
    return mean(numbers.n, numbers.total, numbers.squares, "no requests")


def _p(cell: Cell, design_effect: float) -> float:
    if isinstance(cell.champion, Count) and isinstance(cell.challenger, Count):
        more = _fisher(cell.champion, cell.challenger, design_effect)
        return more if cell.better == "less" else _fisher(_good(cell.champion), _good(cell.challenger), design_effect)
    if isinstance(cell.champion, Sums) and isinstance(cell.challenger, Sums):
        return _welch(cell.champion, cell.challenger, design_effect, cell.better)
    raise TypeError(f"{cell.metric} of {cell.slice} has counts for one arm and sums for the other")


def _good(count: Count) -> Count:
    return Count(count.n, count.n - count.bad)


def _fisher(champion: Count, challenger: Count, design_effect: float) -> float:
    """P(at least as many bad ones are the challenger's), given how many there are in all."""
    for count in (champion, challenger):
        if not 0 <= count.bad <= count.n:
            raise ValueError(f"bad is {count.bad} of {count.n}, must be between 0 and {count.n}")
    from scipy.stats import hypergeom

    # As many as would tell as much if they were independent; rounded against a finding.
    n, m = (math.floor(count.n / design_effect) for count in (challenger, champion))
    if not n or not m:
        return 1.0  # a single unit, as it were, tells nothing
    bad, other = math.floor(challenger.bad / design_effect), math.ceil(champion.bad / design_effect)
    return float(hypergeom.sf(bad - 1, n + m, min(bad + other, n + m), n))


def _welch(champion: Sums, challenger: Sums, design_effect: float, better: Better) -> float:
    from scipy.stats import t

    spread = [variance(sums.n, sums.total, sums.squares) * design_effect / sums.n for sums in (champion, challenger)]
    gap = challenger.total / challenger.n - champion.total / champion.n
    gap = gap if better == "less" else -gap
    if not math.isfinite(gap) or not all(map(math.isfinite, spread)):
        return 1.0
    if sum(spread) <= 0:
        return 1.0 if gap <= 0 else 0.0
    freedom = sum(spread) ** 2 / sum(
        each * each / (sums.n - 1) for each, sums in zip(spread, (champion, challenger), strict=True)
    )
    return float(t.sf(gap / math.sqrt(sum(spread)), freedom))
