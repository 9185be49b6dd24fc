"""Scores requests a second time, on the version that did not answer them, behind the caller's back.

There are two kinds: the control sample at a share of 100, which the champion scores, and the shadow of a share of 0,
which the challenger scores. A caller's request does no more than put itself in a queue, if there is room. Mirroring is
the first to give way: what can't be scored soon, or would press on callers or on the log, is dropped and counted.

Where a version is known to be quick, all that came in a moment is scored in one call and logged with one write. Other
versions are asked for one request at a time, as callers would ask: in a batch of their own making they would look
slower than they are.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import structlog

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.answers import Answer
from model_rollouts.gateway.errors import LogUnavailableError
from model_rollouts.gateway.gathering import Gatherer
from model_rollouts.gateway.metrics import Recorder
from model_rollouts.gateway.mirror_scoring import Mirrored, MirrorScorer
from model_rollouts.gateway.protocols import fitting
from model_rollouts.gateway.records import record
from model_rollouts.gateway.routing import Arm
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.sent_marks import Receipt
from model_rollouts.gateway.settings import GatewaySettings

# Requests in flight at once, so that they share a call under load. The champion's share its calls with callers.
_IN_FLIGHT = {Arm.CHAMPION: 4, Arm.CHALLENGER: 16}
_TOGETHER_ROWS = 32  # callers wait while they are put into the log: a good half of a millisecond
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


_Waiting = tuple[float, Mirrored]  # since when


@dataclass(slots=True)
class _Lane:
    """What waits for one arm: those that are scored by themselves, and those that are together."""

    arm: Arm
    queue: asyncio.Queue[_Waiting]
    together: Gatherer[_Waiting]
    bytes: int = 0


@dataclass(slots=True)
class _Tally:
    waiting: int = 0
    mirrored: int = 0
    dropped: int = 0


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
        self._scorer = MirrorScorer(settings)
        self._lanes = {
            arm: _Lane(arm, asyncio.Queue(), Gatherer(partial(self._score_together, arm), _rows, _TOGETHER_ROWS))
            for arm in Arm
        }
        self._tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; needs the running loop."""
        self._workers = [
            asyncio.create_task(self._work(lane)) for lane in self._lanes.values() for _ in range(_IN_FLIGHT[lane.arm])
        ]

    def offer(self, mirrored: Mirrored) -> None:
        """Mirror it, if there is room. Never waits."""
        lane, tally = self._lanes[mirrored.arm], self._tallies[mirrored.model]
        too_much = lane.bytes + mirrored.size > self._settings.max_mirror_bytes
        is_full = lane.queue.qsize() + len(lane.together) >= self._settings.mirror_queue
        if is_full or too_much or self._sink.nearly_full:
            tally.dropped += 1
            return
        lane.bytes += mirrored.size
        tally.waiting += 1
        waiting = (time.monotonic(), mirrored)
        if mirrored.may_join:
            lane.together.add(waiting)
        else:
            lane.queue.put_nowait(waiting)

    async def close(self, seconds: float) -> None:
        """Finish what waits, for at most so long; the rest counts as dropped."""
        try:
            async with asyncio.timeout(seconds):
                for lane in self._lanes.values():
                    await lane.queue.join()
                    await lane.together.settled()
        except TimeoutError:
            for lane in self._lanes.values():
                left = [lane.queue.get_nowait() for _ in range(lane.queue.qsize())] + lane.together.take_back()
                for waiting in left:
                    self._tallies[self._take(lane, waiting).model].dropped += 1
                await lane.together.close()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._scorer.close()

    def status(self, model: str | None = None) -> dict[str, int]:
        """Requests of a model, or of all, that wait, were mirrored, were dropped."""
        tallies = self._tallies.values() if model is None else [self._tallies.get(model, _Tally())]
        return {name: sum(getattr(t, name) for t in tallies) for name in ("waiting", "mirrored", "dropped")}

    async def _work(self, lane: _Lane) -> None:
        while True:
            waiting = await lane.queue.get()
            mirrored = self._take(lane, waiting)
            try:
                if self._is_worth_it(mirrored, since=waiting[0]):
                    await self._mirror(lane, [mirrored])
            finally:
                lane.queue.task_done()

    async def _score_together(self, arm: Arm, parcel: Sequence[_Waiting]) -> None:
        lane = self._lanes[arm]
        groups: list[list[Mirrored]] = []
        for waiting in parcel:
            mirrored = self._take(lane, waiting)
            if self._is_worth_it(mirrored, since=waiting[0]):
                group = next((group for group in groups if group[0].joins(mirrored)), None)
                if group is None:
                    groups.append([mirrored])
                else:
                    group.append(mirrored)
        try:
            while groups:
                await self._mirror(lane, groups.pop(0))
        finally:  # the process ends: nobody scores these any more
            for group in groups:
                self._tallies[group[0].model].dropped += len(group)

    async def _mirror(self, lane: _Lane, group: Sequence[Mirrored]) -> None:
        """Score and log requests in one call, and count them."""
        done = False
        try:
            done = await self._score(lane, group)
        except LogUnavailableError:
            pass
        except Exception:  # what is wrong with one must not end those that come after it
            _log.exception("mirror_failed", model=group[0].model)
        finally:
            tally = self._tallies[group[0].model]
            tally.mirrored += done * len(group)
            tally.dropped += (not done) * len(group)

    def _take(self, lane: _Lane, waiting: _Waiting) -> Mirrored:
        mirrored = waiting[1]
        lane.bytes -= mirrored.size
        self._tallies[mirrored.model].waiting -= 1
        return mirrored

    def _is_worth_it(self, mirrored: Mirrored, since: float) -> bool:
        """Whether its rows would still count, and callers have what they need; where not, it is dropped."""
        then, now = mirrored.serving.traffic, self._in_force(mirrored.model)
        worth = (
            now is not None
            # A rollback, or the next stage, ends the mirroring of the one before it at once.
            and (now.rollout_id, now.stage) == (then.rollout_id, then.stage)
            and (now.champion, now.challenger) == (then.champion, then.challenger)
            and time.monotonic() - since <= _MOST_WAIT_SECONDS
            and not self._sink.nearly_full
            and mirrored.serving.champion.scorer.waiting_rows <= self._settings.max_batch_rows
        )
        self._tallies[mirrored.model].dropped += not worth
        return worth

    async def _score(self, lane: _Lane, group: Sequence[Mirrored]) -> bool:
        """Score and log requests in one call; whether they were."""
        version = group[0].version
        if version is None:
            return False
        outcome = await self._scorer.ask(version, group)
        if outcome.crowded:
            return False
        rows: list[dict[str, Any]] = []
        results = iter(outcome.results)
        for mirrored, payload in zip(group, outcome.payloads, strict=True):
            latency = mirrored.around_ms + outcome.latency_ms
            own: Results = list(islice(results, len(mirrored.indices)))
            if lane.arm is Arm.CHALLENGER:
                own = fitting(mirrored.codec, own)
            for index, result in zip(mirrored.indices, own, strict=False):
                features = None if payload is None else (payload, index)
                # a mirrored row counts for the version that gave it
                rows.append(
                    record(
                        mirrored.context, index, lane.arm, lane.arm, result, latency, served=False, features=features
                    )
                )
                status = "ok" if isinstance(result, Answer) else result.status
                self._recorder.count(mirrored.model, version.version, lane.arm, status, latency, served=False)
        receipt = self._sink.append(group[0].model, "predictions", rows)
        if receipt is not None:
            receipt.sent()  # nobody gets this answer
        return True


def _rows(waiting: _Waiting) -> int:
    return len(waiting[1].indices)
