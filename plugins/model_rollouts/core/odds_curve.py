"""Confidence bounds of the odds ratio at any time: the conditional test, turned round.

A bound is the sharpest null that the test rejects, so many nulls have to be tried. Every one of them needs the logs of
the looks' normalising sums at its own grid of odds ratios. Their sum over looks is a smooth function of the log odds
ratio, analytic wherever the odds ratio is not a negative number, so it is kept at Chebyshev nodes and interpolated
between them: with 64 nodes over odds ratios from 1/25 to 300 the error is below 1e-12 of the sum's size (Trefethen,
Approximation Theory and Approximation Practice, 2013, chapter 8), and a bound costs the same after any number of looks.
"""

import math

import numpy as np

from model_rollouts.core.hypergeometric import Floats, Ints, log_normalisers
from model_rollouts.core.odds_ratio import better_than, mixture, worse_than

_LOW, _HIGH = math.log(1 / 25), math.log(300)
_NODES = 64
_PRECISION = 0.005  # of the log odds ratio
_ANGLES = (2 * np.arange(_NODES) + 1) * math.pi / (2 * _NODES)
_AT = (_LOW + _HIGH) / 2 + (_HIGH - _LOW) / 2 * np.cos(_ANGLES)
_WEIGHTS = np.sin(_ANGLES) * (-1.0) ** np.arange(_NODES)  # barycentric, for Chebyshev nodes of the first kind

#: Widest nulls whose grids lie within the nodes.
LEAST_WORSE, MOST_WORSE = math.exp(_LOW), math.exp(_HIGH) / max(worse_than(1.0))
LEAST_BETTER, MOST_BETTER = math.exp(_LOW) / min(better_than(1.0)), math.exp(_HIGH)


class OddsCurve:
    """The looks' log likelihood as a function of the odds ratio, for each start of the mixture.

    Args:
        starts: How many starts the mixture has; start s takes the looks of stage s and later.
    """

    def __init__(self, starts: int) -> None:
        self._bad = np.zeros(starts)
        self._norms = np.zeros((starts, _NODES))

    def add(self, counts: Ints, stages: Ints) -> None:
        """Take further looks.

        Args:
            counts: Columns challenger_bad, challenger_n, champion_bad, champion_n, shape (looks, 4).
            stages: Stage of each look, shape (looks,), counted from 0.
        """
        bad, n, champion_bad, champion_n = counts.T
        total = bad + champion_bad
        telling = (n > 0) & (champion_n > 0) & (total > 0) & (total < n + champion_n)
        norms = log_normalisers(n[telling], champion_n[telling], total[telling], np.concatenate([_AT, [0.0]]))
        norms = norms[:, :-1] - norms[:, -1:]
        for start in range(len(self._bad)):
            chosen = stages[telling] >= start
            self._bad[start] += float(bad[telling][chosen].sum())
            self._norms[start] = np.add.accumulate(np.concatenate([self._norms[start][None], norms[chosen]]))[-1]

    def of_start(self, start: int) -> "OddsCurve":
        """The curve of one start alone, as it is now: of the newest stage's start, that of the stage's own looks."""
        alone = OddsCurve(1)
        alone._bad, alone._norms = self._bad[start : start + 1].copy(), self._norms[start : start + 1].copy()
        return alone

    def bound(self, log_threshold: float, design_effect: float, *, worse: bool) -> float | None:
        """The sharpest odds ratio that is proven, at any time.

        Args:
            log_threshold: Natural log of 1 / (1 - confidence).
            design_effect: What repeat requests stretch the variance by (`core/clustering.py`).
            worse: True for the largest ratio that the truth is proven to be above, False for the smallest that it is
                proven to be below.

        Returns:
            The ratio, within 0.5 % on the careful side, and no sharper than `MOST_WORSE` or `LEAST_BETTER`; None where
            none from `LEAST_WORSE` (up to `MOST_BETTER`) on is proven.
        """

        def proven_at(log_null: float) -> bool:
            return self.log_e(math.exp(log_null), design_effect, worse=worse) >= log_threshold

        proven, unproven = math.log(LEAST_WORSE), math.log(MOST_WORSE)
        if not worse:
            proven, unproven = math.log(MOST_BETTER), math.log(LEAST_BETTER)
        if not proven_at(proven):
            return None
        if proven_at(unproven):
            return math.exp(unproven)
        while abs(proven - unproven) > _PRECISION:
            middle = (proven + unproven) / 2
            if proven_at(middle):
                proven = middle
            else:
                unproven = middle
        return math.exp(proven)

    def log_e(self, null: float, design_effect: float, *, worse: bool) -> float:
        """Log e-value of the test against a null, as `odds_ratio.log_e_process` gives it look by look."""
        log_odds = np.log([*(worse_than(null) if worse else better_than(null)), null])
        norms = self._interpolated(log_odds)
        gains = self._bad[:, None] * (log_odds[:-1] - log_odds[-1]) - (norms[:, :-1] - norms[:, -1:])
        return mixture(gains, design_effect)

    def _interpolated(self, log_odds: Floats) -> Floats:
        distance = log_odds[:, None] - _AT
        exact = np.abs(distance) < 1e-14  # noqa: PLR2004 - at a node the formula divides by zero
        pull = _WEIGHTS / np.where(exact, 1.0, distance)
        pull = np.where(exact.any(axis=1, keepdims=True), exact.astype(float), pull)
        values: Floats = (self._norms @ pull.T) / pull.sum(axis=1)
        return values
