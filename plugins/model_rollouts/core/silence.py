"""An arm that has gone quiet: earlier looks can't speak for the present."""

import math
from collections.abc import Sequence

from model_rollouts.core.evidence import Look

_QUIET_LOOKS, _QUIET_SHARE = 3, 0.2


def silence(stage: int, looks: Sequence[Look]) -> str:
    """What is to be said when an arm has been silent for the newest of the stage's looks; "" when none has.

    A gap of a few looks, or of a fifth of the stage's, is ordinary at a small share. A longer one means that the log,
    the gateway or the challenger is gone.
    """
    own = sum(look.stage == stage for look in looks)
    allowed = max(_QUIET_LOOKS, math.ceil(_QUIET_SHARE * own))
    for arm in ("champion", "challenger"):
        quiet = 0
        for look in reversed(looks):
            if look.stage != stage or getattr(look, arm).requests:
                break
            quiet += 1
        if quiet > allowed:
            return f"{arm} has no requests in the last {quiet:,} looks, at most {allowed:,} may be empty"
    return ""
