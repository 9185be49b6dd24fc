"""Reads requests' bodies: no further than the limit, and not for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Scope

from model_rollouts.gateway.errors import BadRequestError, TooLargeError
from model_rollouts.gateway.one_write import exchange

_SECONDS = 30.0
_SWEEP_SECONDS = 1.0


class Bodies:
    """One timer looks after all bodies that are being read: a timer for each would cost more than reading most of them.

    Args:
        limit: Most bytes of a body.
        seconds: After this a body that is not there is given up, a second early or late.
    """

    def __init__(self, limit: int, seconds: float = _SECONDS) -> None:
        self._limit = limit
        self._seconds = seconds
        self._reading: dict[asyncio.Task[Any], float] = {}  # and until when, the first one first
        self._late: set[asyncio.Task[Any]] = set()
        self._sweeping = False

    async def read(self, scope: Scope, receive: Callable[[], Awaitable[Any]]) -> bytes:
        """The body of a request.

        Args:
            scope: The request's.
            receive: ASGI's.

        Raises:
            TooLargeError: It has more bytes than the limit.
            BadRequestError: It did not come in time, or not to its end.
        """
        short = exchange(scope)
        if short is not None and (body := short.body()) is not None:
            self._check(len(body))
            return body
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in one
        self._reading[task] = loop.time() + self._seconds
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(min(_SWEEP_SECONDS, self._seconds), self._sweep, loop)
        try:
            return await self._parts(receive)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise BadRequestError(f"the body took more than {self._seconds:g} s to arrive; send it again") from None
        finally:
            self._reading.pop(task, None)
            self._late.discard(task)

    async def _parts(self, receive: Callable[[], Awaitable[Any]]) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequestError("the caller left before the body was there")
            part = message.get("body", b"")
            size += len(part)
            self._check(size)
            parts.append(part)
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLargeError(f"the body has more than {self._limit} bytes; send it in smaller parts")

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, until in list(self._reading.items()):
            if until > now:
                break
            del self._reading[task]
            self._late.add(task)
            task.cancel()
        self._sweeping = bool(self._reading)
        if self._sweeping:
            loop.call_later(min(_SWEEP_SECONDS, self._seconds), self._sweep, loop)
