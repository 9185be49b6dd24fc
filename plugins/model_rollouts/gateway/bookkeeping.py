"""What is done with a request once its rows are answered, or failed: the log, the counts, the breaker, the mirror."""

from typing import Any

from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.calls import Attempt, Request
from model_rollouts.gateway.metrics import Recorder
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.mirror_scoring import Mirrored
from model_rollouts.gateway.records import record
from model_rollouts.gateway.routing import Arm
from model_rollouts.gateway.sent_marks import Receipt
from model_rollouts.gateway.spool import Spool


class Bookkeeper:
    """Tells everybody who has to know.

    Args:
        spool: The way to the log.
        mirror: Takes what another version is to score too.
        breakers: Weigh the challengers' failures.
        recorder: Counts what was scored.
    """

    def __init__(self, spool: Spool, mirror: Mirror, breakers: Breakers, recorder: Recorder) -> None:
        self._spool = spool
        self._mirror = mirror
        self._breakers = breakers
        self._recorder = recorder

    def log(self, request: Request, *, answered: bool) -> Receipt | None:
        """Put its rows where they survive the process.

        Raises:
            LogUnavailableError: They can't be; see `Spool.append`.
        """
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

    def _count(self, request: Request, attempt: Attempt, *, served: bool) -> None:
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

    def weigh(self, request: Request) -> None:
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

    def offer(self, request: Request) -> None:
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
                        _around_ms(request, indices[0]),
                        request.call.codec,
                    )
                )


def _around_ms(request: Request, index: int) -> float:
    """What the caller waited besides what the version that answered took for itself; see `Mirrored`."""
    answered = request.final[index]
    return request.lead_ms if answered.call_ms is None else answered.latency_ms - answered.call_ms
