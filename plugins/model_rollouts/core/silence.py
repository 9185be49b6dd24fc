"""An arm that has gone quiet: earlier looks can't speak for the present."""

import math
from collections.abc import Sequence

from model_rollouts.core.evidence import Look

_QUIET_LOOKS = 3
_UNLIKELY = 1e-3


def silence(stage: int, looks: Sequence[Look]) -> str:
    """What is to be said when an arm is silent; "" when none is.

    A few empty looks are ordinary, more at a share that brings few requests: so many are allowed that an arm with the
    rate of its other looks in the stage would be silent for longer with a probability below 0.001. A longer silence
    means that the log, the gateway or the challenger is gone.
    """
    own = [look for look in looks if look.stage == stage]
    for arm in ("champion", "challenger"):
        requests = [getattr(look, arm).requests for look in own]
        total = sum(requests)
        if not total:
            return f"{arm} has no requests in this stage"
        quiet = next(i for i, n in enumerate(reversed(requests)) if n)
        allowed = max(_QUIET_LOOKS, math.ceil(-math.log(_UNLIKELY) * (len(own) - quiet) / total))
        if quiet > allowed:
            return f"{arm} has no requests in the last {quiet:,} looks, at most {allowed:,} may be empty"
    return ""
