"""What the gateway answers besides predictions (`front.py`): outcomes, probes, status."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response

from model_rollouts.gateway import environment, errors
from model_rollouts.gateway.bodies import Bodies
from model_rollouts.gateway.front import Front
from model_rollouts.gateway.metrics import CONTENT_TYPE
from model_rollouts.gateway.open_inference_http import add_routes as add_open_inference
from model_rollouts.gateway.openapi import openapi_document
from model_rollouts.gateway.parts import Parts
from model_rollouts.gateway.probing import Prober
from model_rollouts.gateway.refusals import Refusal

_JSON = "application/json"

_log = structlog.get_logger(__name__)


def create_app(parts: Parts) -> Front:
    """The application of docs/contracts.md; its lifespan is that of the parts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await parts.start()
        try:
            yield
        finally:
            await parts.close()

    settings, follower, plane, spool, mirror = parts.settings, parts.follower, parts.plane, parts.spool, parts.mirror
    app = FastAPI(title="model-rollouts gateway", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.exception_handler(errors.GatewayError)(_refuse)
    app.exception_handler(Exception)(_refuse)

    bodies, prober = Bodies(settings.max_body_bytes), Prober(follower, settings)

    def status_of(model: str) -> dict[str, Any]:
        routing, waiting = follower.status(model), round(spool.backlog_seconds(model), 3)
        return {
            "gateway_id": settings.gateway_id,
            **routing,
            "backlog_seconds": waiting,
            "mirror": mirror.status(model),
        }

    @app.post("/models/{model}/versions/{version}/invocations")
    async def probe(request: Request, model: str, version: str) -> Response:
        body = await bodies.read(request.scope, request.receive)
        results = await prober.probe(model, version, body, request.headers.get("content-type"))
        return _json({"gateway_id": settings.gateway_id, "results": results})

    @app.post("/models/{model}/outcomes")
    async def outcomes(request: Request, model: str) -> Response:
        return _json({"accepted": await plane.take_outcomes(model, await bodies.read(request.scope, request.receive))})

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
                "callers": parts.callers.status(),
            }
        )

    add_open_inference(app, follower)

    @app.get("/environment")
    async def packages() -> Response:
        found = await asyncio.to_thread(environment.packages)
        return _json({"gateway_id": settings.gateway_id, "packages": found})

    @app.get("/ping")
    @app.get("/health")
    async def ping() -> Response:
        return Response("\n", 200 if follower.healthy else 404, media_type=_JSON)

    @app.get("/healthz")
    async def alive() -> Response:
        return _json({"live": True})

    @app.get("/readyz")
    async def ready() -> Response:
        reason = "it is about to end" if parts.leave.taken else "" if follower.healthy else "not every model is served"
        return _json({"ready": not reason, **({"reason": reason} if reason else {})}, 503 if reason else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await asyncio.to_thread(parts.metrics.render), media_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return _json(openapi_document(metadata.version("model-rollouts")))

    @app.get("/version")
    async def mlflow_version() -> Response:
        return Response(metadata.version("mlflow"), media_type=_JSON)

    return Front(app, plane, follower, parts.metrics.recorder, settings, parts.callers)


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.GatewayError):
        _log.error("request_failed", path=request.url.path, exc_info=error)
    refusal = Refusal(error)
    body = refusal.open_inference_body() if request.url.path.startswith("/v2") else refusal.mlflow_body()
    return Response(body, refusal.status, refusal.headers, _JSON)


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=_JSON)
