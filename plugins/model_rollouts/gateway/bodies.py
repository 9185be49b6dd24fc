"""Reads a request's body: no further than the limit, and not for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from model_rollouts.gateway.errors import BadRequestError, TooLargeError

_SECONDS = 30.0


async def read_body(receive: Callable[[], Awaitable[Any]], limit: int) -> bytes:
    """The body of a request.

    Args:
        receive: ASGI's.
        limit: Most bytes.

    Raises:
        TooLargeError: It has more.
        BadRequestError: It did not come in time, or not to its end.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BadRequestError("the caller left before the body was there")
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise TooLargeError(f"the body has more than {limit} bytes; send it in smaller parts")
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise BadRequestError(f"the body took more than {_SECONDS:g} s to arrive; send it again") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)
