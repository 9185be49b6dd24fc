"""What the gateway counts for Prometheus: plain integers while requests run, named only when somebody asks.

The names and what they mean are in docs/metrics.md.
"""

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from model_rollouts.gateway.metrics_families import Counts, Families, Histogram, Sources

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_LATENCY_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_LATENCY_MS = tuple(1000 * bound for bound in _LATENCY_SECONDS)
_LAG_PERIOD, _LAG_SAMPLES = 0.25, 120  # half a minute: longer than the usual time between two scrapes
_MOST_SERIES = 2_000  # versions come and go while a process lives for months
_UNKNOWN = "unknown"


class Recorder:
    """Counts. Its methods cost about a microsecond, and are called from the event loop (`batch` also elsewhere).

    Args:
        knows: Whether a model is followed: callers may name any, and each name would be a series for ever.
    """

    def __init__(self, knows: Callable[[str], bool]) -> None:
        self._knows = knows
        self.counts = Counts()

    def count(self, model: str, version: str, arm: str, status: str, latency_ms: float, *, served: bool) -> None:
        """Count one row that a version scored, or failed to score.

        Args:
            model: Registered model name.
            version: Its number.
            arm: `champion` or `challenger`.
            status: `ok`, `error` or `timeout`.
            latency_ms: From taking the request to the answer.
            served: Whether the caller gets it.
        """
        counts = self.counts
        key = (model, version, arm, status, served)
        before = counts.rows.get(key)
        if before is None:
            counts.rows[key] = 1
            _bound(counts.rows)
        else:
            counts.rows[key] = before + 1
        if status == "ok":
            of = (model, version, arm)
            histogram = counts.latency.get(of)
            if histogram is None:
                histogram = counts.latency[of] = Histogram(_LATENCY_SECONDS)
                _bound(counts.latency)
            histogram.buckets[bisect_left(_LATENCY_MS, latency_ms)] += 1
            histogram.total += latency_ms / 1000

    def request(self, model: str, code: int) -> None:
        """Count one HTTP request for predictions, by the code of its answer."""
        requests, key = self.counts.requests, (model, code)
        if key not in requests and not self._knows(model):
            key = (_UNKNOWN, code)
        requests[key] = requests.get(key, 0) + 1

    def caller(self, token: str, answer: str) -> None:
        """Count one call by the name of its token, "" where there is none, and by whether it may be made."""
        callers, key = self.counts.callers, (token, answer)
        before = callers.get(key)
        callers[key] = 1 if before is None else before + 1
        if before is None:
            _bound(callers)

    def fallback(self, model: str, version: str, rows: int) -> None:
        """Count rows that a challenger failed on and the champion answered."""
        fallbacks, key = self.counts.fallbacks, (model, version)
        fallbacks[key] = fallbacks.get(key, 0) + rows

    def overloaded(self, model: str, version: str, rows: int) -> None:
        """Count rows that were refused because too many wait for a version."""
        overloads, key = self.counts.overloads, (model, version)
        overloads[key] = overloads.get(key, 0) + rows

    def batch(self, model: str, version: str, rows: int) -> None:
        """Count one call of a version, by its rows. Called by the one thread that calls the version."""
        key = (model, version)
        histogram = self.counts.batches.get(key)
        if histogram is None:
            histogram = self.counts.batches[key] = Histogram(_BATCH_ROWS)
            _bound(self.counts.batches)
        histogram.buckets[bisect_left(_BATCH_ROWS, rows)] += 1
        histogram.total += rows


class Metrics:
    """All metrics of a process.

    Args:
        gateway_id: The process.
        recorder: What requests are counted by.
        sources: The parts that know how they are.
    """

    def __init__(self, gateway_id: str, recorder: Recorder, sources: Sources) -> None:
        self.recorder = recorder
        self._lags: deque[float] = deque(maxlen=_LAG_SAMPLES)
        self._measuring: asyncio.Task[None] | None = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(Families(gateway_id, self.recorder.counts, sources, lambda: max(self._lags, default=0)))

    def start(self) -> None:
        """Begin to measure how late the event loop is; needs the running loop."""
        self._measuring = asyncio.create_task(self._measure())

    async def close(self) -> None:
        """Measure no more."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)

    def render(self) -> bytes:
        """Everything in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    async def _measure(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_LAG_PERIOD)
            self._lags.append(max(0.0, time.perf_counter() - began - _LAG_PERIOD))


def _bound(series: dict[Any, Any]) -> None:
    """Let go of the oldest."""
    while len(series) > _MOST_SERIES:
        series.pop(next(iter(series)))
