"""Scores requests a second time, on the version that did not answer them, behind the caller's back.

There are two kinds: the control sample at a share of 100, which the champion scores, and the shadow of a share of 0,
which the challenger scores. A caller's request does no more than put itself in a queue, if there is room. Mirroring is
the first to give way: what can't be scored soon, or would press on callers or on the log, is dropped and counted.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.answers import Answer, Failure, failure
from model_rollouts.gateway.errors import LogUnavailableError
from model_rollouts.gateway.follower import Serving
from model_rollouts.gateway.inputs import Inputs
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.metrics import Recorder
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.records import Context, record
from model_rollouts.gateway.routing import Arm
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.sent_marks import Receipt
from model_rollouts.gateway.settings import GatewaySettings

# Requests in flight at once, so that they share a call under load. The champion's share its calls with callers.
_IN_FLIGHT = {Arm.CHAMPION: 4, Arm.CHALLENGER: 16}
# A row that comes after its look was closed counts for nothing, and a version that hangs must be seen to fail now.
_MOST_WAIT_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class PredictionSink(Protocol):
    """Where rows go: the spool."""

    @property
    def nearly_full(self) -> bool:
        """Whether what is left is for answers that callers wait for."""

    def append(self, model: str, table: Any, rows: Any) -> Receipt | None:
        """See `Spool.append`."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """Rows of a request that are scored a second time.

    Attributes:
        context: The request.
        serving: The state that it was answered by.
        arm: Who scores now.
        indices: Rows of the request.
        document: The request, decoded.
        payload: All its rows, as the champion reads them.
        size: Bytes of its body.
        lead_ms: From taking the request to the start of scoring. Time in the mirror's queue does not count: no
            caller would have waited it.
    """

    context: Context
    serving: Serving
    arm: Arm
    indices: tuple[int, ...]
    document: Document
    payload: Payload
    size: int
    lead_ms: float

    @property
    def model(self) -> str:
        """Registered model name."""
        return self.serving.traffic.model


@dataclass(slots=True)
class _Lane:
    """What waits for one arm."""

    arm: Arm
    timeout: float
    queue: asyncio.Queue[tuple[float, Mirrored]]
    bytes: int = 0


@dataclass(slots=True)
class _Tally:
    waiting: int = 0
    mirrored: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a version made of the rows; `payload` is how it read them, if it could, and `latency_ms` what it took."""

    results: Results
    latency_ms: float
    payload: Payload | None = None


class _CrowdedError(Exception):
    """It is the mirroring that was too much, not the version that failed."""


