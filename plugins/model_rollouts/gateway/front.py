"""The HTTP shell of the data plane, as bare ASGI: every prediction passes here, so nothing is done twice.

Predictions are answered here; everything else goes on to the FastAPI application (`app.py`), once its caller may.
"""

import itertools
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from model_rollouts.gateway import errors
from model_rollouts.gateway.bodies import Bodies
from model_rollouts.gateway.callers import OPEN, Callers, roles_for
from model_rollouts.gateway.calls import Call
from model_rollouts.gateway.dataplane import DataPlane
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.metrics import Recorder
from model_rollouts.gateway.one_write import answer
from model_rollouts.gateway.open_inference_http import HEADER_LENGTH_KEY, REQUEST_ID, OpenInferenceCodec
from model_rollouts.gateway.protocols import MLFLOW, Codec
from model_rollouts.gateway.reading import unit_text
from model_rollouts.gateway.refusals import Refusal
from model_rollouts.gateway.routing import Arm
from model_rollouts.gateway.settings import GatewaySettings

_JSON = (b"content-type", b"application/json")
_OK = 200
_KNOWN_PATHS = 256  # callers may send any

_log = structlog.get_logger(__name__)


class Front:
    """The whole gateway as one ASGI application.

    Args:
        inner: Answers everything but predictions.
        plane: Answers predictions.
        follower: Knows the models.
        recorder: Counts answers by their code.
        settings: Bounds.
        callers: Who may call.
    """

    def __init__(
        self,
        inner: ASGIApp,
        plane: DataPlane,
        follower: Follower,
        recorder: Recorder,
        settings: GatewaySettings,
        callers: Callers,
    ) -> None:
        self.inner = inner
        self._plane = plane
        self._follower = follower
        self._recorder = recorder
        self._settings = settings
        self._callers = callers
        self._bodies = Bodies(settings.max_body_bytes)
        self._open_requests = 0
        self._targets: dict[bytes, _Target] = {}  # by the path as it was sent
        self._id_prefix = uuid.uuid4().hex[:16]
        self._id_numbers = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        path = scope["path"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        is_v2 = path.startswith("/v2")
        try:
            is_closed = self._callers.guarded and path not in OPEN
            caller = self._callers.known(headers.get(b"authorization")) if is_closed else None
            target = self._target(scope, path, headers)
            if caller is not None:
                self._callers.allow(caller, roles_for(scope["method"], path, predicts=target is not None))
            if target is not None and not target.model:
                target = replace(target, model=self._default_model())
        except errors.GatewayError as error:
            await _refuse(scope, send, Refusal(error), is_v2=is_v2)
            return
        if target is None:
            await self.inner(scope, receive, send)
            return
        await self._predict(target, headers, scope, receive, send)

    def _target(self, scope: Scope, path: str, headers: Mapping[bytes, bytes]) -> "_Target | None":
        """What a request for predictions asks for; None: it is another request."""
        if scope["method"] != "POST":
            return None
        if path.endswith("/invocations"):
            if path == "/invocations":
                return _DEFAULT
            raw = scope.get("raw_path") or b""
            if (known := self._targets.get(raw)) is not None:
                return known
            match _parts(scope):
                case ["models", model, "invocations"]:
                    target = _Target(model, MLFLOW)
                    if raw and len(self._targets) < _KNOWN_PATHS:
                        self._targets[raw] = target
                    return target
        elif path.endswith("/infer"):
            length = headers.get(HEADER_LENGTH_KEY)
            codec = OpenInferenceCodec(None if length is None else length.decode("latin-1"))
            match _parts(scope):
                case ["v2", "models", model, "infer"]:
                    return _Target(model, codec)
                case ["v2", "models", model, "versions", version, "infer"]:
                    return _Target(model, codec, version)
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
        self, target: "_Target", headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        taken, taken_us = time.perf_counter(), time.time_ns() // 1000
        call = Call(target.model, b"", None, "", None, taken, taken_us, target.codec, target.version)
        self._open_requests += 1
        try:
            self._take_headers(call, headers)
            call.body = await self._bodies.read(scope, receive)
            reply = await self._plane.invoke(call)
        except Exception as error:
            if not isinstance(error, errors.GatewayError):
                row = self._follower.in_force(call.model)
                where = {"rollout_id": row.rollout_id, "stage": row.stage} if row and row.rollout_id else {}
                _log.error("request_failed", model=call.model, request_id=call.request_id, **where, exc_info=error)
            refusal = Refusal(error)
            if call.request_id:
                refusal.headers["X-Request-Id"] = call.request_id
            self._recorder.request(call.model, refusal.status)
            await _refuse(scope, send, refusal, is_v2=call.codec is not MLFLOW)
            return
        finally:
            self._open_requests -= 1
        said = (
            _JSON,
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", call.request_id.encode()),
            (b"x-model-version", reply.versions.encode()),
        )
        arrived = await answer(scope, send, _OK, said, reply.body)
        if reply.receipt is not None:
            if arrived:
                reply.receipt.sent()
            else:
                reply.receipt.lost()
        self._recorder.request(call.model, _OK)

    def _take_headers(self, call: Call, headers: Mapping[bytes, bytes]) -> None:
        """What a call's headers say.

        Raises:
            GatewayError: One of them is wrong, or too many calls are under way.
        """
        given_id = headers.get(b"x-request-id")
        if given_id:
            text = given_id.decode("latin-1")
            if not REQUEST_ID.fullmatch(text):
                raise errors.BadRequestError(
                    f"X-Request-Id is {text[:80]!r}, must be 1 to 200 visible ASCII characters without blanks"
                )
            call.request_id, call.names_itself = text, True
        else:
            call.request_id = f"{self._id_prefix}{next(self._id_numbers):016x}"
        if self._open_requests > self._settings.max_open_requests:
            raise errors.OverloadedError(
                f"{self._open_requests} requests are open, must be at most {self._settings.max_open_requests}"
            )
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise errors.UnsupportedMediaError(
                f"Content-Encoding is {headers[b'content-encoding'][:80]!r}; send the body as it is"
            )
        if (unit := headers.get(b"x-unit-id")) is not None:
            call.unit = _unit(unit)
        if (content_type := headers.get(b"content-type")) is not None:
            call.content_type = content_type.decode("latin-1")
        call.tester = self._callers.is_tester(headers.get(b"x-rollouts-token"))
        if (wanted := headers.get(b"x-rollouts-route")) is not None:
            call.arm = self._arm(wanted, tester=call.tester)

    def _arm(self, wanted: bytes, *, tester: bool) -> Arm:
        """The arm that a tester asks for."""
        if not tester:
            raise errors.UnauthorizedError(
                "X-Rollouts-Route is for testers: send a tester's token as X-Rollouts-Token, or leave it out"
            )
        try:
            return Arm(wanted.decode("latin-1"))
        except ValueError as error:
            raise errors.BadRequestError(
                f"X-Rollouts-Route is {wanted[:80]!r}, must be one of {', '.join(Arm)}"
            ) from error


@dataclass(frozen=True, slots=True)
class _Target:
    """What a request for predictions asks for; "": the default model."""

    model: str
    codec: Codec
    version: str | None = None


_DEFAULT = _Target("", MLFLOW)


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


async def _refuse(scope: Scope, send: Send, refusal: Refusal, *, is_v2: bool) -> None:
    body = refusal.open_inference_body() if is_v2 else refusal.mlflow_body()
    extra = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    headers = [_JSON, (b"content-length", str(len(body)).encode()), *extra]
    await answer(scope, send, refusal.status, headers, body)
