"""Normalising sums of Fisher's noncentral hypergeometric law, for many tables at once.

The law of the challenger's bad count k, given both arms' sizes b and a and the total x of bad outcomes, has
weights C(b, k) C(a, x - k) w^k over k from max(0, x - a) to min(b, x), where w is the odds ratio.

Small supports are summed whole. Large ones are summed over a window and with a stride, at an error far below
that of the floating point. Why that is allowed: the law's generating function has only real roots, so that the
count is a sum of independent Bernoulli variables, of some variance s^2 (Vatutin and Mikhailov, 1982, for w = 1;
another w scales the roots). Hence

- Bernstein's bound holds: the mass further than t from the mean is at most 2 exp(-t^2 / (2 s^2 + 2 t / 3)),
  below 1e-17 for t = 30 + 10 s. The mode is within 1 of the mean (Darroch, 1964).
- The characteristic function is at most exp(-s^2 (1 - cos u)) in modulus, so summing every d-th weight, d times,
  differs from the whole sum by a factor of at most 1 +- 2.1 exp(-8 (s / d)^2) (discrete Poisson summation, and
  1 - cos u >= 2 u^2 / pi^2). At d <= s / 4 that is below 1e-55, and still below 1e-16 should s be only half of
  what its estimate by the curvature at the mode says.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_WHOLE = 512  # supports up to this size are summed whole
_BLOCK = 1024  # tables at a time: bounds the memory at some 30 MB, however many there are


def log_normalisers(challenger_n: Ints, champion_n: Ints, total_bad: Ints, log_odds: Floats) -> Floats:
    """Log of the normalising sum of each table for each odds ratio, up to a constant of the table.

    Args:
        challenger_n: Size of the challenger's arm, shape (tables,), at least 0.
        champion_n: Size of the champion's arm, shape (tables,), at least 0.
        total_bad: Bad outcomes of both arms, shape (tables,), at most the sum of the sizes.
        log_odds: Logs of the odds ratios, shape (odds,).

    Returns:
        Shape (tables, odds). Only differences along a row mean anything.
    """
    result = np.empty((len(total_bad), len(log_odds)))
    support = np.minimum(challenger_n, total_bad) - np.maximum(0, total_bad - champion_n) + 1
    for chosen, summed in ((support <= _WHOLE, _sum_whole), (support > _WHOLE, _sum_window)):
        rows = np.flatnonzero(chosen)
        for first in range(0, len(rows), _BLOCK):
            block = rows[first : first + _BLOCK]
            result[block] = summed(challenger_n[block], champion_n[block], total_bad[block], log_odds)
    return result


def _sum_whole(b: Ints, a: Ints, x: Ints, log_odds: Floats) -> Floats:
    low = np.maximum(0, x - a)
    length = np.minimum(b, x) - low + 1
    begin = _begin(length)
    k = np.arange(length.sum()) + np.repeat(low - begin, length)
    ways = _log_ways(np.repeat(b, length), np.repeat(a, length), np.repeat(x, length), k)
    return np.stack([_log_sum(ways + k * step, begin, length) for step in log_odds], axis=1)


def _sum_window(b: Ints, a: Ints, x: Ints, log_odds: Floats) -> Floats:
    return np.stack([_sum_window_at(b, a, x, float(step)) for step in log_odds], axis=1)


def _sum_window_at(b: Ints, a: Ints, x: Ints, log_w: float) -> Floats:
    low, high = np.maximum(0, x - a), np.minimum(b, x)
    mode = np.clip(_mode(b, a, x, np.exp(log_w)), low, high)
    cells = np.stack([mode, b - mode, x - mode, a - x + mode]) + 0.5
    spread = 1 / np.sqrt((1 / cells).sum(axis=0))
    stride = np.maximum(1, spread / 4).astype(np.int64)
    reach = np.ceil((30 + 10 * spread) / stride).astype(np.int64)
    left, right = np.minimum(reach, (mode - low) // stride), np.minimum(reach, (high - mode) // stride)
    length = left + right + 1
    begin = _begin(length)
    step = np.arange(length.sum()) - np.repeat(begin + left, length)
    k = np.repeat(mode, length) + step * np.repeat(stride, length)
    ways = _log_ways(np.repeat(b, length), np.repeat(a, length), np.repeat(x, length), k)
    result: Floats = np.log(stride) + _log_sum(ways + k * log_w, begin, length)
    return result


def _mode(b: Ints, a: Ints, x: Ints, w: float) -> Ints:
    """Where the ratio of neighbouring weights crosses 1; the root that is stable for w near 1."""
    square, linear = w - 1, w * (b + x + 2.0) + (a - x)
    constant = w * (b + 1.0) * (x + 1.0)
    root: Floats = 2 * constant / (linear + np.sqrt(np.maximum(linear**2 - 4 * square * constant, 0)))
    return root.astype(np.int64)


def _log_ways(b: Ints, a: Ints, x: Ints, k: Ints) -> Floats:
    """Log of C(b, k) C(a, x - k), without the factors that do not depend on k."""
    from scipy.special import gammaln  # takes longer to import than all of the core

    result: Floats = -(gammaln(k + 1.0) + gammaln(b - k + 1.0) + gammaln(x - k + 1.0) + gammaln(a - x + k + 1.0))
    return result


def _begin(length: Ints) -> Ints:
    begin: Ints = np.cumsum(length) - length
    return begin


def _log_sum(values: Floats, begin: Ints, length: Ints) -> Floats:
    """Log of the sum of exponentials of each run of values."""
    top = np.maximum.reduceat(values, begin)
    result: Floats = top + np.log(np.add.reduceat(np.exp(values - np.repeat(top, length)), begin))
    return result
