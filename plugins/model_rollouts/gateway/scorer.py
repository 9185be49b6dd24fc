"""Scores rows on one version, in one worker thread that takes everything that waits in one call.

A model that is known to be quick is called on the event loop instead, which saves the way to the thread and back.

A lone row is scored at once: a batch is what gathered while the call before it ran, and what came in together. So
batching adds no time when there is little to do, and under load the cost of a call is shared.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from model_rollouts.gateway.answers import Answer, Failure, failure, split
from model_rollouts.gateway.payload import Payload, joined

Results = list[Answer | Failure]
Predict = Callable[[Payload, Mapping[str, Any]], Any]

_IDLE_SECONDS = 5.0  # an idle worker thread ends after this, so a version that is dropped leaves nothing behind
_RECENT = 0.2  # weight of the newest call in the mean time of a call

_log = structlog.get_logger(__name__)


class Called(Results):
    """Results that came from one call of the version.

    Attributes:
        call_ms: What it took, for all that were in it; not what they waited for the version's turn.
    """

    __slots__ = ("call_ms",)

    def __init__(self, results: Results, call_ms: float) -> None:
        super().__init__(results)
        self.call_ms = call_ms


def call_ms(results: Sequence[Answer | Failure]) -> float | None:
    """What the call took that results came from; None: there was none, or more than one."""
    return results.call_ms if isinstance(results, Called) else None


class Scorer(Protocol):
    """Something that scores rows."""

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for their turn."""

    @property
    def quick_rows(self) -> int:
        """So many rows take less than a millisecond in one call, every time; 0: nothing is known."""

    async def score(self, payload: Payload, params: Mapping[str, Any], within: float) -> Results:
        """One result a row, in order; `Called` where they are of one call. Never raises for what the model does.

        Args:
            payload: The rows.
            params: Inference parameters.
            within: Seconds from now after which the rows count as timed out.
        """


class _Job:
    __slots__ = ("abandoned", "future", "params", "payload", "taken", "timer", "within")

    def __init__(
        self, payload: Payload, params: Mapping[str, Any], future: "asyncio.Future[Results]", within: float
    ) -> None:
        self.payload = payload
        self.params = params
        self.future = future
        self.within = within
        self.timer: asyncio.TimerHandle | None = None  # set once it has to wait for the thread
        self.taken = False  # by the worker
        self.abandoned = False  # its caller has gone, so nobody waits for it any more

    @property
    def joins(self) -> bool:
        """Whether it may be scored together with others."""
        return not self.params and self.payload.key is not None


