"""Sticky, salted, monotone assignment of units to arms."""

from hashlib import blake2b


def position(salt: str, unit: str) -> float:
    """Where a unit stands on the rollout's line, in percent: [0, 100).

    The position depends on the salt and the unit alone, so a unit keeps its arm at an unchanged share and
    only ever moves towards the challenger as the share grows. A new salt (a new rollout) deals anew, so no
    user is always first in line.

    Args:
        salt: The rollout's salt, any text.
        unit: The unit's id (a user, an account), any text, lone surrogates included; taken as UTF-8.
    """
    key = blake2b(_bytes(salt), digest_size=32).digest()
    return _percent(blake2b(_bytes(unit), digest_size=8, key=key).digest())


def in_share(salt: str, unit: str, share: float) -> bool:
    """Whether the unit is among the given share, in percent. in_share(5) implies in_share(25)."""
    return position(salt, unit) < share


def _bytes(text: str) -> bytes:
    # A caller's id may hold half a surrogate pair, as JSON allows; it gets an arm like any other.
    return text.encode("utf-8", "surrogatepass")


def _percent(digest: bytes) -> float:
    # 53 bits are what a float holds: with 64, the highest digests would round up to 100 and be left out of a
    # share of 100.
    return (int.from_bytes(digest, "big") >> 11) / 2**53 * 100
