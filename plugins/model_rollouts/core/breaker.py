"""Tells a burst of failures from the failures that gates weigh in peace: the circuit breaker of a challenger.

A cumulative sum of log-likelihood ratios (Page, "Continuous Inspection Schemes", Biometrika 1954) between a version
that fails in a fifth of its calls, which is the gates' business, and one that fails in four fifths. Restarted at zero,
its mean time to a false alarm is at least `exp(threshold)` calls while the version fails in at most a fifth (Lorden,
"Procedures for Reacting to a Change in Distribution", Ann. Math. Statist. 1971), and astronomically longer for one
that fails in one of a hundred. As failure and success weigh the same, the sum is failures less successes.
"""

from math import ceil, log

_TOLERATED, _BROKEN = 0.2, 0.8
_STEP = log(_BROKEN / _TOLERATED)


def failures_to_trip(mean_calls_to_false_alarm: float = 1e6) -> int:
    """Failures in a row that trip a breaker with at least so many calls to a false alarm: 10 for a million."""
    return ceil(log(mean_calls_to_false_alarm) / _STEP)


class Breaker:
    """One version's breaker. Once it has tripped it stays so.

    Args:
        burst: Failures in a row that trip it; 0: it never trips.
    """

    __slots__ = ("_burst", "_sum", "calls", "failures", "tripped")

    def __init__(self, burst: int) -> None:
        if burst < 0:
            raise ValueError(f"burst is {burst}, must be 0 or more")
        self._burst = burst
        self._sum = 0
        self.calls = 0
        self.failures = 0
        self.tripped = False

    def saw(self, *, failed: bool) -> bool:
        """Take in one call; True when this is the one that trips it.

        Only calls count that the champion answered, or was not needed for: an input that breaks both says nothing.
        """
        self.calls += 1
        if not failed:
            if self._sum:
                self._sum -= 1
            return False
        self.failures += 1
        self._sum += 1
        if self.tripped or not self._burst or self._sum < self._burst:
            return False
        self.tripped = True
        return True
