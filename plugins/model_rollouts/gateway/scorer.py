"""Scores rows on one version, in one worker thread that takes everything that waits in one call.

There is no timer: a lone row is scored at once, and a batch is what gathered while the call before it ran. So batching
never adds latency, and under load the cost of a call is shared.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from model_rollouts.gateway.answers import Answer, Failure, failure, split
from model_rollouts.gateway.payload import Payload, Table

Results = list[Answer | Failure]
Predict = Callable[[Any, Mapping[str, Any]], Any]

_IDLE_SECONDS = 30.0  # an idle worker thread ends after this, so a version that is dropped leaves nothing behind


class Scorer(Protocol):
    """Something that scores rows."""

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for their turn."""

    async def score(self, payload: Payload, params: Mapping[str, Any], within: float) -> Results:
        """One result a row, in order. Never raises for what the model does.

        Args:
            payload: The rows.
            params: Inference parameters.
            within: Seconds from now after which the rows count as timed out.
        """


class _Job:
    __slots__ = ("abandoned", "future", "params", "payload")

    def __init__(self, payload: Payload, params: Mapping[str, Any], future: "asyncio.Future[Results]") -> None:
        self.payload = payload
        self.params = params
        self.future = future
        self.abandoned = False  # its caller has gone, so nobody waits for it any more

    @property
    def joins(self) -> bool:
        """Whether it may be scored together with others."""
        return not self.params and self.payload.key is not None


class MicroBatcher:
    """A version's queue and worker.

    Args:
        predict: The model; called from the worker thread only.
        name: Of the thread, for people who look at stacks.
        max_batch_rows: Most rows in one call; a single larger request is scored in a call of its own.
        max_waiting_rows: Most rows that may wait; what comes on top fails as overloaded.
    """

    def __init__(self, predict: Predict, name: str, max_batch_rows: int, max_waiting_rows: int) -> None:
        self._predict = predict
        self._name = name
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._waiting_rows = 0
        self._running = False

    @property
    def waiting_rows(self) -> int:
        """See `Scorer`."""
        return self._waiting_rows

    async def score(self, payload: Payload, params: Mapping[str, Any], within: float) -> Results:
        """See `Scorer`."""
        job = _Job(payload, params, asyncio.get_running_loop().create_future())
        if not self._enqueue(job):
            reason = f"overloaded: more than {self._max_waiting_rows} rows wait for {self._name}"
            return [Failure("error", reason, overloaded=True)] * payload.rows
        try:
            return await asyncio.wait_for(job.future, within)
        except TimeoutError:
            return [Failure("timeout", f"no answer within {within:g} s")] * payload.rows
        finally:
            self._abandon(job)

    def _enqueue(self, job: _Job) -> bool:
        with self._changed:
            # A request on its own always gets in, or one with more rows than the bound never would.
            if self._waiting and self._waiting_rows + job.payload.rows > self._max_waiting_rows:
                return False
            self._waiting.append(job)
            self._waiting_rows += job.payload.rows
            if self._running:
                self._changed.notify()
            else:
                self._running = True
                threading.Thread(target=self._work, name=f"score {self._name}", daemon=True).start()
        return True

    def _abandon(self, job: _Job) -> None:
        job.abandoned = True
        if job.future.done() and not job.future.cancelled():
            return
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._waiting_rows -= job.payload.rows

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if not self._changed.wait(_IDLE_SECONDS) and not self._waiting:
                        self._running = False
                        return
                jobs = self._next()
            outcome = list(zip(jobs, self._score(jobs), strict=True))
            try:
                jobs[0].future.get_loop().call_soon_threadsafe(_deliver, outcome)
            except RuntimeError:  # the loop is closed: the process ends and nobody waits
                with self._changed:
                    self._running = False
                return
            del jobs, outcome  # an idle worker keeps no rows alive

    def _next(self) -> list[_Job]:
        jobs = [self._waiting.popleft()]
        rows = jobs[0].payload.rows
        if jobs[0].joins:
            while (
                self._waiting
                and self._waiting[0].joins
                and self._waiting[0].payload.key == jobs[0].payload.key
                and rows + self._waiting[0].payload.rows <= self._max_batch_rows
            ):
                jobs.append(self._waiting.popleft())
                rows += jobs[-1].payload.rows
        self._waiting_rows -= rows
        return jobs

    def _score(self, jobs: Sequence[_Job]) -> list[Results]:
        """Results of each job; when a call fails, row by row, so that one bad row fails alone."""
        rows = sum(job.payload.rows for job in jobs)
        try:
            payload = _joined([job.payload for job in jobs])
            results = split(self._predict(payload.data(), jobs[0].params), rows)
        except BaseException as error:  # a model that calls sys.exit() fails its rows, not the worker
            if rows == 1:
                return [[failure(error)]]
            return [self._row_by_row(job) for job in jobs]
        parts, start = [], 0
        for job in jobs:
            parts.append(results[start : start + job.payload.rows])
            start += job.payload.rows
        return parts

    def _row_by_row(self, job: _Job) -> Results:
        results: Results = []
        for index in range(job.payload.rows):
            if job.abandoned:
                results.append(Failure("timeout", "the caller did not wait for this row"))
                continue
            try:
                results += split(self._predict(job.payload.take([index]).data(), job.params), 1)
            except BaseException as error:
                results.append(failure(error))
        return results


def _joined(payloads: Sequence[Payload]) -> Payload:
    first, *others = payloads
    if not others:
        return first
    tables = [payload for payload in payloads if isinstance(payload, Table)]
    if len(tables) != len(payloads):
        raise AssertionError("only tables have a key to be joined by")
    return tables[0].joined(tables[1:])


def _deliver(outcome: list[tuple[_Job, Results]]) -> None:
    for job, results in outcome:
        if not job.future.done():
            job.future.set_result(results)
