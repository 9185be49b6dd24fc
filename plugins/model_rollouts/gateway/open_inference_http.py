"""The Open Inference Protocol's routes: one request's way through the data plane, and what says who is served."""

import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import orjson
from fastapi import FastAPI, Response

from model_rollouts.gateway.answers import Answer
from model_rollouts.gateway.errors import BadRequestError, NotServingError
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.open_inference import HEADER_LENGTH, InferHeader, decode
from model_rollouts.gateway.open_inference_answers import encode
from model_rollouts.gateway.open_inference_model import Interface, model_document, server_document
from model_rollouts.gateway.scoring_protocol import Document

HEADER_LENGTH_KEY = HEADER_LENGTH.lower().encode()
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")
_JSON = "application/json"


class OpenInferenceCodec:
    """One inference request. Its `id` is the request's id in the log too, where the caller gave no header.

    Args:
        header_length: The header that announces tensors in binary form, if it was sent.
    """

    def __init__(self, header_length: str | None) -> None:
        self._header_length = header_length
        self._header = InferHeader(None, None)
        self._interface = Interface()

    @property
    def request_id(self) -> str | None:
        """The id in the body, where the log can take it."""
        found = self._header.id
        return found if found is not None and REQUEST_ID.fullmatch(found) else None

    def decode(
        self, body: bytes, content_type: str | None, version: Version, max_rows: int, max_bytes: int
    ) -> Document:
        """See `Codec`."""
        self._interface = version.interface
        document, self._header = decode(body, content_type, self._header_length, self._interface, max_rows, max_bytes)
        return document

    def problem(self, answers: Sequence[Answer]) -> str | None:
        """See `Codec`."""
        if self._header.outputs is None:
            return None
        try:
            encode(answers, "", "", "", self._header.outputs, self._interface)
        except BadRequestError as error:
            return str(error)
        records = sum(answer.json.startswith("{") for answer in answers)
        if 0 < records < len(answers):  # one tensor of both would be no number to its caller any more
            return f"{records} of {len(answers)} answers are records and the others are not"
        return None

    def encode(self, answers: Sequence[Answer], model: str, versions: str, request_id: str) -> bytes:
        """See `Codec`."""
        given_id = self._header.id or request_id
        return encode(answers, model, versions, given_id, self._header.outputs, self._interface)


def add_routes(app: FastAPI, follower: Follower) -> None:
    """Everything of the protocol that is no inference."""

    def document(model: str, version: str | None) -> Response:
        serving = follower.serving(model)
        loaded = serving.champion if version is None else follower.version(model, version)
        versions = [v.version for v in (serving.champion, serving.challenger) if v is not None]
        return _json(model_document(model, versions, loaded.interface))

    def ready(model: str, version: str | None) -> Response:
        if version is None:
            follower.serving(model)
        else:
            follower.version(model, version)
        return _json({"name": model, "ready": True})

    @app.get("/v2")
    @app.get("/v2/")
    async def server() -> Response:
        return _json(server_document(metadata.version("model-rollouts")))

    @app.get("/v2/health/live")
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready")
    async def server_ready() -> Response:
        if not follower.healthy:
            raise NotServingError("not every model is served yet")
        return _json({"ready": True})

    @app.get("/v2/models/{model}")
    async def model_metadata(model: str) -> Response:
        return document(model, None)

    @app.get("/v2/models/{model}/versions/{version}")
    async def version_metadata(model: str, version: str) -> Response:
        return document(model, version)

    @app.get("/v2/models/{model}/ready")
    async def model_ready(model: str) -> Response:
        return ready(model, None)

    @app.get("/v2/models/{model}/versions/{version}/ready")
    async def version_ready(model: str, version: str) -> Response:
        return ready(model, version)


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type=_JSON)
