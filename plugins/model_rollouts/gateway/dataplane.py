"""A request's way: read, route, score, log, answer. Knows no HTTP.

What can't be logged is not answered, and a challenger's failure is answered by the champion in the same request.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from model_rollouts.gateway.answers import Answer, Failure, failure
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.errors import (
    OverloadedError,
    PredictionError,
    PredictionTimeoutError,
    UnauthorizedError,
    VersionNotLoadedError,
)
from model_rollouts.gateway.follower import Follower, Serving
from model_rollouts.gateway.inputs import Inputs, off_loop, weight
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.metrics import Recorder
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.mirror_scoring import Mirrored
from model_rollouts.gateway.outcomes import read_outcomes
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.privacy import Privacy
from model_rollouts.gateway.protocols import MLFLOW, Codec
from model_rollouts.gateway.records import Context, record
from model_rollouts.gateway.routing import Arm, Route, asked_for, route
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.sent_marks import Receipt
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import Spool


@dataclass(slots=True)
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
        codec: What the body is written in, and the answer is to be.
        version: The version that the caller insists on.
        arm: The arm that a tester asks for. A request with a wish is no evidence.
        tester: Whether the caller has shown to be one.
        names_itself: Whether the id is the caller's.
    """

    model: str
    body: bytes
    content_type: str | None
    request_id: str
    unit: str | None
    taken: float
    taken_us: int
    codec: Codec = MLFLOW
    version: str | None = None
    arm: Arm | None = None
    tester: bool = False
    names_itself: bool = False


@dataclass(slots=True)
class Reply:
    """The answer to a call.

    Attributes:
        body: As the call's codec writes it.
        versions: The versions that answered, comma-separated.
        receipt: To be told when it has gone out; None: it is not logged.
    """

    body: bytes
    versions: str
    receipt: Receipt | None


@dataclass(slots=True)
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
    routes: Sequence[Route]
    lead_ms: float
    challenger_payload: Payload | None = None
    attempts: list[_Attempt] = field(default_factory=list)
    final: dict[int, _Attempt] = field(default_factory=dict)  # by row: the champion's answer replaces a failed one

    def rows_of(self, arm: Arm) -> list[int]:
        return [index for index, way in enumerate(self.routes) if way.arm is arm]

    def note(self, arm: Arm, indices: Sequence[int], results: Sequence[Answer | Failure]) -> None:
        """What a version made of rows."""
        latency = _elapsed_ms(self.call.taken)
        for index, result in zip(indices, results, strict=True):
            self.final[index] = attempt = _Attempt(index, arm, result, latency)
            self.attempts.append(attempt)


