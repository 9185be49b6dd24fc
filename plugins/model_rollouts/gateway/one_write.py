"""Uvicorn's HTTP protocol with a short way for answers that are there as a whole, and a bound on connections.

ASGI tells an answer in two messages. Uvicorn makes two writes of them, and each is a system call and a packet. An
application that has both at once finds an `Exchange` among its scope's extensions, and answers in one.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from model_rollouts.gateway.connections import Connections

_EXTENSION = "model_rollouts.exchange"
_CLOSE = b"connection: close\r\n"

Headers = Iterable[tuple[bytes, bytes]]


class Exchange:
    """A request and its answer, past ASGI's messages.

    Args:
        cycle: Uvicorn's.
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def body(self) -> bytes | None:
        """The request's body, if all of it has come and nobody has taken it; else it comes by ASGI's messages."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def answer(self, status: int, headers: Headers, body: bytes) -> bool | None:
        """Answer. Whether the caller was still there; None: it has to be done by ASGI's messages."""
        cycle = self._cycle
        if cycle.disconnected:
            return False
        if cycle.response_started or cycle.flow.write_paused:
            return None
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            parts.append(_CLOSE)
        parts += (b"\r\n", b"" if cycle.scope["method"] == "HEAD" else body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"".join(parts))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


def exchange(scope: Scope) -> Exchange | None:
    """The short way of a request; None: its server has none."""
    found: Exchange | None = scope.get("extensions", {}).get(_EXTENSION)
    return found


async def answer(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> bool:
    """Answer a request. Whether the caller was still there, as far as the server says.

    Args:
        scope: The request's.
        send: ASGI's.
        status: HTTP's code.
        headers: Names in lower case and values, with the content's length; nobody looks for line breaks in them.
        body: All of it.
    """
    short = exchange(scope)
    if short is not None and (arrived := short.answer(status, headers, body)) is not None:
        return arrived
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})
    return True


class OneWriteProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, with an `Exchange` for each request.

    Args:
        uvicorns: What uvicorn makes its own with.
        all_of_them: The process's connections.
    """

    def __init__(self, *, all_of_them: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = all_of_them
        self._waits = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        if not self._all.has_room(len(self.connections)):
            transport.abort()
            return
        super().connection_made(transport)
        self._all.waits(transport)

    def on_headers_complete(self) -> None:
        """See httptools."""
        super().on_headers_complete()
        if self.cycle is not None:  # an upgrade has none; the application runs in a later turn of the loop
            scope: Scope = self.cycle.scope  # type: ignore[assignment]  # typed as a dictionary with no other values
            scope["extensions"] = {_EXTENSION: Exchange(self.cycle)}

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self.transport is None:
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # not a whole head yet
            self._waits = True
            self._all.waits(self.transport)
        elif self._waits:
            self._waits = False
            self._all.forget(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if self.transport is not None:
            self._all.forget(self.transport)
            super().connection_lost(exc)
