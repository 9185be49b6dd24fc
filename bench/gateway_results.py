"""What bench/gateway.py measures."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.pace import Paced

CONNECTIONS = (1, 8, 32)


@dataclass(frozen=True)
class Window:
    """One run of wrk: requests a second, and milliseconds."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Results:
    """All runs.

    Attributes:
        windows: By server and connections, one a round.
        memory: MiB of each server after load; the gateway's with two versions loaded.
        paced: Runs of the gateway at half its highest rate: "without" and "mirrored".
    """

    windows: Mapping[str, Mapping[int, Sequence[Window]]]
    memory: Mapping[str, float]
    paced: Mapping[str, Sequence[Paced]]

    def median(self, name: str, connections: int) -> Window:
        """The middle of the rounds, measure by measure."""
        runs = self.windows[name][connections]
        return Window(*(statistics.median(getattr(w, field) for w in runs) for field in ("rate", "p50", "p99")))
