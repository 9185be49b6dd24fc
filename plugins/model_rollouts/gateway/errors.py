"""What can go wrong with a call, in domain words. `app.py` gives each its HTTP status."""

from model_rollouts.core.errors import RolloutError


class GatewayError(RolloutError):
    """Base of what a caller of the gateway may be told."""


class BadRequestError(GatewayError):
    """The input does not fit the protocol or the model's signature; sending it again will not help.

    Args:
        message: For the caller; may quote what was sent.
        plain: For the log, which must not have the inputs: the same without anything that was sent.
    """

    def __init__(self, message: str, plain: str = "the version can't take the input, which is not told here") -> None:
        super().__init__(message)
        self.plain = plain


class UnauthorizedError(GatewayError):
    """The token that the call needs is missing, or another one."""


class ForbiddenError(GatewayError):
    """The token is known, and not for this call."""


class UnsupportedMediaError(GatewayError):
    """The content type is none of those that the scoring protocol knows."""


class TooLargeError(GatewayError):
    """The body is larger than the limit."""


class UnknownModelError(GatewayError):
    """No model of this name is in the traffic table."""


class VersionNotLoadedError(GatewayError):
    """The version is not loaded here, or the traffic does not name it."""


class NotServingError(GatewayError):
    """No champion is loaded yet; try again."""


class LogUnavailableError(GatewayError):
    """The answer could not be logged, so it is not given; try again."""


class OverloadedError(GatewayError):
    """The champion's queue is full; try again."""


class PredictionError(GatewayError):
    """The champion failed to answer."""


class PredictionTimeoutError(GatewayError):
    """The champion did not answer in time."""
