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
            not clearly above 0.
    """

    correlation: float | None
    requests_per_unit: float
    design_effect: float


def clustering_of(champion: ClusterTotals, challenger: ClusterTotals) -> Clustering:
    """Correlation and design effect from the sums of all looks so far.

    Args:
        champion: The champion's sums.
        challenger: The challenger's.
    """
    judged, scale = champion.judged + challenger.judged, champion.scale + challenger.scale
    size = (champion.squares + challenger.squares) / judged if judged else 1.0
    if not scale > 0:
        return Clustering(None, size, 1.0)
    correlation = (champion.products + challenger.products) / scale
    error = math.sqrt(2 * (champion.noise + challenger.noise)) / scale
    if not correlation > _CLEARLY * error:
        return Clustering(correlation, size, 1.0)
    cautious = min(correlation + _CAUTION * error, 1.0)
    # The challenger's count less what the totals let expect of it mixes both arms: the smaller one weighs most.
    share = challenger.judged / judged
    effect = 1 + cautious * ((1 - share) * (challenger.unit_size - 1) + share * (champion.unit_size - 1))
    return Clustering(correlation, size, max(1.0, effect))
