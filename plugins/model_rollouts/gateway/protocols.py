"""What a request may be written in: from a body to a document, from answers to a body."""

from collections.abc import Sequence
from typing import Protocol

from model_rollouts.gateway.answers import Answer, Failure, body
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.scoring_protocol import Document, decode


class Codec(Protocol):
    """One protocol's way with one request."""

    @property
    def request_id(self) -> str | None:
        """The request's id, where the body that was decoded has one."""

    def decode(
        self, body: bytes, content_type: str | None, version: Version, max_rows: int, max_bytes: int
    ) -> Document:
        """The request.

        Args:
            body: As sent.
            content_type: Of the body.
            version: The champion, by whose signature it is read.
            max_rows: Most rows.
            max_bytes: Largest body.

        Raises:
            GatewayError: It is none; says where.
        """

    def problem(self, answers: Sequence[Answer]) -> str | None:
        """Why answers are none to the request that was decoded before; None: they are.

        Args:
            answers: Of some of its rows, at least one.
        """

    def encode(self, answers: Sequence[Answer], model: str, versions: str, request_id: str) -> bytes:
        """The response to the request that was decoded before.

        Args:
            answers: One a row, in order.
            model: Registered model name.
            versions: Those that answered, comma-separated.
            request_id: The request's.

        Raises:
            GatewayError: They are no answers to it; see `problem`.
        """


def fitting(codec: Codec, results: Results) -> Results:
    """A challenger's results, unless what it answers lacks what is asked for: then they are failures."""
    answers = [result for result in results if isinstance(result, Answer)]
    problem = codec.problem(answers) if answers else None
    if problem is None:
        return results
    return [Failure("error", problem) if isinstance(result, Answer) else result for result in results]


class MlflowCodec:
    """As `mlflow models serve` has it."""

    request_id = None

    def decode(
        self, body: bytes, content_type: str | None, version: Version, max_rows: int, max_bytes: int
    ) -> Document:
        """See `Codec`."""
        return decode(body, content_type, max_rows, max_bytes)

    def problem(self, answers: Sequence[Answer]) -> str | None:
        """See `Codec`; whatever a version answers is passed on."""
        return None

    def encode(self, answers: Sequence[Answer], model: str, versions: str, request_id: str) -> bytes:
        """See `Codec`."""
        return body(answers)


MLFLOW = MlflowCodec()
