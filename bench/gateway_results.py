"""What bench/gateway.py measures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.pace import Paced

CONNECTIONS = (1, 8, 32)
GATEWAY, TWO, BATCH, PARSE, PEER, MLFLOW = "gateway", "two", "batch", "parse", "peer", "mlflow"
NAMES = (GATEWAY, BATCH, TWO, PARSE, PEER, MLFLOW)
ALONE, MIRRORED = "alone", "mirrored"


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
        memory: MiB of each server after load, one a round; the gateway's with two versions loaded.
        paced: Runs of the gateway at half its highest rate, one a round: ALONE and MIRRORED.
    """

    windows: Mapping[str, Mapping[int, Sequence[Window]]]
    memory: Mapping[str, Sequence[float]]
    paced: Mapping[str, Sequence[Paced]]

    def median(self, name: str, connections: int) -> Window:
        """The middle of the rounds, measure by measure."""
        runs = self.windows[name][connections]
        return Window(*(statistics.median(getattr(w, field) for w in runs) for field in ("rate", "p50", "p99")))

    def mib(self, name: str) -> float:
        """Memory, the middle of the rounds."""
        return statistics.median(self.memory[name])

    def paced_p99(self, what: str) -> float:
        """Milliseconds, the middle of the rounds."""
        return statistics.median(quantile(run.ms, 0.99) for run in self.paced[what])

    def ratio(self, one: str, other: str, connections: int, field: str = "rate") -> float:
        """The middle of the rounds' ratios: both of one round are close in time."""
        pairs = zip(self.windows[one][connections], self.windows[other][connections], strict=True)
        return statistics.median(getattr(a, field) / getattr(b, field) for a, b in pairs)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share q of the values does not exceed; infinite when there is none."""
    return sorted(values)[math.ceil(q * len(values)) - 1] if values else math.inf