class DataPlane:
    """Answers calls.

    Args:
        follower: Who serves what.
        spool: The way to the log.
        mirror: Takes what another version is to score too.
        breakers: Says which challengers are out.
        recorder: Counts what was scored.
        settings: Bounds and timeouts.
    """

    def __init__(
        self,
        follower: Follower,
        spool: Spool,
        mirror: Mirror,
        breakers: Breakers,
        recorder: Recorder,
        settings: GatewaySettings,
    ) -> None:
        self._follower = follower
        self._spool = spool
        self._mirror = mirror
        self._breakers = breakers
        self._recorder = recorder
        self._gateway_id = settings.gateway_id
        self._champion_seconds = settings.champion_timeout_seconds
        self._challenger_seconds = settings.challenger_timeout_seconds
        self._max_rows = settings.max_rows
        self._inputs = Inputs(settings)
        self._privacy = Privacy.of(settings)

    async def invoke(self, call: Call) -> Reply:
        """Answer one request. When this returns, its rows are where they survive the process.

        Raises:
            GatewayError: There is no answer. A bad request leaves no rows; a failed prediction leaves its rows.
        """
        serving = self._follower.serving(call.model)
        self._spool.check()
        request = await self._read(call, serving)
        challenger = request.rows_of(Arm.CHALLENGER)
        if not challenger:
            await self._ask_champion(request, range(len(request.routes)))
        elif len(challenger) == len(request.routes):
            await self._ask_challenger(request, challenger)
        else:
            champion = request.rows_of(Arm.CHAMPION)
            await asyncio.gather(self._ask_champion(request, champion), self._ask_challenger(request, challenger))
        final = request.final
        answers = [final[i].result for i in range(len(request.routes))]
        given = [answer for answer in answers if isinstance(answer, Answer)]
        answered = len(given) == len(answers)
        versions = _versions(request) if challenger else serving.champion.version
        body = call.codec.encode(given, call.model, versions, call.request_id) if answered else b""
        receipt = self._log(request, answered=answered)
        if challenger:
            self._weigh(request)
        if serving.challenger is not None:
            self._offer(request)
        if not answered:
            raise _refusal(serving, answers)
        return Reply(body, versions, receipt)

    async def take_outcomes(self, model: str, content: bytes) -> int:
        """Take outcomes into the log; how many there were.

        Raises:
            GatewayError: None of them was taken.
        """
        self._follower.knows(model)
        now = datetime.now(UTC)
        rows = await off_loop(len(content), read_outcomes, content, self._max_rows, now)
        self._spool.append(model, "outcomes", rows)
        return len(rows)

    async def _read(self, call: Call, serving: Serving) -> _Request:
        """Check the request against the champion's signature: what callers may send must not depend on the arm."""
        arguments = (serving.champion, call.body, call.content_type, call.codec)
        document, reading = await off_loop(weight(call.body, call.content_type), self._inputs.parse, *arguments)
        if call.codec.request_id is not None and not call.names_itself:
            call.request_id = call.codec.request_id
        count = reading.payload.rows
        ids = (call.request_id,) if count == 1 else tuple(f"{call.request_id}:{i}" for i in range(count))
        units = reading.units if call.unit is None else (call.unit,) * count
        context = Context(self._gateway_id, serving.traffic, call.taken_us, ids, units, self._privacy)
        routes = self._routes(call, serving, ids, units)
        return _Request(call, serving, document, reading.payload, context, routes, _elapsed_ms(call.taken))

    def _routes(self, call: Call, serving: Serving, ids: Sequence[str], units: Sequence[str | None]) -> Sequence[Route]:
        traffic = serving.traffic
        ready = serving.challenger is not None and not self._breakers.tripped(traffic.rollout_id)
        wish = call.arm if call.version is None else _arm_of_version(call, serving)
        if wish is not None:
            if wish is Arm.CHALLENGER and not ready:
                raise VersionNotLoadedError(f"no challenger of {call.model} is ready; ask for the champion")
            return [asked_for(wish)] * len(ids)
        return [route(traffic, unit, row, challenger_ready=ready) for unit, row in zip(units, ids, strict=True)]

    async def _ask_champion(self, request: _Request, indices: Sequence[int]) -> None:
        if not indices:
            return
        payload = request.payload if len(indices) == request.payload.rows else request.payload.take(indices)
        champion = request.serving.champion
        results = await champion.scorer.score(payload, request.document.params, self._champion_seconds)
        request.note(Arm.CHAMPION, indices, results)

    async def _ask_challenger(self, request: _Request, indices: Sequence[int]) -> None:
        challenger = request.serving.challenger
        if challenger is None:
            raise AssertionError("rows are routed to a challenger that is there alone")
        results: Results
        try:
            payload = await self._read_again(request, challenger)
            asked = payload if len(indices) == payload.rows else payload.take(indices)
            results = await challenger.scorer.score(asked, request.document.params, self._challenger_seconds)
        except Exception as error:  # good for the champion, so whatever it is, it is the challenger that fails
            results = [failure(error)] * len(indices)
        else:
            request.challenger_payload = payload
        request.note(Arm.CHALLENGER, indices, results)
        await self._ask_champion(request, [i for i, r in zip(indices, results, strict=True) if isinstance(r, Failure)])

    async def _read_again(self, request: _Request, challenger: Version) -> Payload:
        """The rows as the challenger's signature has them."""
        if challenger.reader == request.serving.champion.reader:
            return request.payload
        arguments = (challenger, request.document, request.payload.rows)
        payload: Payload = await off_loop(
            weight(request.call.body, request.call.content_type), self._inputs.again, *arguments
        )
        return payload

    def _log(self, request: _Request, *, answered: bool) -> Receipt | None:
        rows: list[dict[str, Any]] = []
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
                    served=answered and attempt is request.final[attempt.index],
                    features=None if payload is None else (payload, attempt.index),
                )
            )
            self._count(request, attempt, served=rows[-1]["served"])
        receipt = self._spool.append(request.call.model, "predictions", rows)
        if receipt is not None and not answered:
            receipt.sent()  # that there is no answer is what the rows say
        return receipt

    def _count(self, request: _Request, attempt: _Attempt, *, served: bool) -> None:
        model, result = request.call.model, attempt.result
        serving = request.serving
        loaded = serving.challenger if attempt.arm is Arm.CHALLENGER else serving.champion
        version = loaded.version if loaded is not None else ""
        status = result.status if isinstance(result, Failure) else "ok"
        self._recorder.count(model, version, attempt.arm, status, attempt.latency_ms, served=served)
        if isinstance(result, Failure):
            if result.overloaded:
                self._recorder.overloaded(model, version, 1)
            if attempt.arm is Arm.CHALLENGER:
                self._recorder.fallback(model, version, 1)

    def _weigh(self, request: _Request) -> None:
        """Let the breaker know what came of the challenger, but for what says nothing about it.

        That is: rows that the champion failed on, too, those that are no evidence, and those that were not asked
        because too many waited. A request counts once, however many rows it has, and only if all went the same way.
        """
        weighed = [
            attempt.result
            for attempt in request.attempts
            if attempt.arm is Arm.CHALLENGER
            and request.routes[attempt.index].cohort is not None
            and isinstance(request.final[attempt.index].result, Answer)
        ]
        failures = [result for result in weighed if isinstance(result, Failure)]
        if not weighed or len(failures) not in (0, len(weighed)):
            return
        if not failures:
            self._breakers.saw(request.serving.traffic, request.call.taken)
        elif failures[0].status == "timeout" or not failures[0].overloaded:
            self._breakers.saw(request.serving.traffic, request.call.taken, failures[0])

    def _offer(self, request: _Request) -> None:
        """Have the other version score the rows that it is to score too, but for those that it has answered already."""
        control: list[int] = []
        shadow: list[int] = []
        for index, way in enumerate(request.routes):
            if way.mirror:
                shadow.append(index)
            elif way.control and request.final[index].arm is Arm.CHALLENGER:
                control.append(index)
        for arm, indices in ((Arm.CHAMPION, control), (Arm.CHALLENGER, shadow)):
            if indices:
                self._mirror.offer(
                    Mirrored(
                        request.context,
                        request.serving,
                        arm,
                        tuple(indices),
                        request.document,
                        request.payload,
                        len(request.call.body),
                        request.lead_ms,
                    )
                )


def _arm_of_version(call: Call, serving: Serving) -> Arm:
    """The arm of the version that the caller insists on; the challenger's is dealt by the traffic, but to testers."""
    if call.version == serving.champion.version:
        return Arm.CHAMPION
    if call.version != serving.traffic.challenger:
        raise VersionNotLoadedError(
            f"version {str(call.version)[:80]} of {call.model} does not serve; version {serving.champion.version} does"
        )
    if not call.tester:
        raise UnauthorizedError(
            f"version {call.version} of {call.model} is a challenger, which callers do not choose: leave the version "
            "out, or send MODEL_ROLLOUTS_TESTER_TOKEN as X-Rollouts-Token"
        )
    return Arm.CHALLENGER


def _versions(request: _Request) -> str:
    """The versions that the answers are of."""
    serving, arms = request.serving, {attempt.arm for attempt in request.final.values()}
    named = [serving.champion.version] if Arm.CHAMPION in arms else []
    if Arm.CHALLENGER in arms and serving.challenger is not None:
        named.append(serving.challenger.version)
    return ",".join(named)


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
