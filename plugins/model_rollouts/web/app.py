"""The receiver of MLflow's webhooks: a signed hint that a model changed, answered at once.

What a delivery says is not believed: it names the model to look at, and the registry itself tells what changed. So a
delivery that is lost or late does no harm, polling finds what it would have told; and a copy of one is not taken again.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.types import Receive, Scope, Send

PREFIX = "/model-rollouts"
PAGE_PREFIX = f"{PREFIX}/page"

_PATH = "/registry-events"
_MOST_BYTES = 65_536  # a delivery has some hundred
_LONGEST_NAME = 256

logger = logging.getLogger(__name__)


def make_app(secret: str | None, watches: Callable[[str], bool], take: Callable[[str], None]) -> "FastAPI":
    """The receiver.

    Args:
        secret: The secret of MLflow's webhook; None or one that is too short: nothing is taken.
        watches: Whether changes of a model count.
        take: Called with the model's name; must not block.
    """
    from fastapi import FastAPI, HTTPException, Request

    from model_rollouts.web.deliveries import Deliveries, FullError
    from model_rollouts.web.signature import SHORTEST_SECRET, TOLERANCE_SECONDS, SignatureError, verify

    deliveries = Deliveries()
    app = FastAPI(title="model-rollouts", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post(_PATH, status_code=202)
    async def receive(request: Request) -> dict[str, str]:
        if not secret or len(secret) < SHORTEST_SECRET:
            raise HTTPException(
                503, f"set MODEL_ROLLOUTS_WEBHOOK_SECRET to MLflow's secret, {SHORTEST_SECRET} characters or more"
            )
        body = await _bounded_body(request)
        try:
            now = time.time()
            delivery = verify(secret, request.headers, body, now)
            known = deliveries.is_known(delivery, now)
        except SignatureError as error:
            logger.warning("a webhook delivery is refused: %s", error)
            raise HTTPException(401, str(error)) from error
        except FullError as error:
            logger.warning("a webhook delivery is refused: %s", error)
            raise HTTPException(429, str(error), {"Retry-After": str(TOLERANCE_SECONDS)}) from error
        if known:
            return {"status": "repeated"}
        model = _model_of(body)
        deliveries.remember(delivery)  # no await since it was looked up, so no copy can come in between
        if model is None or not watches(model):
            return {"status": "ignored"}
        take(model)
        return {"status": "looking", "model": model}

    return app


async def _bounded_body(request: "Request") -> bytes:
    from fastapi import HTTPException

    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"the body is longer than {_MOST_BYTES} bytes")
    return bytes(body)


def _model_of(body: bytes) -> str | None:
    """The registered model that a delivery is about; None where it is about something else."""
    from fastapi import HTTPException

    try:
        delivery = json.loads(body)
        entity, data = delivery["entity"], delivery["data"]
        name = data["name"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HTTPException(400, f"the delivery is none of MLflow 3: {type(error).__name__}: {error}") from error
    if not isinstance(entity, str) or not entity.startswith(("model_version", "registered_model")):
        return None
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise HTTPException(400, f"the model's name must be a text of 1 to {_LONGEST_NAME} characters")
    return name


@cache
def shared_app() -> Any:
    """The receiver of this process, made from the settings."""
    from model_rollouts.web.hints import Hints, look_at
    from model_rollouts.wiring import shared

    settings, watch = shared().settings, shared().registry_watch
    secret = settings.webhook_secret
    return make_app(secret.get_secret_value() if secret else None, watch.watches, Hints(look_at).take)


class LazyApp:
    """An app that is made at its first request: Airflow loads plugins in every process, and serves them in one.

    Args:
        make: Makes it, the same one each time.
    """

    def __init__(self, make: Callable[[], Any] = shared_app) -> None:
        self._make = make

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve a request."""
        app = await asyncio.to_thread(self._make)  # the first time it imports and reads for a while
        await app(scope, receive, send)


def page_app() -> Any:
    """The page of this process."""
    from model_rollouts.web.page import page_app as made

    return made()
