"""Time-uniform test that a rate is below a ceiling, for one arm alone.

A mixture of Bernoulli likelihood ratios over all rates below the ceiling, with a uniform prior; its integral has
a closed form in the incomplete beta function. It answers what the odds ratio cannot: when nothing goes wrong in
either arm there is no ratio to speak of, and yet a long run without errors is proof of a low rate.

Source: Howard and Ramdas, Sequential estimation of quantiles (2022), for the mixture; Vovk and Wang (2021).
"""

import math

from scipy.special import betainc, betaln


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
    a, b = 1.0 + bad, 1.0 + n - bad
    mass = float(betainc(a, b, ceiling))
    if mass <= 0.0:  # underflow: practically every mixture weight is above the ceiling
        return -math.inf
    return (
        math.log(mass)
        + float(betaln(a, b))
        - math.log(ceiling)
        - bad * math.log(ceiling)
        - (n - bad) * math.log1p(-ceiling)
    )
