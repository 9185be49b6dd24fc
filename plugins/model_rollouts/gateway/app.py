"""The HTTP shell: routes, headers, limits, and the one place where errors become status codes."""

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response

from model_rollouts.gateway import environment, errors
from model_rollouts.gateway.dataplane import Call, DataPlane
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.probing import Prober
from model_rollouts.gateway.reading import unit_text
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import Spool

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")
_BODY_SECONDS = 30.0
_OPEN = frozenset({"/ping", "/health"})
_JSON = "application/json"

# MLflow's error codes, so that its clients read our errors as they read its server's.
_STATUS: dict[type[errors.GatewayError], tuple[int, str]] = {
    errors.BadRequestError: (400, "BAD_REQUEST"),
    errors.UnsupportedMediaError: (415, "BAD_REQUEST"),
    errors.TooLargeError: (413, "BAD_REQUEST"),
    errors.UnknownModelError: (404, "RESOURCE_DOES_NOT_EXIST"),
    errors.VersionNotLoadedError: (404, "RESOURCE_DOES_NOT_EXIST"),
    errors.NotServingError: (503, "TEMPORARILY_UNAVAILABLE"),
    errors.LogUnavailableError: (503, "TEMPORARILY_UNAVAILABLE"),
    errors.OverloadedError: (503, "TEMPORARILY_UNAVAILABLE"),
    errors.PredictionError: (500, "INTERNAL_ERROR"),
    errors.PredictionTimeoutError: (504, "DEADLINE_EXCEEDED"),
}
_TRY_AGAIN = 503

_log = structlog.get_logger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    settings: GatewaySettings,
    *,
    follower: Follower,
    plane: DataPlane,
    spool: Spool,
    mirror: Mirror,
    lifespan: Lifespan,
) -> FastAPI:
    """The application of docs/contracts.md over parts that `lifespan` starts and stops."""
    app = FastAPI(title="model-rollouts gateway", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.exception_handler(errors.GatewayError)(_refuse)
    app.exception_handler(Exception)(_fail)
    if settings.gateway_token is not None:
        app.middleware("http")(_guard(settings.gateway_token.get_secret_value()))

    prober = Prober(follower, settings)

    def status_of(model: str) -> dict[str, Any]:
        return {"gateway_id": settings.gateway_id, **follower.status(model), "mirror": mirror.status(model)}

    async def invoke(request: Request, model: str) -> Response:
        taken, taken_us = time.perf_counter(), time.time_ns() // 1000
        request_id = _request_id(request)
        try:
            unit = _unit(request)
            body = await _body(request, settings.max_body_bytes)
            content_type = request.headers.get("content-type")
            reply = await plane.invoke(Call(model, body, content_type, request_id, unit, taken, taken_us))
        except errors.GatewayError as error:
            response = _refusal(error)
            response.headers["X-Request-Id"] = request_id
            return response
        headers = {"X-Request-Id": request_id, "X-Model-Version": reply.versions}
        return Response(reply.body, media_type=_JSON, headers=headers)

    @app.post("/models/{model}/invocations")
    async def invocations(request: Request, model: str) -> Response:
        return await invoke(request, model)

    @app.post("/invocations")
    async def default_invocations(request: Request) -> Response:
        return await invoke(request, _default_model(settings, follower))

    @app.post("/models/{model}/versions/{version}/invocations")
    async def probe(request: Request, model: str, version: str) -> Response:
        body = await _body(request, settings.max_body_bytes)
        results = await prober.probe(model, version, body, request.headers.get("content-type"))
        return _json({"gateway_id": settings.gateway_id, "results": results})

    @app.post("/models/{model}/outcomes")
    async def outcomes(request: Request, model: str) -> Response:
        return _json({"accepted": await plane.take_outcomes(model, await _body(request, settings.max_body_bytes))})

    @app.get("/models/{model}/status")
    async def model_status(model: str) -> Response:
        return _json(status_of(model))

    @app.get("/status")
    async def status() -> Response:
        return _json(
            {
                "gateway_id": settings.gateway_id,
                "healthy": follower.healthy,
                "store": follower.store_status(),
                "models": {m: status_of(m) for m in follower.models if follower.follows(m)},
                "not_adopted": follower.adoption_errors(),
                "spool": spool.status(),
                "mirror": mirror.status(),
            }
        )

    @app.get("/environment")
    async def packages() -> Response:
        found = await asyncio.to_thread(environment.packages)
        return _json({"gateway_id": settings.gateway_id, "packages": found})

    @app.get("/ping")
    @app.get("/health")
    async def ping() -> Response:
        return Response("\n", 200 if follower.healthy else 404, media_type=_JSON)

    @app.get("/version")
    async def mlflow_version() -> Response:
        return Response(metadata.version("mlflow"), media_type=_JSON)

    return app


def _default_model(settings: GatewaySettings, follower: Follower) -> str:
    if settings.default_model:
        return settings.default_model
    models = follower.models
    if len(models) != 1:
        raise errors.UnknownModelError(
            f"/invocations needs a default model, and {len(models)} are served ({', '.join(models) or 'none'}); "
            "call /models/{model}/invocations or set MODEL_ROLLOUTS_DEFAULT_MODEL"
        )
    return models[0]


def _request_id(request: Request) -> str:
    value = request.headers.get("x-request-id", "")
    if not value:
        return uuid.uuid4().hex
    if not _REQUEST_ID.fullmatch(value):
        raise errors.BadRequestError(
            f"X-Request-Id is {value[:80]!r}, must be 1 to 200 visible ASCII characters without blanks"
        )
    return value


def _unit(request: Request) -> str | None:
    value = request.headers.get("x-unit-id")
    if value is None:
        return None
    try:
        text = value.encode("latin-1").decode()  # headers are bytes; the same unit in a column is UTF-8
    except UnicodeDecodeError as error:
        raise errors.BadRequestError("X-Unit-Id must be text in UTF-8") from error
    return unit_text(text.strip(), "header X-Unit-Id")


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than the limit and not for ever."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise errors.TooLargeError(f"the body has more than {limit} bytes; send it in smaller parts")
                parts.append(part)
    except TimeoutError as error:
        raise errors.BadRequestError(f"the body took more than {_BODY_SECONDS:g} s to arrive; send it again") from error
    return b"".join(parts)


def _guard(token: str) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    expected = f"Bearer {token}".encode()

    async def check(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "").encode("latin-1")
        if request.url.path not in _OPEN and not hmac.compare_digest(given, expected):
            content = {"error_code": "UNAUTHENTICATED", "message": "send the header Authorization: Bearer <token>"}
            return _json(content, 401, {"WWW-Authenticate": "Bearer"})
        return await call_next(request)

    return check


def _refusal(error: errors.GatewayError) -> Response:
    status, code = _STATUS[type(error)]
    headers = {"Retry-After": "1"} if status == _TRY_AGAIN else {}
    return _json({"error_code": code, "message": _writable(str(error))}, status, headers)


async def _refuse(_: Request, error: Exception) -> Response:
    if not isinstance(error, errors.GatewayError):
        raise error
    return _refusal(error)


async def _fail(request: Request, error: Exception) -> Response:
    _log.error("request_failed", path=request.url.path, exc_info=error)
    return _json({"error_code": "INTERNAL_ERROR", "message": "the gateway failed; its log says why"}, 500)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, _JSON)


def _writable(text: str) -> str:
    """The text as UTF-8 can hold it: a message may quote what a caller sent."""
    return text.encode(errors="replace").decode()
