"""A request's way: read, route, score, log, answer. Knows no HTTP.

What can't be logged is not answered, and a challenger's failure is answered by the champion in the same request.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from model_rollouts.gateway.answers import Answer, Failure, body, failure
from model_rollouts.gateway.errors import (
    OverloadedError,
    PredictionError,
    PredictionTimeoutError,
)
from model_rollouts.gateway.follower import Follower, Serving
from model_rollouts.gateway.inputs import Inputs, off_loop
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.mirror import Mirror, Mirrored
from model_rollouts.gateway.outcomes import read_outcomes
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.records import Context, record
from model_rollouts.gateway.routing import Arm, Route, route
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import Spool


@dataclass(frozen=True, slots=True)
class Call:
    """One request for predictions.

    Attributes:
        model: Registered model name.
        body: As sent.
        content_type: Of the body.
        request_id: The caller's, or made up.
        unit: Who it is for, when the caller says so for the whole request.
        taken: `time.perf_counter()` when it came.
        taken_us: When it came: microseconds since 1970, UTC.
    """

    model: str
    body: bytes
    content_type: str | None
    request_id: str
    unit: str | None
    taken: float
    taken_us: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a call.

    Attributes:
        body: JSON, as MLflow's server writes it.
        versions: The versions that answered, comma-separated.
    """

    body: bytes
    versions: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    index: int
    arm: Arm
    result: Answer | Failure
    latency_ms: float


@dataclass(slots=True)
class _Request:
    """A request that was read and routed."""

    call: Call
    serving: Serving
    document: Document
    payload: Payload
    context: Context
    routes: tuple[Route, ...]
    lead_ms: float
    challenger_payload: Payload | None = None
    attempts: list[_Attempt] = field(default_factory=list)

    def rows_of(self, arm: Arm) -> list[int]:
        return [index for index, way in enumerate(self.routes) if way.arm is arm]


