"""One request for predictions on its way through the data plane, and its answer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.follower import Serving
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.protocols import MLFLOW, Codec
from model_rollouts.gateway.records import Context
from model_rollouts.gateway.routing import Arm, Route
from model_rollouts.gateway.scorer import call_ms
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.sent_marks import Receipt


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
class Attempt:
    """What a version made of one row of a request.

    Attributes:
        index: The row.
        arm: Whose version.
        result: What it made of it.
        latency_ms: From taking the request.
        call_ms: Of that, what the version took for itself: to read the request, and for the call that the result came
            from; None: there was no such call.
    """

    index: int
    arm: Arm
    result: Answer | Failure
    latency_ms: float
    call_ms: float | None


@dataclass(slots=True)
class Request:
    """A call that was read and routed, and what came of it so far.

    Attributes:
        call: As it came.
        serving: Who serves; what is decided later does not matter to it.
        document: Its body, decoded.
        payload: Its rows, as the champion reads them.
        context: What its rows in the log have in common.
        routes: Where each row goes.
        lead_ms: From taking it to the start of scoring.
        challenger_payload: Its rows, as the challenger reads them, if it could.
        attempts: What was tried, in order.
        final: By row, the attempt that the answer is of: the champion's replaces a failed one.
    """

    call: Call
    serving: Serving
    document: Document
    payload: Payload
    context: Context
    routes: Sequence[Route]
    lead_ms: float
    challenger_payload: Payload | None = None
    attempts: list[Attempt] = field(default_factory=list)
    final: dict[int, Attempt] = field(default_factory=dict)

    def rows_of(self, arm: Arm) -> list[int]:
        """Rows that go to an arm."""
        return [index for index, way in enumerate(self.routes) if way.arm is arm]

    def take_back(self, arm: Arm) -> None:
        """Forget what was noted of an arm."""
        self.attempts = [attempt for attempt in self.attempts if attempt.arm is not arm]

    def note(
        self, arm: Arm, indices: Sequence[int], results: Sequence[Answer | Failure], reading_ms: float = 0.0
    ) -> None:
        """What a version made of rows, which it took `reading_ms` to read for it alone."""
        latency, call = elapsed_ms(self.call.taken), call_ms(results)
        if call is not None:
            call += reading_ms
        for index, result in zip(indices, results, strict=True):
            self.final[index] = attempt = Attempt(index, arm, result, latency, call)
            self.attempts.append(attempt)


def elapsed_ms(since: float) -> float:
    """Milliseconds since a `time.perf_counter()`."""
    return (time.perf_counter() - since) * 1000
