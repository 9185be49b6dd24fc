"""The HTTP shell of the data plane, as bare ASGI: every prediction passes here, so nothing is done twice.

Predictions are answered here; everything else goes on to the FastAPI application (`app.py`), once its caller may.
"""

import hmac
import itertools
import re
import time
import uuid
from collections.abc import Mapping
from urllib.parse import unquote

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from model_rollouts.gateway import errors
from model_rollouts.gateway.bodies import read_body
from model_rollouts.gateway.dataplane import Call, DataPlane
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.protocols import MLFLOW, Codec
from model_rollouts.gateway.reading import unit_text
from model_rollouts.gateway.refusals import Refusal
from model_rollouts.gateway.routing import Arm
from model_rollouts.gateway.settings import GatewaySettings

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")
_OPEN = frozenset({"/ping", "/health", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
_JSON = (b"content-type", b"application/json")

_log = structlog.get_logger(__name__)


class Front:
    """The whole gateway as one ASGI application.

    Args:
        inner: Answers everything but predictions.
        plane: Answers predictions.
        follower: Knows the models.
        settings: Bounds and tokens.
    """

    def __init__(self, inner: ASGIApp, plane: DataPlane, follower: Follower, settings: GatewaySettings) -> None:
        self.inner = inner
        self._plane = plane
        self._follower = follower
        self._settings = settings
        token, tester = settings.gateway_token, settings.tester_token
        self._bearer = f"Bearer {token.get_secret_value()}".encode() if token is not None else None
        self._tester = tester.get_secret_value().encode() if tester is not None else None
        self._open_requests = 0
        self._id_prefix = uuid.uuid4().hex[:16]
        self._id_numbers = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        path = scope["path"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        is_v2 = path.startswith("/v2/")
        try:
            if self._bearer is not None and path not in _OPEN:
                self._check_bearer(headers)
            target = self._target(scope, path)
        except errors.GatewayError as error:
            await _refuse(send, Refusal(error), is_v2=is_v2)
            return
        if target is None:
            await self.inner(scope, receive, send)
            return
        await self._predict(*target, headers, receive, send)

    def _check_bearer(self, headers: Mapping[bytes, bytes]) -> None:
        assert self._bearer is not None  # noqa: S101  # for the type checker
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._bearer):
            raise errors.UnauthorizedError("send the header Authorization: Bearer <token>")

    def _target(self, scope: Scope, path: str) -> tuple[str, Codec] | None:
        """The model and the protocol of a prediction; None: it is none."""
        if scope["method"] != "POST":
            return None
        if path.endswith("/invocations"):
            if path == "/invocations":
                return self._default_model(), MLFLOW
            parts = _parts(scope)
            return (parts[1], MLFLOW) if len(parts) == 3 and parts[0] == "models" else None  # noqa: PLR2004
        return None

    def _default_model(self) -> str:
        if self._settings.default_model:
            return self._settings.default_model
        models = self._follower.models
        if len(models) != 1:
            raise errors.UnknownModelError(
                f"/invocations needs a default model, and {len(models)} are served ({', '.join(models) or 'none'}); "
                "call /models/{model}/invocations or set MODEL_ROLLOUTS_DEFAULT_MODEL"
            )
        return models[0]

    async def _predict(
        self, model: str, codec: Codec, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        taken, taken_us = time.perf_counter(), time.time_ns() // 1000
        request_id = ""
        self._open_requests += 1
        try:
            request_id = self._request_id(headers.get(b"x-request-id"))
            if self._open_requests > self._settings.max_open_requests:
                raise errors.OverloadedError(
                    f"{self._open_requests} requests are open, must be at most {self._settings.max_open_requests}"
                )
            unit, arm = _unit(headers.get(b"x-unit-id")), self._arm(headers)
            body = await read_body(receive, self._settings.max_body_bytes)
            content_type = headers.get(b"content-type")
            kind = content_type.decode("latin-1") if content_type is not None else None
            reply = await self._plane.invoke(Call(model, body, kind, request_id, unit, taken, taken_us, codec, arm))
        except Exception as error:
            if not isinstance(error, errors.GatewayError):
                _log.error("request_failed", model=model, request_id=request_id, exc_info=error)
            refusal = Refusal(error)
            if request_id:
                refusal.headers["X-Request-Id"] = request_id
            await _refuse(send, refusal, is_v2=codec is not MLFLOW)
            return
        finally:
            self._open_requests -= 1
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                _JSON,
                (b"content-length", str(len(reply.body)).encode()),
                (b"x-request-id", request_id.encode()),
                (b"x-model-version", reply.versions.encode()),
            ],
        }
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})

    def _request_id(self, value: bytes | None) -> str:
        if not value:
            return f"{self._id_prefix}{next(self._id_numbers):016x}"
        text = value.decode("latin-1")
        if not _REQUEST_ID.fullmatch(text):
            raise errors.BadRequestError(
                f"X-Request-Id is {text[:80]!r}, must be 1 to 200 visible ASCII characters without blanks"
            )
        return text

    def _arm(self, headers: Mapping[bytes, bytes]) -> Arm | None:
        """The arm that a tester asks for."""
        wanted = headers.get(b"x-rollouts-route")
        if wanted is None:
            return None
        given = headers.get(b"x-rollouts-token", b"")
        if self._tester is None or not hmac.compare_digest(given, self._tester):
            raise errors.UnauthorizedError(
                "X-Rollouts-Route is for testers: send X-Rollouts-Token with MODEL_ROLLOUTS_TESTER_TOKEN, or leave it out"
            )
        try:
            return Arm(wanted.decode("latin-1"))
        except ValueError as error:
            arms = ", ".join(Arm)
            raise errors.BadRequestError(f"X-Rollouts-Route is {wanted[:80]!r}, must be one of {arms}") from error


def _parts(scope: Scope) -> list[str]:
    """The path's parts; a quoted slash is a part's own."""
    raw = scope.get("raw_path") or scope["path"].encode()
    return [unquote(part) for part in raw.split(b"?")[0].decode("latin-1").split("/")[1:]]


def _unit(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        text = value.decode()  # headers are bytes; the same unit in a column is UTF-8
    except UnicodeDecodeError as error:
        raise errors.BadRequestError("X-Unit-Id must be text in UTF-8") from error
    return unit_text(text.strip(), "header X-Unit-Id")


async def _refuse(send: Send, refusal: Refusal, *, is_v2: bool) -> None:
    body = refusal.open_inference_body() if is_v2 else refusal.mlflow_body()
    extra = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    headers = [_JSON, (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
