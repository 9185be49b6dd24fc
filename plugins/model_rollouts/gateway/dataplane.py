"""A request's way: read, route, score, log, answer. Knows no HTTP.

What can't be logged is not answered, and a challenger's failure is answered by the champion in the same request.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from model_rollouts.gateway.answers import Answer, Failure, failure
from model_rollouts.gateway.bookkeeping import Bookkeeper
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.calls import Call, Reply, Request, elapsed_ms
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
from model_rollouts.gateway.outcomes import read_outcomes
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.privacy import Privacy
from model_rollouts.gateway.protocols import fitting
from model_rollouts.gateway.records import Context
from model_rollouts.gateway.routing import Arm, Route, asked_for, route
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import Spool


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
        self._breakers = breakers
        self._books = Bookkeeper(spool, mirror, breakers, recorder)
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
            await self._bring_together(request, challenger)
        final = request.final
        answers = [final[i].result for i in range(len(request.routes))]
        given = [answer for answer in answers if isinstance(answer, Answer)]
        answered = len(given) == len(answers)
        versions = _versions(request) if challenger else serving.champion.version
        body = call.codec.encode(given, call.model, versions, call.request_id) if answered else b""
        receipt = self._books.log(request, answered=answered)
        if challenger:
            self._books.weigh(request)
        if serving.challenger is not None:
            self._books.offer(request)
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

    async def _read(self, call: Call, serving: Serving) -> Request:
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
        return Request(call, serving, document, reading.payload, context, routes, elapsed_ms(call.taken))

    def _routes(self, call: Call, serving: Serving, ids: Sequence[str], units: Sequence[str | None]) -> Sequence[Route]:
        traffic = serving.traffic
        ready = serving.challenger is not None and not self._breakers.tripped(traffic.rollout_id)
        wish = call.arm if call.version is None else _arm_of_version(call, serving)
        if wish is not None:
            if wish is Arm.CHALLENGER and not ready:
                raise VersionNotLoadedError(f"no challenger of {call.model} is ready; ask for the champion")
            return [asked_for(wish)] * len(ids)
        return [route(traffic, unit, row, challenger_ready=ready) for unit, row in zip(units, ids, strict=True)]

    async def _ask_champion(self, request: Request, indices: Sequence[int]) -> None:
        if not indices:
            return
        payload = request.payload if len(indices) == request.payload.rows else request.payload.take(indices)
        champion = request.serving.champion
        results = await champion.scorer.score(payload, request.document.params, self._champion_seconds)
        request.note(Arm.CHAMPION, indices, results)

    async def _ask_challenger(self, request: Request, indices: Sequence[int]) -> None:
        challenger = request.serving.challenger
        if challenger is None:
            raise AssertionError("rows are routed to a challenger that is there alone")
        results: Results
        began = time.perf_counter()
        reading_ms = 0.0
        try:
            payload = await self._read_again(request, challenger)
            reading_ms = elapsed_ms(began)
            asked = payload if len(indices) == payload.rows else payload.take(indices)
            results = await challenger.scorer.score(asked, request.document.params, self._challenger_seconds)
        except Exception as error:  # good for the champion, so whatever it is, it is the challenger that fails
            results = [failure(error)] * len(indices)
        else:
            request.challenger_payload = payload
            results = fitting(request.call.codec, results)
        request.note(Arm.CHALLENGER, indices, results, reading_ms)
        await self._ask_champion(request, [i for i, r in zip(indices, results, strict=True) if isinstance(r, Failure)])

    async def _bring_together(self, request: Request, challengers: Sequence[int]) -> None:
        """Where the two versions' answers can't stand in one response, the challenger's are failures."""
        answers = [attempt.result for attempt in request.final.values() if isinstance(attempt.result, Answer)]
        problem = request.call.codec.problem(answers) if len(answers) == len(request.routes) else None
        if problem is not None:
            request.take_back(Arm.CHALLENGER)
            problem = f"beside the champion's answers: {problem}"
            request.note(Arm.CHALLENGER, challengers, [Failure("error", problem)] * len(challengers))
            await self._ask_champion(request, challengers)

    async def _read_again(self, request: Request, challenger: Version) -> Payload:
        """The rows as the challenger's signature has them."""
        if challenger.reader == request.serving.champion.reader:
            return request.payload
        arguments = (challenger, request.document, request.payload.rows)
        payload: Payload = await off_loop(
            weight(request.call.body, request.call.content_type), self._inputs.again, *arguments
        )
        return payload


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
            "out, or send a tester's token as X-Rollouts-Token"
        )
    return Arm.CHALLENGER


def _versions(request: Request) -> str:
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
