"""Are the units dealt as the share says? A time-uniform test of the assignment (sample ratio mismatch).

When more or fewer new units reach an arm than its share, something between the user and the log drops or diverts
them, and no comparison of the arms can be trusted. The test is the Dirichlet-multinomial mixture of Lindon and Malek,
Anytime-valid inference for multinomial count data (2022): the ratio of the counts' probability, averaged over shares
around the planned one, to their probability under it. The product over periods of one share each is an e-process.
"""

import math
from collections.abc import Sequence

# Mixture over how close to the plan the wrong shares are thought to be; small concentrations see large mismatches
# soonest, large ones small mismatches.
CONCENTRATIONS = (50.0, 500.0, 5000.0)


def log_e_mismatch(challenger_units: int, champion_units: int, share: float, concentration: float) -> float:
    """Log e-value against "each new unit goes to the challenger with probability `share`", for one period.

    Args:
        challenger_units: New units of the challenger's cohort.
        champion_units: New units of the champion's.
        share: Planned probability, in (0, 1).
        concentration: Prior strength, in units.

    Raises:
        ValueError: A value is out of its bounds.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, must be between 0 and 1, both excluded")
    if challenger_units < 0 or champion_units < 0:
        raise ValueError(f"units are {challenger_units} and {champion_units}, must be at least 0")
    b, a = concentration * share, concentration * (1 - share)
    return (
        _log_beta(b + challenger_units, a + champion_units)
        - _log_beta(b, a)
        - challenger_units * math.log(share)
        - champion_units * math.log1p(-share)
    )


def log_e_mismatch_over(periods: Sequence[tuple[int, int, float]]) -> float:
    """Log e-value over periods of one share each; their order does not matter.

    Args:
        periods: (challenger's new units, champion's new units, share in (0, 1)) of each period.
    """
    by_concentration = [
        math.fsum(log_e_mismatch(b, a, share, concentration) for b, a, share in periods)
        for concentration in CONCENTRATIONS
    ]
    high = max(by_concentration)
    return high + math.log(math.fsum(math.exp(value - high) for value in by_concentration) / len(by_concentration))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
