"""Time-uniform test and interval for a mean difference, robust to repeat requests, sharpened by what was known before.

A business value has no law that could be written down, so the test is asymptotic: the sum of scores, one score a unit,
against a Gaussian mixture boundary (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory
and asymptotic confidence sequences, 2024; Robbins' one-sided normal mixture). It is valid once both arms have enough
units, which the gate asks for.

A request's score is (y - mean of its look) * (1 if challenger else 0 - challenger's share of the look): stratified by
look, so that a ramping share and a daily wave do not bias it. Scores are added up within units before they are squared:
requests of one unit may resemble each other in any way. CUPED (Deng, Xu, Kohavi and Walker, Improving the sensitivity
of online controlled experiments by utilizing pre-experiment data, 2013) replaces y by y - theta * x, where x is what
the unit was worth before the rollout; theta is the regression of unit scores of y on those of x.
"""

import math
from dataclasses import dataclass

_TAIL = -30.0  # further out the distribution function underflows, and the first terms of its series give 8 digits


@dataclass(frozen=True, slots=True)
class Scores:
    """Sums over looks and units.

    Attributes:
        y: Sum of the scores of the values.
        x: Sum of the scores of what was known before.
        yy: Sum over units of the squared score of y.
        xy: Sum over units of the product of both.
        xx: Sum over units of the squared score of x.
        information: Sum over looks of n_challenger * n_champion / n.
    """

    y: float = 0.0
    x: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    xx: float = 0.0
    information: float = 0.0

    @property
    def theta(self) -> float:
        """CUPED's coefficient; 0 where nothing was known before, or the adjustment would be out of all measure."""
        return self.xy / self.xx if self.xx > 0 and math.isfinite(self.xy / self.xx) else 0.0

    @property
    def adjusted(self) -> float:
        """Sum of the scores of y - theta * x."""
        return self.y - self.theta * self.x

    @property
    def variance(self) -> float:
        """Its estimated variance, robust to any dependence within units."""
        return max(0.0, self.yy - self.theta * self.xy)

    @property
    def variance_explained(self) -> float:
        """Share of the variance that CUPED takes away, 0 to 1."""
        return 1 - self.variance / self.yy if self.yy > 0 else 0.0

    @property
    def difference(self) -> float | None:
        """Challenger's mean value a request less the champion's; None where nothing could be compared."""
        return self.adjusted / self.information if self.information > 0 else None


def tuned_rho2(variance: float, alpha: float) -> float:
    """Mixture width that makes the boundary tightest when the accumulated variance is `variance`.

    Args:
        variance: Variance of the sum at which most is wanted, above 0.
        alpha: Level of the one-sided test, in (0, 0.5).
    """
    a = 2 * alpha  # one side of a two-sided boundary
    return (-2 * math.log(a) + math.log(-2 * math.log(a) + 1)) / variance


def log_e_positive(total: float, variance: float, rho2: float) -> float:
    """Log e-value against "the mean of the scores is at most 0": Robbins' one-sided normal mixture.

    Args:
        total: Sum of the scores, less its value at the edge of the null.
        variance: Its estimated variance; 0 says nothing.
        rho2: Mixture width, above 0; fixed before the looks it is used on.
    """
    if not variance > 0:
        return 0.0
    spread = variance * rho2 + 1
    z = total * math.sqrt(rho2 / spread)
    return math.log(2) - math.log(spread) / 2 + _log_mills(z)


def bound_of_total(variance: float, rho2: float, log_threshold: float) -> float:
    """How far above its expectation the sum has to be for an e-value of exp(log_threshold), by bisection."""
    if not variance > 0:
        return math.inf
    low, high = -math.sqrt(variance), math.sqrt(variance)
    while log_e_positive(high, variance, rho2) < log_threshold:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if log_e_positive(middle, variance, rho2) < log_threshold:
            low = middle
        else:
            high = middle
    return high


def _log_mills(z: float) -> float:
    """Log of exp(z^2 / 2) times the normal distribution function of z: in the tail their digits would cancel."""
    if z > _TAIL:
        return z * z / 2 + math.log(math.erfc(-z / math.sqrt(2)) / 2)
    inverse = 1 / (z * z)
    return math.log1p(-inverse + 3 * inverse * inverse) - math.log(-z) - math.log(2 * math.pi) / 2