class DataPlane:
    """Answers calls.

    Args:
        follower: Who serves what.
        spool: The way to the log.
        mirror: Takes what another version is to score too.
        settings: Bounds and timeouts.
    """

    def __init__(self, follower: Follower, spool: Spool, mirror: Mirror, settings: GatewaySettings) -> None:
        self._follower = follower
        self._spool = spool
        self._mirror = mirror
        self._settings = settings
        self._inputs = Inputs(settings)

    async def invoke(self, call: Call) -> Reply:
        """Answer one request. When this returns, its rows are where they survive the process.

        Raises:
            GatewayError: There is no answer. A bad request leaves no rows; a failed prediction leaves its rows.
        """
        serving = self._follower.serving(call.model)
        self._spool.check()
        request = await self._read(call, serving)
        await asyncio.gather(
            self._ask_champion(request, request.rows_of(Arm.CHAMPION)),
            self._ask_challenger(request, request.rows_of(Arm.CHALLENGER)),
        )
        final = {attempt.index: attempt for attempt in request.attempts}  # the champion's answer replaces the failed
        answers = [final[i].result for i in range(len(request.routes))]
        given = [answer for answer in answers if isinstance(answer, Answer)]
        answered = len(given) == len(answers)
        self._log(request, final, answered=answered)
        self._offer(request, final)
        if not answered:
            raise _refusal(request.serving, answers)
        arms = {attempt.arm for attempt in final.values()}
        versions = [v for arm, v in _by_arm(serving).items() if arm in arms]
        return Reply(body(given), ",".join(versions))

    async def take_outcomes(self, model: str, content: bytes) -> int:
        """Take outcomes into the log; how many there were.

        Raises:
            GatewayError: None of them was taken.
        """
        self._follower.knows(model)
        now = datetime.now(UTC)
        rows = await off_loop(len(content), read_outcomes, content, self._settings.max_rows, now)
        self._spool.append(model, "outcomes", rows)
        return len(rows)

    async def _read(self, call: Call, serving: Serving) -> _Request:
        """Check the request against the champion's signature: what callers may send must not depend on the arm."""
        arguments = (serving.champion, call.body, call.content_type)
        document, reading = await off_loop(len(call.body), self._inputs.parse, *arguments)
        count = reading.payload.rows
        ids = (call.request_id,) if count == 1 else tuple(f"{call.request_id}:{i}" for i in range(count))
        units = reading.units if call.unit is None else (call.unit,) * count
        ready = serving.challenger is not None
        routes = tuple(
            route(serving.traffic, unit, row_id, challenger_ready=ready)
            for unit, row_id in zip(units, ids, strict=True)
        )
        context = Context(
            gateway_id=self._settings.gateway_id,
            traffic=serving.traffic,
            taken_us=call.taken_us,
            request_ids=ids,
            units=units,
        )
        return _Request(call, serving, document, reading.payload, context, routes, _elapsed_ms(call.taken))

    async def _ask_champion(self, request: _Request, indices: Sequence[int]) -> None:
        if not indices:
            return
        timeout = self._settings.champion_timeout_seconds
        results = await request.serving.champion.scorer.score(
            request.payload.take(indices), request.document.params, timeout
        )
        self._note(request, Arm.CHAMPION, indices, results)

    async def _ask_challenger(self, request: _Request, indices: Sequence[int]) -> None:
        challenger = request.serving.challenger
        if not indices or challenger is None:
            return
        timeout = self._settings.challenger_timeout_seconds
        results: Results
        try:
            payload = await self._read_again(request, challenger)
            results = await challenger.scorer.score(payload.take(indices), request.document.params, timeout)
        except Exception as error:  # good for the champion, so whatever it is, it is the challenger that fails
            results = [failure(error)] * len(indices)
        else:
            request.challenger_payload = payload
        self._note(request, Arm.CHALLENGER, indices, results)
        failed = [a.index for a in request.attempts if a.arm is Arm.CHALLENGER and isinstance(a.result, Failure)]
        await self._ask_champion(request, failed)

    async def _read_again(self, request: _Request, challenger: Version) -> Payload:
        """The rows as the challenger's signature has them."""
        if challenger.reader == request.serving.champion.reader:
            return request.payload
        arguments = (challenger, request.document, request.payload.rows)
        payload: Payload = await off_loop(len(request.call.body), self._inputs.again, *arguments)
        return payload

    def _note(self, request: _Request, arm: Arm, indices: Sequence[int], results: Sequence[Answer | Failure]) -> None:
        latency = _elapsed_ms(request.call.taken)
        request.attempts += [_Attempt(i, arm, result, latency) for i, result in zip(indices, results, strict=True)]

    def _log(self, request: _Request, final: dict[int, _Attempt], *, answered: bool) -> None:
        rows = []
        for attempt in request.attempts:
            payload = request.challenger_payload if attempt.arm is Arm.CHALLENGER else request.payload
            rows.append(
                record(
                    request.context,
                    attempt.index,
                    attempt.arm,
                    request.routes[attempt.index].cohort,
                    attempt.result,
                    attempt.latency_ms,
                    served=answered and attempt is final[attempt.index],
                    features=None if payload is None else (payload, attempt.index),
                )
            )
        self._spool.append(request.call.model, "predictions", rows)

    def _offer(self, request: _Request, final: dict[int, _Attempt]) -> None:
        """Have the other version score the rows that it is to score too, but for those that it has answered already."""
        ways = list(enumerate(request.routes))
        control = tuple(i for i, way in ways if way.control and final[i].arm is Arm.CHALLENGER)
        shadow = tuple(i for i, way in ways if way.mirror)
        for arm, indices in ((Arm.CHAMPION, control), (Arm.CHALLENGER, shadow)):
            if indices:
                self._mirror.offer(
                    Mirrored(
                        request.context,
                        request.serving,
                        arm,
                        indices,
                        request.document,
                        request.payload,
                        len(request.call.body),
                        request.lead_ms,
                    )
                )


def _by_arm(serving: Serving) -> dict[Arm, str]:
    versions = {Arm.CHAMPION: serving.champion.version}
    if serving.challenger is not None:
        versions[Arm.CHALLENGER] = serving.challenger.version
    return versions


def _refusal(serving: Serving, answers: Sequence[Answer | Failure]) -> Exception:
    """What to tell the caller when the champion failed on a row."""
    failures = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Failure)]
    index, first = failures[0]
    who = f"version {serving.champion.version} of {serving.traffic.model}"
    where = f"row {index} ({len(failures)} of {len(answers)} rows failed)"
    if first.overloaded:
        return OverloadedError(f"{who} can't take {where}: {first.error}; try again")
    if first.status == "timeout":
        return PredictionTimeoutError(f"{who} did not answer {where}: {first.error}")
    return PredictionError(f"{who} failed on {where}: {first.error}")


def _elapsed_ms(since: float) -> float:
    return (time.perf_counter() - since) * 1000
