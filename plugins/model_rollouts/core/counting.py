"""From looks to strata: which requests a gate counts, and which of them went wrong."""

import math
from collections.abc import Callable, Iterable, Mapping

from model_rollouts.core.evidence import Look, latency_bin, latency_edge_ms
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.odds_ratio import Stratum

_NOTHING = Stratum(0, 0, 0, 0)


def counter_of(gate: Gate) -> Callable[[Look], Stratum]:
    """Makes one stratum of each look, an empty one where it has nothing to say; to be given the looks in order."""
    if gate.metric is Metric.ERROR_RATE:
        return _error_stratum
    if gate.metric is Metric.WRONG_RATE:
        return _label_stratum
    return LatencyCounter(gate)


def strata_of(gate: Gate, looks: Iterable[Look]) -> list[Stratum]:
    """One stratum a look, in order."""
    count = counter_of(gate)
    return [count(look) for look in looks]


def _error_stratum(look: Look) -> Stratum:
    b, a = look.challenger, look.champion
    return Stratum(b.errors, b.requests, a.errors, a.requests)


def _label_stratum(look: Look) -> Stratum:
    if look.champion_labels is None or look.challenger_labels is None:
        return _NOTHING
    b, a = look.challenger_labels, look.champion_labels
    return Stratum(b.wrong, b.labelled, a.wrong, a.labelled)


class LatencyCounter:
    """Exceedances of a threshold that was fixed before the look began.

    The threshold of a look is the champion's quantile over earlier looks, and for the challenger the same with
    the margin on top, both rounded up to the edge of a bin; with no margin they are the same edge. Being fixed in
    advance, it makes the exceedances 0/1 outcomes like any other (Howard and Ramdas, Sequential estimation of
    quantiles, 2022, for the idea of counting across a quantile). Looks before the quantile can be told say
    nothing.

    Args:
        gate: Names the quantile and the margins.
    """

    def __init__(self, gate: Gate) -> None:
        if gate.metric.quantile is None:
            raise ValueError(f"{gate.metric} is not a latency metric")
        self._quantile = gate.metric.quantile
        self._margin, self._slack_ms = gate.latency_margin, gate.latency_slack_ms
        self._needed = math.ceil(10 / (1 - self._quantile))
        self._seen: dict[int, int] = {}
        self._total = 0

    def __call__(self, look: Look) -> Stratum:
        """The look's stratum."""
        b, a = look.challenger.latency, look.champion.latency
        stratum = _NOTHING
        if self._total >= self._needed:
            edge = self._quantile_bin() + 1
            slow = latency_edge_ms(edge) * (1 + self._margin) + self._slack_ms
            stratum = Stratum(
                _at_or_above(b, _first_bin_from(slow)), sum(b.values()), _at_or_above(a, edge), sum(a.values())
            )
        for index, count in a.items():
            self._seen[index] = self._seen.get(index, 0) + count
            self._total += count
        return stratum

    def _quantile_bin(self) -> int:
        running = 0
        for index in sorted(self._seen):
            running += self._seen[index]
            if running >= self._quantile * self._total:
                return index
        raise ValueError(f"histogram holds {running}, less than the stated total of {self._total}")


def _first_bin_from(latency_ms: float) -> int:
    """The first bin of which every latency is at least the given one, up to the rounding of the logarithm."""
    index = latency_bin(latency_ms)
    return index if latency_ms <= latency_edge_ms(index) * (1 + 1e-9) else index + 1


def _at_or_above(histogram: Mapping[int, int], edge: int) -> int:
    return sum(count for index, count in histogram.items() if index >= edge)
