"""From looks to strata: which requests a gate counts, and which of them went wrong."""

import math
from collections.abc import Iterable, Iterator, Mapping

from model_rollouts.core.evidence import Look, latency_bin, latency_edge_ms
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.odds_ratio import Stratum

_NOTHING = Stratum(0, 0, 0, 0)


def strata_of(gate: Gate, looks: Iterable[Look]) -> list[Stratum]:
    """One stratum a look, in order; an empty one where the look has nothing to say about the metric."""
    if gate.metric is Metric.ERROR_RATE:
        return [
            Stratum(k.challenger.errors, k.challenger.requests, k.champion.errors, k.champion.requests) for k in looks
        ]
    if gate.metric is Metric.WRONG_RATE:
        return [_label_stratum(k) for k in looks]
    return list(_latency_strata(gate, looks))


def _label_stratum(look: Look) -> Stratum:
    if look.champion_labels is None or look.challenger_labels is None:
        return _NOTHING
    b, a = look.challenger_labels, look.champion_labels
    return Stratum(b.wrong, b.labelled, a.wrong, a.labelled)


def _latency_strata(gate: Gate, looks: Iterable[Look]) -> Iterator[Stratum]:
    """Exceedances of a threshold that was fixed before the look began.

    The threshold of a look is the champion's quantile over earlier looks, and for the challenger the same with
    the margin on top, both rounded up to the edge of a bin; with no margin they are the same edge. Being fixed in
    advance, it makes the exceedances 0/1 outcomes like any other (Howard and Ramdas, Sequential estimation of
    quantiles, 2022, for the idea of counting across a quantile). Looks before the quantile can be told say
    nothing.
    """
    quantile = gate.metric.quantile
    if quantile is None:
        raise ValueError(f"{gate.metric} is not a latency metric")
    needed = math.ceil(10 / (1 - quantile))
    seen: dict[int, int] = {}
    total = 0
    for look in looks:
        if total >= needed:
            edge = _quantile_bin(seen, total, quantile) + 1
            slow = latency_edge_ms(edge) * (1 + gate.latency_margin) + gate.latency_slack_ms
            b, a = look.challenger.latency, look.champion.latency
            yield Stratum(
                _at_or_above(b, _first_bin_from(slow)), sum(b.values()), _at_or_above(a, edge), sum(a.values())
            )
        else:
            yield _NOTHING
        for index, count in look.champion.latency.items():
            seen[index] = seen.get(index, 0) + count
            total += count


def _quantile_bin(histogram: Mapping[int, int], total: int, quantile: float) -> int:
    running = 0
    for index in sorted(histogram):
        running += histogram[index]
        if running >= quantile * total:
            return index
    raise ValueError(f"histogram holds {running}, less than the stated total of {total}")


def _first_bin_from(latency_ms: float) -> int:
    """The first bin of which every latency is at least the given one, up to the rounding of the logarithm."""
    index = latency_bin(latency_ms)
    return index if latency_ms <= latency_edge_ms(index) * (1 + 1e-9) else index + 1


def _at_or_above(histogram: Mapping[int, int], edge: int) -> int:
    return sum(count for index, count in histogram.items() if index >= edge)
