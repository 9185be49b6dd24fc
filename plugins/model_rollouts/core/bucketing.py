"""Sticky, salted, monotone assignment of units to arms."""

from hashlib import blake2b

_BUCKETS = 2**64


def position(salt: str, unit: str) -> float:
    """Where a unit stands on the rollout's line, in percent: [0, 100).

    The position depends on the salt and the unit alone, so a unit keeps its arm at an unchanged share and
    only ever moves towards the challenger as the share grows. A new salt (a new rollout) deals anew, so no
    user is always first in line.

    Args:
        salt: The rollout's salt, any text.
        unit: The unit's id (a user, an account), any text; taken as UTF-8.
    """
    digest = blake2b(unit.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest()).digest()
    return int.from_bytes(digest, "big") / _BUCKETS * 100


def in_share(salt: str, unit: str, share: float) -> bool:
    """Whether the unit is among the given share, in percent. in_share(5) implies in_share(25)."""
    return position(salt, unit) < share
