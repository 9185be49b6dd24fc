"""Time-uniform test that a rate is below a ceiling, for one arm alone.

A mixture of Bernoulli likelihood ratios over all rates below the ceiling, with a uniform prior; its integral has
a closed form in the incomplete beta function. It answers what the odds ratio cannot: when nothing goes wrong in
either arm there is no ratio to speak of, and yet a long run without errors is proof of a low rate.

Source: Howard and Ramdas, Sequential estimation of quantiles (2022), for the mixture; Vovk and Wang (2021).
"""

import math

# Below this the incomplete beta function is about to underflow; the observed rate is then far above the ceiling.
_SMALL = 1e-250


def log_e_rate_below(bad: int, n: int, ceiling: float) -> float:
    """Log e-value against "the rate is at least `ceiling`", after `bad` of `n`.

    Args:
        bad: Count of bad outcomes so far, 0 <= bad <= n.
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
