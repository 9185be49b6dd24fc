"""The page's answers. Errors say what to do and nothing of the inside; domain errors become status codes here."""

import hashlib
import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model_rollouts.core.errors import (
    IllegalTransitionError,
    NotFoundError,
    NotReadyError,
    RolloutError,
    StaleRevisionError,
)

if TYPE_CHECKING:
    from fastapi import Request, Response

logger = logging.getLogger(__name__)


def answer(request: "Request", content: Mapping[str, Any]) -> "Response":
    """JSON with an ETag; 304 where the caller has it already."""
    from starlette.responses import Response

    body = _dumps(content)
    tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    if request.method == "GET" and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, media_type="application/json", headers={"ETag": tag})


def told(status: int, detail: str, code: str = "", **more: Any) -> "Response":
    """An error as the page reads it."""
    from starlette.responses import Response

    body = _dumps({"detail": detail, "code": code or str(status), **more})
    return Response(body, status_code=status, media_type="application/json")


def told_of(error: Exception) -> "Response":
    """The answer to an error, with what to do."""
    from pydantic import ValidationError
    from sqlalchemy.exc import SQLAlchemyError

    from model_rollouts.adapters.sql_migrate import SchemaError
    from model_rollouts.web.reports import SlowMlflowError

    match error:
        case NotFoundError():
            return told(404, str(error))
        case PermissionError() if error.errno is None:
            return told(403, str(error))
        case StaleRevisionError():
            return told(409, str(error), code="stale")
        case IllegalTransitionError() | NotReadyError():
            return told(409, str(error), code="refused")
        case SchemaError():
            return told(503, f"{error}. MODEL_ROLLOUTS_STORE_URL says which store it is.", code="store")
        case RolloutError():
            return told(422, str(error))
        case SQLAlchemyError():
            number = _logged(error)
            return told(
                503,
                "The rollout store does not answer. Nothing is decided meanwhile; gateways go on with the traffic that "
                "they know. See that its database runs and that MODEL_ROLLOUTS_STORE_URL names it: `rollouts doctor` "
                f"says what is wrong. (log entry {number})",
                code="store",
            )
        case SlowMlflowError():
            return told(
                503,
                f"MLflow does not answer ({str(error) or 'too slow'}), so reports can't be shown. Rollouts are decided "
                "without it, and rolling back works. See that the server of MODEL_ROLLOUTS_MLFLOW_TRACKING_URI runs.",
                code="mlflow",
            )
        case ValidationError():
            names = ", ".join(
                sorted({"MODEL_ROLLOUTS_" + str(each["loc"][0]).upper() for each in error.errors() if each["loc"]})
            )
            return told(503, f"The API server's settings are wrong: {names or 'see its log'}.", code="settings")
        case _:
            number = _logged(error)
            return told(500, f"Something went wrong here. The API server's log tells more: look for {number}.")


def _logged(error: Exception) -> str:
    number = secrets.token_hex(4)
    logger.error("page error %s", number, exc_info=error)
    return number


def _dumps(content: Mapping[str, Any]) -> bytes:
    import orjson

    return orjson.dumps(content, default=str)
