"""Scores rows on a version's own server: one queue a version, on the event loop."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_rollouts.gateway.answers import Failure, OutputError, failure
from model_rollouts.gateway.inputs import off_loop
from model_rollouts.gateway.payload import Payload, Table, joined
from model_rollouts.gateway.scorer import Called, Results, dealt
from model_rollouts.gateway.upstream_address import Address
from model_rollouts.gateway.upstream_http import RefusedError, UpstreamError, UpstreamHttp
from model_rollouts.gateway.upstream_protocols import MlflowProtocol, OpenInferenceProtocol, WireProtocol

_READY_SECONDS = 5.0
_ROW_BYTES = 256  # of a request, about: decides whether it is encoded beside the loop


class UpstreamDownError(Exception):
    """The version's server is not ready."""


class UpstreamServer:
    """One version's server.

    Args:
        address: Where it is.
        http: The connections.
    """

    def __init__(self, address: Address, http: UpstreamHttp) -> None:
        protocol: WireProtocol = MlflowProtocol() if address.protocol == "mlflow" else OpenInferenceProtocol()
        self._address = address
        self._protocol = protocol
        self._http = http

    @property
    def url(self) -> str:
        """Its address."""
        return self._address.url

    async def score(self, payload: Payload, params: Mapping[str, Any], seconds: float, *, again: bool) -> Results:
        """One result a row.

        Args:
            payload: The rows.
            params: Inference parameters.
            seconds: Time for all of it.
            again: Whether they are a part of what it failed on just now.

        Raises:
            TimeoutError: It took longer.
            UpstreamError: There is no answer.
            OutputError: The answer, or the question, can't be put into the protocol.
        """
        body = await off_loop(payload.rows * _ROW_BYTES, self._protocol.encode, payload, params)
        answer = await self._http.call(
            "POST", self.url + self._protocol.score_path, body, seconds, fresh=again, token=self._address.token
        )
        results: Results = await off_loop(
            len(answer), self._protocol.decode, answer, payload.rows, self._address.version
        )
        return results

    async def check(self) -> None:
        """See that it is ready.

        Raises:
            UpstreamDownError: It is not; says why.
        """
        try:
            await self._http.call(
                "GET", self.url + self._protocol.ready_path, None, _READY_SECONDS, token=self._address.token
            )
        except TimeoutError as error:
            raise UpstreamDownError(f"{self.url} does not say within {_READY_SECONDS:g} s that it is ready") from error
        except UpstreamError as error:
            raise UpstreamDownError(str(error)) from error


@dataclass(eq=False, slots=True)
class _Job:
    payload: Payload
    params: Mapping[str, Any]
    until: float  # on the loop's clock
    future: "asyncio.Future[Results]"

    @property
    def joins(self) -> bool:
        """Whether it may be scored together with others."""
        return not self.params and isinstance(self.payload, Table)


