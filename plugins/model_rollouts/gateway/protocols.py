"""What a request may be written in: from a body to a document, from answers to a body."""

from collections.abc import Sequence
from typing import Protocol

from model_rollouts.gateway.answers import Answer, body
from model_rollouts.gateway.loading import Version
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

    def encode(self, answers: Sequence[Answer], model: str, versions: str, request_id: str) -> bytes:
        """The response to the request that was decoded before.

        Args:
            answers: One a row, in order.
            model: Registered model name.
            versions: Those that answered, comma-separated.
            request_id: The request's.
        """


class MlflowCodec:
    """As `mlflow models serve` has it."""

    request_id = None

    def decode(
        self, body: bytes, content_type: str | None, version: Version, max_rows: int, max_bytes: int
    ) -> Document:
        """See `Codec`."""
        return decode(body, content_type, max_rows, max_bytes)

    def encode(self, answers: Sequence[Answer], model: str, versions: str, request_id: str) -> bytes:
        """See `Codec`."""
        return body(answers)


MLFLOW = MlflowCodec()
