"""Repeat requests of a unit: how much less they tell than as many requests of strangers.

Requests of one unit resemble each other: a user whose data breaks the model breaks it every time. With m requests a
unit and a correlation within units of ICC, a count has 1 + (m - 1) * ICC times the variance that independent requests
would give it (Kish, Survey Sampling, 1965), and a test that takes them for independent rolls back healthy versions.
Dividing what each look says (the log-likelihood ratio) by this design effect makes the counts as large as the number of
independent requests that tell as much (Rao and Scott, A simple method for the analysis of clustered binary data, 1992).

The correlation is estimated from pairs of requests of one unit, with the residuals taken within arm and look, so that
neither the difference between the arms nor the hour of the day looks like a correlation.
"""

import math
from dataclasses import dataclass

from model_rollouts.core.unit_evidence import ClusterSums

# The correlation counts once it is this many standard errors above 0, and then as if it were this many larger than its
# estimate: in simulations the bound on false rollbacks holds with it down to 40 units (tests/acceptance).
_CLEARLY, _CAUTION = 1.0, 1.0


class ClusterTotals:
    """Sums over looks of one arm's `ClusterSums`, without the bound that a single look has."""

    __slots__ = ("judged", "noise", "products", "scale", "squares")

    def __init__(self) -> None:
        self.judged = self.squares = 0
        self.products = self.scale = self.noise = 0.0

    def add(self, sums: ClusterSums) -> None:
        """Take a look's sums."""
        self.judged += sums.judged
        self.squares += sums.squares
        self.products += sums.products
        self.scale += sums.scale
        self.noise += sums.noise

    def join(self, other: "ClusterTotals") -> None:
        """Take another arm's sums."""
        self.judged += other.judged
        self.squares += other.squares
        self.products += other.products
        self.scale += other.scale
        self.noise += other.noise

    @property
    def unit_size(self) -> float:
        """Mean number of requests of the unit that a request belongs to; 1 where there are none."""
        return self.squares / self.judged if self.judged else 1.0


@dataclass(frozen=True, slots=True)
class Clustering:
    """What repeat requests do to one metric.

    Attributes:
        correlation: Estimated correlation of two requests of one unit; None where no unit has two telling ones.
        requests_per_unit: Mean size of the unit that a request belongs to, both arms.
        design_effect: Factor on the variance of the challenger's count, at least 1; exactly 1 while the correlation is
            not clearly above 0, and the size of a unit while there is nothing to tell it by.
    """

    correlation: float | None
    requests_per_unit: float
    design_effect: float


def clustering_of(champion: ClusterTotals, challenger: ClusterTotals) -> Clustering:
    """Correlation and design effect of the challenger's count against the champion's, from all looks so far.

    Args:
        champion: The champion's sums.
        challenger: The challenger's.
    """
    judged = champion.judged + challenger.judged
    # The challenger's count less what the totals let expect of it mixes both arms: the smaller one weighs most.
    share = challenger.judged / judged if judged else 0.0
    repeats = (1 - share) * (challenger.unit_size - 1) + share * (champion.unit_size - 1)
    both = ClusterTotals()
    for arm in (champion, challenger):
        both.join(arm)
    return _clustering(both, repeats)


def clustering_of_one(totals: ClusterTotals) -> Clustering:
    """The same for a count that is compared with nothing, such as that of the pairs that agree."""
    return _clustering(totals, totals.unit_size - 1)


def _clustering(totals: ClusterTotals, repeats: float) -> Clustering:
    """From the sums and the mean number of other requests of a request's unit."""
    if not totals.scale > 0:
        # Nobody has been seen to go wrong sometimes only: as far as can be told, a unit's requests are all one.
        return Clustering(None, totals.unit_size, 1 + repeats)
    correlation = totals.products / totals.scale
    error = math.sqrt(2 * totals.noise) / totals.scale
    if not correlation > _CLEARLY * error:
        return Clustering(correlation, totals.unit_size, 1.0)
    cautious = min(correlation + _CAUTION * error, 1.0)
    return Clustering(correlation, totals.unit_size, max(1.0, 1 + cautious * repeats))


def as_independent(bad: int, n: int, design_effect: float) -> tuple[float, float]:
    """Counts as large as those of independent requests that would tell as much (Rao and Scott, 1992)."""
    return bad / design_effect, n / design_effect
