"""The one place where errors become responses, in each protocol's own form."""

import orjson

from model_rollouts.gateway import errors

_AGAIN_SECONDS = 1
_UNAUTHORIZED = 401
_TRY_AGAIN = frozenset({429, 503})

# MLflow's error codes, so that its clients read our errors as they read its server's.
_STATUS: dict[type[errors.GatewayError], tuple[int, str]] = {
    errors.BadRequestError: (400, "BAD_REQUEST"),
    errors.UnsupportedMediaError: (415, "BAD_REQUEST"),
    errors.TooLargeError: (413, "BAD_REQUEST"),
    errors.UnauthorizedError: (401, "UNAUTHENTICATED"),
    errors.ForbiddenError: (403, "PERMISSION_DENIED"),
    errors.UnknownModelError: (404, "RESOURCE_DOES_NOT_EXIST"),
    errors.VersionNotLoadedError: (404, "RESOURCE_DOES_NOT_EXIST"),
    errors.NotServingError: (503, "TEMPORARILY_UNAVAILABLE"),
    errors.LogUnavailableError: (503, "TEMPORARILY_UNAVAILABLE"),
    errors.OverloadedError: (429, "REQUEST_LIMIT_EXCEEDED"),
    errors.PredictionError: (500, "INTERNAL_ERROR"),
    errors.PredictionTimeoutError: (504, "DEADLINE_EXCEEDED"),
}


class Refusal:
    """An error as a response.

    Args:
        error: What went wrong.
    """

    __slots__ = ("headers", "message", "name", "status")

    def __init__(self, error: Exception) -> None:
        if isinstance(error, errors.GatewayError):
            self.status, self.name = _STATUS[type(error)]
            self.message = str(error).encode(errors="replace").decode()  # it may quote what a caller sent
        else:
            self.status, self.name = 500, "INTERNAL_ERROR"
            self.message = "the gateway failed; its log says why"
        self.headers: dict[str, str] = {}
        if self.status in _TRY_AGAIN:
            self.headers["Retry-After"] = str(_AGAIN_SECONDS)
        if self.status == _UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = "Bearer"

    def mlflow_body(self) -> bytes:
        """As MLflow's server writes errors."""
        return orjson.dumps({"error_code": self.name, "message": self.message})

    def open_inference_body(self) -> bytes:
        """As the Open Inference Protocol has errors."""
        return orjson.dumps({"error": self.message})