class MicroBatcher:
    """A version's queue and worker.

    Args:
        predict: The model, on a payload; called from the worker thread only.
        name: Of the thread, for people who look at stacks.
        max_batch_rows: Most rows in one call; a single larger request is scored in a call of its own.
        max_waiting_rows: Most rows that may wait; what comes on top fails as overloaded.
        wait_seconds: Under load, when the call before this one was shared, how long a call that has room may wait for
            more rows. Never when there is little to do.
        inline_rows: Calls of at most so many rows are made on the event loop; 0: none. For models that can't take long.
        called: Told the rows of each call, from the thread that makes it.
    """

    def __init__(
        self,
        predict: Predict,
        name: str,
        max_batch_rows: int,
        max_waiting_rows: int,
        wait_seconds: float = 0.0,
        inline_rows: int = 0,
        called: Callable[[int], None] | None = None,
    ) -> None:
        self._predict = predict
        self._name = name
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._wait_seconds = wait_seconds
        self._inline_rows = min(inline_rows, max_batch_rows)
        self._called = called
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._waiting_rows = 0
        self._running = False
        self._waking = False
        self._shared = False
        self._thread_works = False  # while it does, nothing is called on the loop: a model is called by one at a time
        self._busy_since: float | None = None
        self._call_seconds = 0.0

    @property
    def waiting_rows(self) -> int:
        """See `Scorer`."""
        return self._waiting_rows

    @property
    def quick_rows(self) -> int:
        """See `Scorer`."""
        return self._inline_rows

    async def score(self, payload: Payload, params: Mapping[str, Any], within: float) -> Results:
        """See `Scorer`. What could not be scored in time anyway is not queued: it fails now."""
        refused = self._refusal(payload.rows, within)
        if refused is not None:
            return [refused] * payload.rows
        loop = asyncio.get_running_loop()
        job = _Job(payload, params, loop.create_future(), within)
        with self._changed:
            self._waiting.append(job)
            self._waiting_rows += payload.rows
            if self._thread_works:  # it may take the job before the loop's turn ends
                job.timer = loop.call_later(within, _expire, job)
        if not self._waking:  # once for all that come in together
            self._waking = True
            loop.call_soon(self._wake)
        try:
            return await job.future
        finally:
            if job.timer is not None:
                job.timer.cancel()
            if not job.taken or not job.future.done():
                self._abandon(job)

    def _refusal(self, rows: int, within: float) -> Failure | None:
        """Why rows are not even queued. A request on its own always is, or one with more rows than fit never would."""
        since = self._busy_since
        if since is not None and (stuck := time.monotonic() - since) > within:
            return Failure("timeout", f"{self._name} has been in one call for {stuck:.1f} s", overloaded=True)
        if not self._waiting:
            return None
        if self._waiting_rows + rows > self._max_waiting_rows:
            reason = f"overloaded: more than {self._max_waiting_rows} rows wait for {self._name}"
            return Failure("error", reason, overloaded=True)
        expected = self._waiting_rows / self._max_batch_rows * self._call_seconds
        if expected > within:
            reason = f"overloaded: rows wait some {expected:.1f} s for {self._name}, and have {within:g} s"
            return Failure("timeout", reason, overloaded=True)
        return None

    def _wake(self) -> None:
        self._waking = False
        with self._changed:
            if not self._waiting:
                return
            # One that is too large for the loop makes all behind it wait for the thread, so that nobody is overtaken.
            if self._thread_works or self._waiting[0].payload.rows > self._inline_rows:
                self._hand_over()
                return
            jobs = self._next(self._inline_rows)
        try:
            outcome = list(zip(jobs, self._call(jobs), strict=True))
        except BaseException:  # a row of them is bad: the thread finds out which, without stopping the loop
            with self._changed:
                self._put_back(jobs)
                self._hand_over()
            return
        _deliver(outcome)
        if self._waiting and not self._waking:
            self._waking = True
            jobs[0].future.get_loop().call_soon(self._wake)

    def _hand_over(self) -> None:
        """Have the thread take what waits; from now on its time runs."""
        self._thread_works = True
        for job in self._waiting:
            if job.timer is None:
                job.timer = job.future.get_loop().call_later(job.within, _expire, job)
        if self._running:
            self._changed.notify()
            return
        try:
            threading.Thread(target=self._work, name=f"score {self._name}", daemon=True).start()
        except RuntimeError as error:  # the process has no room for a thread now; those that wait time out
            _log.error("no_thread_to_score", version=self._name, error=str(error))
        else:
            self._running = True

    def _put_back(self, jobs: Sequence[_Job]) -> None:
        for job in reversed(jobs):
            job.taken = False
            self._waiting.appendleft(job)
            self._waiting_rows += job.payload.rows

    def _abandon(self, job: _Job) -> None:
        with self._changed:
            job.abandoned = True
            if not job.taken:
                job.taken = True
                self._waiting.remove(job)
                self._waiting_rows -= job.payload.rows

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy_since = None
                self._thread_works = self._thread_works and bool(self._waiting)
                while not self._thread_works:
                    if not self._changed.wait(_IDLE_SECONDS) and not self._thread_works:
                        self._running = False
                        return
                if self._shared and self._wait_seconds:
                    self._changed.wait_for(lambda: self._waiting_rows >= self._max_batch_rows, self._wait_seconds)
                jobs = self._next(self._max_batch_rows)
                if not jobs:  # those that waited have gone meanwhile
                    continue
                self._shared = len(jobs) > 1
                began = self._busy_since = time.monotonic()
            outcome = list(zip(jobs, self._score(jobs), strict=True))
            self._call_seconds += _RECENT * (time.monotonic() - began - self._call_seconds)
            try:
                jobs[0].future.get_loop().call_soon_threadsafe(_deliver, outcome)
            except RuntimeError:  # the loop is closed: the process ends and nobody waits
                with self._changed:
                    self._running = False
                return
            del jobs, outcome  # an idle worker keeps no rows alive

    def _next(self, most: int) -> list[_Job]:
        jobs: list[_Job] = []
        rows = 0
        while self._waiting and (
            not jobs or (_joinable(jobs[0], self._waiting[0]) and rows + self._waiting[0].payload.rows <= most)
        ):
            job = self._waiting.popleft()
            job.taken = True
            jobs.append(job)
            rows += job.payload.rows
        self._waiting_rows -= rows
        return jobs

    def _score(self, jobs: Sequence[_Job]) -> list[Results]:
        """Results of each job; when a call fails, of its halves, until a bad row has failed alone."""
        if all(job.abandoned for job in jobs):
            return [_given_up(job.payload.rows) for job in jobs]
        try:
            return self._call(jobs)
        except BaseException as error:  # a model that calls sys.exit() fails its rows, not the worker
            if len(jobs) == 1:
                return [self._halves(jobs[0], range(jobs[0].payload.rows), error)]
        middle = len(jobs) // 2
        return self._score(jobs[:middle]) + self._score(jobs[middle:])

    def _halves(self, job: _Job, indices: Sequence[int], error: BaseException) -> Results:
        """Results of rows that failed together."""
        if len(indices) == 1:
            return [failure(error)]
        results: Results = []
        middle = len(indices) // 2
        for half in (indices[:middle], indices[middle:]):
            if job.abandoned:
                results += _given_up(len(half))
                continue
            try:
                results += split(self._predict(job.payload.take(half), job.params), len(half))
            except BaseException as reason:
                results += self._halves(job, half, reason)
        return results

    def _call(self, jobs: Sequence[_Job]) -> list[Results]:
        """One call of the model, and its results by job."""
        rows = sum(job.payload.rows for job in jobs)
        if self._called is not None:
            self._called(rows)
        payload = joined([job.payload for job in jobs])
        began = time.perf_counter()
        results = split(self._predict(payload, jobs[0].params), rows)
        took = (time.perf_counter() - began) * 1000
        return dealt(Called(results, took), [job.payload.rows for job in jobs])


def dealt(results: Results, rows: Sequence[int]) -> list[Results]:
    """Results by request.

    Args:
        results: Of all of them, one after the other.
        rows: How many each of them has.
    """
    took = call_ms(results)
    parts: list[Results] = []
    start = 0
    for count in rows:
        part = results[start : start + count]
        parts.append(part if took is None else Called(part, took))
        start += count
    return parts


def _given_up(rows: int) -> Results:
    return [Failure("timeout", "the caller did not wait for this row")] * rows


def _joinable(first: _Job, other: _Job) -> bool:
    return first.joins and other.joins and other.payload.key == first.payload.key


def _expire(job: _Job) -> None:
    if not job.future.done():
        job.abandoned = True
        job.future.set_result([Failure("timeout", f"no answer within {job.within:g} s")] * job.payload.rows)


def _deliver(outcome: list[tuple[_Job, Results]]) -> None:
    for job, results in outcome:
        if not job.future.done():
            job.future.set_result(results)
