"""Scores the control sample on the champion, behind the caller's back. First to give way under load."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from model_rollouts.gateway.errors import LogUnavailableError
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.records import Context, record
from model_rollouts.gateway.routing import Arm

_WORKERS = 4  # requests in flight at once, so that they share a call under load

_log = structlog.get_logger(__name__)


class PredictionSink(Protocol):
    """Where rows go: the spool."""

    def append(self, model: str, table: Any, rows: Any) -> None:
        """See `Spool.append`."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """Rows of a request that the champion scores too.

    Attributes:
        context: The request.
        indices: Rows of it.
        payload: The whole request, as the champion reads it.
        params: Inference parameters.
        champion: Who scores.
        lead_ms: From taking the request to the start of scoring. Time in the mirror's queue does not count: no
            caller would have waited it.
    """

    context: Context
    indices: tuple[int, ...]
    payload: Payload
    params: Mapping[str, Any]
    champion: Version
    lead_ms: float


class Mirror:
    """A bounded queue and its workers, on the event loop.

    Args:
        sink: Where the rows go.
        size: Requests that may wait; more are dropped and counted.
        timeout: Seconds that the champion gets.
    """

    def __init__(self, sink: PredictionSink, size: int, timeout: float) -> None:
        self._sink = sink
        self._timeout = timeout
        self._queue: asyncio.Queue[Mirrored] = asyncio.Queue(size)
        self._workers: list[asyncio.Task[None]] = []
        self.dropped = 0
        self.mirrored = 0

    def start(self) -> None:
        """Begin; needs the running loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(_WORKERS)]

    def offer(self, mirrored: Mirrored) -> None:
        """Mirror it, if there is room."""
        try:
            self._queue.put_nowait(mirrored)
        except asyncio.QueueFull:
            self.dropped += 1

    async def close(self, seconds: float) -> None:
        """Finish what waits, for at most so long; the rest counts as dropped."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            self.dropped += self._queue.qsize()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def status(self) -> dict[str, int]:
        """Requests that wait, were mirrored, were dropped."""
        return {"waiting": self._queue.qsize(), "mirrored": self.mirrored, "dropped": self.dropped}

    async def _work(self) -> None:
        while True:
            mirrored = await self._queue.get()
            try:
                await self._score(mirrored)
                self.mirrored += 1
            except LogUnavailableError:
                self.dropped += 1
            except Exception:  # one request must not end the worker
                self.dropped += 1
                _log.exception("mirror_failed", model=mirrored.context.traffic.model)
            finally:
                self._queue.task_done()

    async def _score(self, mirrored: Mirrored) -> None:
        started = time.perf_counter()
        payload = mirrored.payload.take(mirrored.indices)
        results = await mirrored.champion.scorer.score(payload, mirrored.params, self._timeout)
        latency = mirrored.lead_ms + (time.perf_counter() - started) * 1000
        rows = [
            record(
                mirrored.context,
                index,
                Arm.CHAMPION,
                result,
                latency,
                served=False,
                features=(mirrored.payload, index),
            )
            for index, result in zip(mirrored.indices, results, strict=True)
        ]
        self._sink.append(mirrored.context.traffic.model, "predictions", rows)
