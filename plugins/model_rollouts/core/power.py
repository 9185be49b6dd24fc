"""How many requests a gate needs before it can tell, and how long they take.

The stopping rules are sequential, so there is no fixed number; what is given is the number at which a verdict is there
with the wanted probability. Summed over many looks, what an alternative says is normal; its mean and variance for one
challenger request follow from the saddle point of Fisher's noncentral hypergeometric law, which is exact in large
samples whatever the distance between the odds ratios. The alternatives all answer to the same count, so an unlucky
rollout is unlucky for each of them, and the log e-value of one at a given quantile is the log of the mean over the grid
at that quantile. Where it crosses the threshold is found by bisection. tests/core/test_power.py holds the numbers
against simulated rollouts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.odds_ratio import better_than, worse_than
from model_rollouts.core.proportion import log_e_rate_below

POWER = 0.8
# How many standard deviations below its mean a path is taken to be: one that is above the threshold now with
# probability 0.73 has been above it in some look by now with probability 0.8 (first passage of a Brownian motion whose
# variance is twice its drift, as a likelihood ratio's is, for levels of 0.1 to 0.001, seen some 40 times on its way).
_Z = 0.6
_MOST = 1e12  # no rollout sees more requests than that
_RARE = 1e-4  # a rate that nobody has seen yet is taken for this
_TWICE = 2.0  # the odds ratio of a challenger that is twice as bad
_GOOD_AGREEMENT = 0.25  # a good challenger is taken to disagree a quarter as often as it may


@dataclass(frozen=True, slots=True)
class Need:
    """What one gate needs.

    Attributes:
        metric: The gate's metric.
        to_pass: Challenger requests (pairs; new units) until a challenger as good as the champion passes, with
            probability 0.8; the minimum where nothing has to be proven, None where no number of them is enough.
        to_fail: The same until one with twice the odds of a bad outcome is seen to be harmful; None where that is no
            harm by the margin, or too close to it for the test to tell.
    """

    metric: Metric
    to_pass: float | None
    to_fail: float | None


def need(gate: Gate, rate: float, share: float, alpha: float, beta: float, design_effect: float = 1.0) -> Need:
    """What a gate on a rate, or on agreement, needs.

    Args:
        gate: The gate; for other metrics nothing is known beforehand, and `to_pass` and `to_fail` are None or 0.
        rate: The champion's rate of bad outcomes, 0 to 1. Latency gates know theirs; agreement needs none.
        share: The challenger's share of the judged requests, in (0, 1).
        alpha: The gate's error budget against harm.
        beta: Its error budget against passing what is worse.
        design_effect: What repeat requests stretch the variance by.

    Raises:
        ValueError: A value is out of its bounds.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}, must be between 0 and 1")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, must be between 0 and 1, both excluded")
    least = float(gate.min_requests) if gate.role.holds_up else 0.0
    if gate.metric is Metric.AGREEMENT:
        ceiling = 1 - gate.floor
        agreed = _crossing(_rate_path(_GOOD_AGREEMENT * ceiling, ceiling), beta)
        return Need(gate.metric, _stretched(agreed, 1.0, least), None)
    if not gate.metric.is_rate:
        return Need(gate.metric, None if gate.role.must_prove else least, None)
    bad = 1 - gate.metric.quantile if gate.metric.quantile is not None else max(rate, _RARE)
    bad = min(bad, 1 - _RARE)
    to_pass: float | None = least
    if gate.role.must_prove:
        by_ratio = _odds_ratio_path(gate.pass_odds, better_than(gate.pass_odds), 1.0, bad, share)
        proof = by_ratio
        if gate.negligible is not None:
            by_rate = _rate_path(bad, gate.negligible)

            def proof(n: float) -> float:
                return math.log(0.5) + _log_sum((by_ratio(n), by_rate(n)))

        to_pass = _stretched(_crossing(proof, beta), design_effect, least)
    harm = _odds_ratio_path(gate.rollback_odds, worse_than(gate.rollback_odds), _TWICE, bad, share)
    return Need(gate.metric, to_pass, _stretched(_crossing(harm, alpha), design_effect, 0.0))


def _stretched(n: float | None, design_effect: float, least: float) -> float | None:
    return None if n is None else max(n * design_effect, least)


def _crossing(log_e: Callable[[float], float], level: float) -> float | None:
    """The number of requests at which a path's log e-value reaches the threshold; None where it never does."""
    threshold = -math.log(level)
    low, high = 0.0, 1.0
    while log_e(high) < threshold:
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if log_e(middle) < threshold else (low, middle)
    return high


def _odds_ratio_path(
    null: float, alternatives: Sequence[float], truth: float, rate: float, share: float
) -> Callable[[float], float]:
    """Log e-value of the odds-ratio test after n challenger requests, on the unlucky side.

    Args:
        null: The odds ratio at the edge of the null.
        alternatives: The test's grid.
        truth: The true odds ratio.
        rate: The champion's rate of bad outcomes.
        share: The challenger's share of the requests.
    """
    each = (1 - share) / share  # champion requests for one of the challenger
    odds = truth * rate / (1 - rate)
    bad = odds / (1 + odds)
    total = bad + each * rate
    at_null, log_norm_null = _saddle_point(null, each, total)
    moments = []
    for w in alternatives:
        at_w, log_norm = _saddle_point(w, each, total)
        distance, shift = math.log(w / null), at_w - at_null
        mean = bad * distance - (log_norm - log_norm_null)
        # By the counts of both arms: a bad outcome of the champion's moves the total, and with it what is expected.
        variance = bad * (1 - bad) * (distance + shift) ** 2 + each * rate * (1 - rate) * shift**2
        moments.append((mean, math.sqrt(variance)))

    def path(n: float) -> float:
        return _log_sum([n * mean - _Z * math.sqrt(n) * spread for mean, spread in moments]) - math.log(len(moments))

    return path


def _saddle_point(w: float, each: float, total: float) -> tuple[float, float]:
    """Log odds of the champion's rate that an odds ratio and the total imply, and the log of the law's normaliser.

    The normaliser is the coefficient of z^total in (1 + w z) (1 + z)^each; both for one challenger request.
    """
    square, linear = w * (1 + each - total), w + each - total * (1 + w)
    odds = 2 * total / (linear + math.sqrt(linear**2 + 4 * square * total))
    return math.log(odds), math.log1p(w * odds) + each * math.log1p(odds) - total * math.log(odds)


def _rate_path(rate: float, ceiling: float) -> Callable[[float], float]:
    """Log e-value of the test that a rate is below a ceiling, after n requests, on the unlucky side."""

    def path(n: float) -> float:
        return log_e_rate_below(min(n, n * rate + _Z * math.sqrt(n * rate * (1 - rate))), n, ceiling)

    return path


def _log_sum(values: Sequence[float]) -> float:
    high = max(values)
    return high + math.log(math.fsum(math.exp(value - high) for value in values))
