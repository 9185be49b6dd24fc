"""How much memory the process holds, and whether there is room for another version."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

MB = 2**20

_STATUS = Path("/proc/self/status")
_MARGIN = 0.1  # of the limit: what was refused or unloaded is tried again only once that much is free beyond its needs


def resident_bytes() -> int:
    """Bytes of memory that the process holds (its resident set).

    Raises:
        OSError: The kernel does not say; there is no such file but on Linux.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no VmRSS")


class MemoryLimit:
    """A bound on the resident memory.

    Args:
        most: Bytes.
        expected: Model and version -> bytes that loading it takes: 0 when it is served elsewhere, None: nobody knows.
        resident: Bytes held.
    """

    def __init__(
        self, most: int, expected: Callable[[str, str], int | None], resident: Callable[[], int] = resident_bytes
    ) -> None:
        resident()  # a limit that can't be watched must not look like one
        self.most = most
        self.expected = expected
        self.resident = resident

    def refusal(self, needs: int) -> str | None:
        """Why there is no room; None: there is.

        Args:
            needs: Bytes that loading takes, as far as known.
        """
        held = self.resident()
        if held > self.most:
            return f"memory: the process holds {_mb(held)}, must be at most {_mb(self.most)}; {_WHAT}"
        if held + needs > self.most:
            return (
                f"memory: the process holds {_mb(held)} and the version takes about {_mb(needs)}, "
                f"must be at most {_mb(self.most)} together; {_WHAT}"
            )
        return None

    def excess(self) -> str | None:
        """Why something has to go; None: nothing has."""
        held = self.resident()
        if held <= self.most:
            return None
        return f"memory: with it the process held {_mb(held)}, must be at most {_mb(self.most)}; {_WHAT}"

    def has_room_again(self, needs: int) -> bool:
        """Whether so many bytes fit with a margin, so that a version does not come and go."""
        return self.resident() + needs <= (1 - _MARGIN) * self.most


_WHAT = "raise MODEL_ROLLOUTS_MAX_MEMORY_MB, or give the version a server of its own (MODEL_ROLLOUTS_UPSTREAMS)"


def make_room(problem: Callable[[], str | None]) -> str | None:
    """Give back as much as it takes, the cheap way first; what the problem is after all, if there is one.

    Args:
        problem: Tells it, or None.
    """
    for way in (give_back, give_back_everything):
        way()
        left = problem()
        if left is None:
            break
    return left


def give_back() -> None:
    """Give what nobody refers to any more back to the system, of what came after the last `give_back_everything`."""
    gc.collect()
    trim()


def give_back_everything() -> None:
    """The same with what was there at the start, which may take some tenths of a second; all wait for it."""
    gc.unfreeze()  # the version may be among what was taken out of the collector's sight (`parts.py`)
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Give what is free already back to the system, which the C library keeps for what may come."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries do so by themselves
    if malloc_trim is not None:
        malloc_trim(0)


def _mb(size: int) -> str:
    return f"{size / MB:.0f} MB"