class Mirror:
    """Bounded queues and their workers, on the event loop.

    Args:
        sink: Where the rows go.
        in_force: The traffic row that a model is routed by now.
        recorder: Counts what was scored.
        settings: Bounds and time limits.
    """

    def __init__(
        self,
        sink: PredictionSink,
        in_force: Callable[[str], Traffic | None],
        recorder: Recorder,
        settings: GatewaySettings,
    ) -> None:
        self._sink = sink
        self._recorder = recorder
        self._in_force = in_force
        self._settings = settings
        self._inputs = Inputs(settings)
        limits = {Arm.CHAMPION: settings.champion_timeout_seconds, Arm.CHALLENGER: settings.mirror_timeout_seconds}
        self._lanes = {arm: _Lane(arm, limit, asyncio.Queue(settings.mirror_queue)) for arm, limit in limits.items()}
        self._tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._workers: list[asyncio.Task[None]] = []
        # Not the loop's own threads: callers' large bodies are read there.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="mirror")

    def start(self) -> None:
        """Begin; needs the running loop."""
        self._workers = [
            asyncio.create_task(self._work(lane)) for lane in self._lanes.values() for _ in range(_IN_FLIGHT[lane.arm])
        ]

    def offer(self, mirrored: Mirrored) -> None:
        """Mirror it, if there is room. Never waits."""
        lane, tally = self._lanes[mirrored.arm], self._tallies[mirrored.model]
        too_much = lane.bytes + mirrored.size > self._settings.max_mirror_bytes
        if lane.queue.full() or too_much or self._sink.nearly_full:
            tally.dropped += 1
            return
        lane.queue.put_nowait((time.monotonic(), mirrored))
        lane.bytes += mirrored.size
        tally.waiting += 1

    async def close(self, seconds: float) -> None:
        """Finish what waits, for at most so long; the rest counts as dropped."""
        try:
            async with asyncio.timeout(seconds):
                for lane in self._lanes.values():
                    await lane.queue.join()
        except TimeoutError:
            for lane in self._lanes.values():
                while not lane.queue.empty():
                    self._tallies[self._take(lane, lane.queue.get_nowait()).model].dropped += 1
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def status(self, model: str | None = None) -> dict[str, int]:
        """Requests of a model, or of all, that wait, were mirrored, were dropped."""
        tallies = self._tallies.values() if model is None else [self._tallies.get(model, _Tally())]
        return {name: sum(getattr(t, name) for t in tallies) for name in ("waiting", "mirrored", "dropped")}

    async def _work(self, lane: _Lane) -> None:
        while True:
            waiting = await lane.queue.get()
            mirrored, done = self._take(lane, waiting), False
            try:
                done = self._is_worth_it(mirrored, since=waiting[0]) and await self._score(lane, mirrored)
            except LogUnavailableError:
                pass
            except Exception:  # one request must not end the worker
                _log.exception("mirror_failed", model=mirrored.model)
            finally:
                tally = self._tallies[mirrored.model]
                tally.mirrored += done
                tally.dropped += not done
                lane.queue.task_done()

    def _take(self, lane: _Lane, waiting: tuple[float, Mirrored]) -> Mirrored:
        mirrored = waiting[1]
        lane.bytes -= mirrored.size
        self._tallies[mirrored.model].waiting -= 1
        return mirrored

    def _is_worth_it(self, mirrored: Mirrored, since: float) -> bool:
        """Whether its rows would still count, and callers have what they need."""
        then, now = mirrored.serving.traffic, self._in_force(mirrored.model)
        return (
            now is not None
            # A rollback, or the next stage, ends the mirroring of the one before it at once.
            and (now.rollout_id, now.stage) == (then.rollout_id, then.stage)
            and (now.champion, now.challenger) == (then.champion, then.challenger)
            and time.monotonic() - since <= _MOST_WAIT_SECONDS
            and not self._sink.nearly_full
            and mirrored.serving.champion.scorer.waiting_rows <= self._settings.max_batch_rows
        )

    async def _score(self, lane: _Lane, mirrored: Mirrored) -> bool:
        """Score and log it; whether it was."""
        serving = mirrored.serving
        version = serving.challenger if lane.arm is Arm.CHALLENGER else serving.champion
        if version is None:
            return False
        try:
            outcome = await self._ask(lane, mirrored, version)
        except _CrowdedError:
            return False
        rows = [
            record(
                mirrored.context,
                index,
                lane.arm,
                lane.arm,  # a mirrored row counts for the version that gave it
                result,
                mirrored.lead_ms + outcome.latency_ms,
                served=False,
                features=None if outcome.payload is None else (outcome.payload, index),
            )
            for index, result in zip(mirrored.indices, outcome.results, strict=True)
        ]
        for result in outcome.results:
            status = "ok" if isinstance(result, Answer) else result.status
            took = mirrored.lead_ms + outcome.latency_ms
            self._recorder.count(mirrored.model, version.version, lane.arm, status, took, served=False)
        receipt = self._sink.append(mirrored.model, "predictions", rows)
        if receipt is not None:
            receipt.sent()  # nobody gets this answer
        return True

    async def _ask(self, lane: _Lane, mirrored: Mirrored, version: Version) -> _Outcome:
        """What the version makes of the rows. The champion could read them, so whatever goes wrong is its failure.

        Raises:
            _CrowdedError: It never came to it.
        """
        rows, started = len(mirrored.indices), time.perf_counter()
        try:
            payload, waited = await self._read(lane, mirrored, version)
            started += waited
            asked, params = payload.take(mirrored.indices), mirrored.document.params
            results = await version.scorer.score(asked, params, lane.timeout)
        except _CrowdedError:
            raise
        except TimeoutError:
            reason = f"the input was not read within {lane.timeout:g} s"
            return _Outcome([Failure("timeout", reason)] * rows, _ms_since(started))
        except Exception as error:
            return _Outcome([failure(error)] * rows, _ms_since(started))
        # Too many rows waited, of mirrored requests and others. A version that hangs or is too slow has failed.
        if any(isinstance(r, Failure) and r.overloaded and r.status == "error" for r in results):
            raise _CrowdedError
        return _Outcome(results, _ms_since(started), payload)

    async def _read(self, lane: _Lane, mirrored: Mirrored, version: Version) -> tuple[Payload, float]:
        """The rows as the version reads them, and the seconds that they had to wait for the thread to do so.

        Raises:
            TimeoutError: Reading took too long.
            _CrowdedError: The thread was busy with others for all that time.
        """
        if version.reader == mirrored.serving.champion.reader:
            return mirrored.payload, 0.0
        offered = time.perf_counter()
        reading = self._readers.submit(self._read_again, version, mirrored)
        try:
            payload, began = await asyncio.wait_for(asyncio.wrap_future(reading), lane.timeout)
        except TimeoutError:
            if reading.cancelled():
                raise _CrowdedError from None
            raise
        return payload, began - offered

    def _read_again(self, version: Version, mirrored: Mirrored) -> tuple[Payload, float]:
        began = time.perf_counter()
        return self._inputs.again(version, mirrored.document, mirrored.payload.rows), began


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
