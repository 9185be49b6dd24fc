"""From a request's body to rows for one version, within the process's bounds; also a second time, for another one."""

import asyncio
from typing import Any

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.protocols import MLFLOW, Codec
from model_rollouts.gateway.reading import Reading
from model_rollouts.gateway.scoring_protocol import Document, is_packed
from model_rollouts.gateway.settings import GatewaySettings

_INLINE_BYTES = 65_536  # a larger body is read in a thread, so that it does not hold up everybody else


class Inputs:
    """Reads requests.

    Args:
        settings: Bounds, and the columns that name units.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings

    def parse(
        self,
        version: Version,
        body: bytes,
        content_type: str | None,
        codec: Codec = MLFLOW,
        max_rows: int | None = None,
    ) -> tuple[Document, Reading]:
        """Decode a body and check it against a version's signature.

        Args:
            version: Who is to score it.
            body: As sent.
            content_type: Of the body.
            codec: What it is written in.
            max_rows: Most rows; None: as the settings have it.

        Raises:
            GatewayError: It does not fit the protocol or the signature; says where.
        """
        rows = self._settings.max_rows if max_rows is None else max_rows
        document = codec.decode(body, content_type, version, rows, self._settings.max_body_bytes)
        version.check_params(document.params)
        return document, version.reader.read(document, self._settings.unit_columns.get(version.model), rows)

    def again(self, version: Version, document: Document, rows: int) -> Payload:
        """The rows of a request, which another version has read before, as this one has them.

        Args:
            version: Who is to score them.
            document: The decoded body.
            rows: How many the other version read.

        Raises:
            BadRequestError: They do not fit this version.
        """
        version.check_params(document.params)
        column = self._settings.unit_columns.get(version.model)
        payload = version.reader.read(document, column, self._settings.max_rows).payload
        if payload.rows != rows:
            text = f"it reads {payload.rows} rows, the champion {rows}"
            raise BadRequestError(text, text)
        return payload


def weight(body: bytes, content_type: str | None) -> int:
    """The size of a body for `off_loop`: what is packed is large, however few its bytes.

    Args:
        body: As sent.
        content_type: Of the body.
    """
    return max(len(body), _INLINE_BYTES + 1) if is_packed(content_type) else len(body)


async def off_loop(size: int, function: Any, *arguments: Any) -> Any:
    """Call it here when the body is small, in a thread when it is large.

    Args:
        size: Bytes of the body, or its `weight`.
        function: What to call.
        arguments: With what.
    """
    return function(*arguments) if size <= _INLINE_BYTES else await asyncio.to_thread(function, *arguments)