class UpstreamScorer:
    """A version's queue on the event loop. There is no timer: one call scores what gathered while those before it ran.

    A batch that the server refuses, or answers wrongly, is asked again in halves, down to the row that it fails on:
    that finds one bad row of 256 with 16 calls, where callers would not wait for 256. What has no answer at all (no
    connection, no time, no room) is not asked again.

    Args:
        server: Who scores.
        name: For messages.
        batched: Told the rows of each call.
        max_calls: Most calls in flight.
        max_batch_rows: Most rows in one call; a single larger request is scored in a call of its own.
        max_waiting_rows: Most rows that may wait; what comes on top fails as overloaded.
    """

    def __init__(
        self,
        server: UpstreamServer,
        name: str,
        batched: Callable[[int], None],
        max_calls: int,
        max_batch_rows: int,
        max_waiting_rows: int,
    ) -> None:
        self.server = server
        self.problem: str | None = None  # why it can't score right now, as the probe last saw it
        self._name = name
        self._batched = batched
        self._max_calls = max_calls
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._waiting: deque[_Job] = deque()
        self._waiting_rows = 0
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def waiting_rows(self) -> int:
        """See `Scorer`."""
        return self._waiting_rows

    @property
    def quick_rows(self) -> int:
        """See `Scorer`."""
        return 0

    async def score(self, payload: Payload, params: Mapping[str, Any], within: float) -> Results:
        """See `Scorer`."""
        # A request on its own always gets in, or one with more rows than the bound never would.
        if self._waiting and self._waiting_rows + payload.rows > self._max_waiting_rows:
            reason = f"overloaded: more than {self._max_waiting_rows} rows wait for {self._name}"
            return [Failure("error", reason, overloaded=True)] * payload.rows
        loop = asyncio.get_running_loop()
        job = _Job(payload, params, loop.time() + within, loop.create_future())
        self._waiting.append(job)
        self._waiting_rows += payload.rows
        self._fill()
        try:
            return await asyncio.wait_for(job.future, within)
        except TimeoutError:
            return [Failure("timeout", f"no answer within {within:g} s")] * payload.rows
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
                self._waiting_rows -= payload.rows

    def _fill(self) -> None:
        while self._waiting and len(self._calls) < self._max_calls:
            task = asyncio.create_task(self._ask(self._next()))
            self._calls.add(task)
            task.add_done_callback(self._called)

    def _called(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        self._fill()

    def _next(self) -> list[_Job]:
        jobs = [self._waiting.popleft()]
        rows, first = jobs[0].payload.rows, jobs[0]
        while (
            self._waiting
            and first.joins
            and (other := self._waiting[0]).joins
            and other.payload.key == first.payload.key
            and rows + other.payload.rows <= self._max_batch_rows
        ):
            jobs.append(self._waiting.popleft())
            rows += other.payload.rows
        self._waiting_rows -= rows
        return jobs

    async def _ask(self, jobs: Sequence[_Job], *, again: bool = False) -> None:
        """Score jobs in one call, or in halves, and deliver."""
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return  # nobody waits any more
        until, payload = max(job.until for job in jobs), joined([job.payload for job in jobs])
        if len(jobs) == 1:
            _deliver(jobs[0], await self._rows(payload, jobs[0].params, until, again))
            return
        try:
            results = await self._call(payload, jobs[0].params, until, again)
        except (RefusedError, OutputError):
            half = len(jobs) // 2
            await self._ask(jobs[:half], again=True)
            await self._ask(jobs[half:], again=True)
            return
        for job, part in zip(jobs, dealt(results, [job.payload.rows for job in jobs]), strict=True):
            _deliver(job, part)

    async def _rows(self, payload: Payload, params: Mapping[str, Any], until: float, again: bool) -> Results:
        """Results of one request's rows, those that can be had."""
        try:
            return await self._call(payload, params, until, again)
        except (RefusedError, OutputError) as error:
            if payload.rows == 1:
                return [failure(OutputError(str(error)))]
        half = payload.rows // 2
        first = await self._rows(payload.take(range(half)), params, until, again=True)
        return first + await self._rows(payload.take(range(half, payload.rows)), params, until, again=True)

    async def _call(self, payload: Payload, params: Mapping[str, Any], until: float, again: bool) -> Results:
        """One call; rows that get no answer have failed.

        Raises:
            RefusedError: The server fails on some of them.
            OutputError: The answer can't be read.
        """
        late: Results = [Failure("timeout", f"no answer from {self.server.url} in time")] * payload.rows
        seconds = until - asyncio.get_running_loop().time()
        if seconds <= 0:
            return late
        self._batched(payload.rows)
        began = time.perf_counter()
        try:
            results = await self.server.score(payload, params, seconds, again=again)
            return Called(results, (time.perf_counter() - began) * 1000)
        except (RefusedError, OutputError):
            raise
        except TimeoutError:
            return late
        except UpstreamError as error:
            return [failure(OutputError(str(error)))] * payload.rows
        except Exception as error:  # whatever it is, its rows have failed, and their callers wait
            return [failure(error)] * payload.rows


def _deliver(job: _Job, results: Results) -> None:
    if not job.future.done():
        job.future.set_result(results)
