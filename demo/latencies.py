"""Latency quantiles in constant memory, however long the client runs."""

import math

_GROWTH = math.log(1.02)  # a bin is 2 % wide, so a quantile is told within 2 %
_FLOOR_MS = 0.01
_QUANTILES = (0.5, 0.95, 0.99)


class Latencies:
    """Counts by logarithmic bin."""

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._total = 0
        self._longest = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one latency."""
        index = max(0, math.floor(math.log(max(milliseconds, _FLOOR_MS) / _FLOOR_MS) / _GROWTH))
        self._bins[index] = self._bins.get(index, 0) + 1
        self._total += 1
        self._longest = max(self._longest, milliseconds)

    def quantiles(self) -> dict[str, float]:
        """p50, p95, p99 (upper edge of the bin) and max, in milliseconds; empty while nothing was counted."""
        if self._total == 0:
            return {}
        found = {f"p{quantile * 100:g}": self._quantile(quantile) for quantile in _QUANTILES}
        return {**found, "max": round(self._longest, 2)}

    def _quantile(self, quantile: float) -> float:
        running = 0
        for index in sorted(self._bins):
            running += self._bins[index]
            if running >= quantile * self._total:
                return round(_FLOOR_MS * math.exp((index + 1) * _GROWTH), 2)
        raise AssertionError("a quantile is at most 1")
