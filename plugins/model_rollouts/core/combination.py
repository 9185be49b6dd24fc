"""Several guardrails, one promise: the bound on rolling back a healthy challenger is of the rollout, not of a gate.

The weighted mean of e-processes is an e-process, whatever their dependence (Vovk and Wang, E-values: calibration,
combination and applications, 2021). It reaches 1/alpha whenever a single gate reaches 1/(weight * alpha), so it never
comes later than the union bound, and it sees several gates that are each a little suspicious.
"""

import math
from collections.abc import Sequence

from model_rollouts.core.errors import PlanError


def levels(alpha: float, wanted: Sequence[float | None]) -> tuple[float, ...]:
    """The share of alpha that each gate gets: what it asks for, and an equal part of the rest for those that do not.

    Args:
        alpha: Bound for all of them together.
        wanted: Each gate's own level, or None.

    Raises:
        PlanError: They ask for more than there is, or leave nothing for the others.
    """
    asked = math.fsum(level for level in wanted if level is not None)
    open_gates = sum(level is None for level in wanted)
    rest = alpha - asked
    if rest < -1e-12 * alpha or (open_gates and not rest > 1e-9 * alpha):
        raise PlanError(
            f"the gates' own alphas add up to {asked:g}, must be {'below' if open_gates else 'at most'} the plan's "
            f"alpha ({alpha:g}); lower them or raise it"
        )
    return tuple(rest / open_gates if level is None else level for level in wanted)


def log_e_family(log_e: Sequence[float], gate_levels: Sequence[float], alpha: float) -> float:
    """Log of the mean of the gates' e-values, weighted by their share of alpha; minus infinity without gates.

    Args:
        log_e: Log e-value of each gate.
        gate_levels: From `levels`.
        alpha: Bound for all of them together.
    """
    terms = [value + math.log(level / alpha) for value, level in zip(log_e, gate_levels, strict=True) if level > 0]
    high = max(terms, default=-math.inf)
    if math.isinf(high):
        return high
    return high + math.log(math.fsum(math.exp(term - high) for term in terms))
