"""Time-uniform test of one rate: agreement between two versions, or an error rate that is negligible.

A mixture of Bernoulli likelihood ratios over all rates on one side of the null, with a uniform prior; its integral has
a closed form in the incomplete beta function. Agreement of at least 98 % is proven when the rate of disagreement is
proven to be below 2 %. The test also answers what the odds ratio cannot: when nothing goes wrong in either arm there is
no ratio to speak of, and yet a long run without errors is proof of a low rate.

Source: Howard and Ramdas, Sequential estimation of quantiles (2022), for the mixture; Vovk and Wang (2021).
"""

import math

# Below this the incomplete beta function is about to underflow; the observed rate is then far beyond the null.
_SMALL = 1e-250


def log_e_rate_below(bad: float, n: float, ceiling: float) -> float:
    """Log e-value against "the rate is at least `ceiling`", after `bad` of `n`.

    Args:
        bad: Count of bad outcomes so far, 0 <= bad <= n. Planning asks about fractions of one, too.
        n: Count of outcomes so far.
        ceiling: The rate at the edge of the null, in (0, 1).

    Raises:
        ValueError: A value is out of its bounds.
    """
    if not 0 < ceiling < 1:
        raise ValueError(f"ceiling is {ceiling}, must be between 0 and 1, both excluded")
    if not 0 <= bad <= n:
        raise ValueError(f"bad is {bad} of {n}, must be between 0 and {n}")
    from scipy.special import betainc, betaln  # takes longer to import than all of the core

    a, b = 1.0 + bad, 1.0 + n - bad
    mass = float(betainc(a, b, ceiling))
    if mass < _SMALL:
        return math.log1p(-ceiling) - math.log(a) + math.log(_tail_series(a, b, ceiling))
    return (
        math.log(mass)
        + float(betaln(a, b))
        - math.log(ceiling)
        - bad * math.log(ceiling)
        - (n - bad) * math.log1p(-ceiling)
    )


def log_e_rate_above(bad: float, n: float, floor: float) -> float:
    """Log e-value against "the rate is at most `floor`", after `bad` of `n`: the good ones seen from the other side."""
    if not 0 < floor < 1:
        raise ValueError(f"floor is {floor}, must be between 0 and 1, both excluded")
    if not 0 <= bad <= n:
        raise ValueError(f"bad is {bad} of {n}, must be between 0 and {n}")
    return log_e_rate_below(n - bad, n, 1 - floor)


def highest_rate(bad: float, n: float, log_threshold: float) -> float:
    """The rate that is not exceeded: the smallest ceiling that is proven at the threshold, at any time; 1 if none is.

    Args:
        bad: Count of bad outcomes so far.
        n: Count of outcomes so far.
        log_threshold: Natural log of 1 / (1 - confidence).
    """
    low, high = bad / n if n else 0.0, 1.0 - 1e-12
    if not n or log_e_rate_below(bad, n, high) < log_threshold:
        return 1.0
    low = max(low, 1e-12)
    for _ in range(50):
        middle = (low + high) / 2
        if log_e_rate_below(bad, n, middle) < log_threshold:
            low = middle
        else:
            high = middle
    return high


def lowest_rate(bad: float, n: float, log_threshold: float) -> float:
    """The rate that is at least reached: the largest floor that is proven at the threshold, at any time; 0 if none."""
    return 1 - highest_rate(n - bad, n, log_threshold)


def _tail_series(a: float, b: float, x: float) -> float:
    """2F1(a + b, 1; a + 1; x), which is the incomplete beta function over x^a (1 - x)^b / (a B(a, b)).

    Each term is a smaller share of the one before than the last was, so that a geometric sum bounds the rest.
    """
    total = term = 1.0
    k = 0
    while True:
        ratio = (a + b + k) / (a + 1 + k) * x
        term *= ratio
        total += term
        k += 1
        if term * ratio <= (1 - ratio) * total * 1e-16:
            return total
