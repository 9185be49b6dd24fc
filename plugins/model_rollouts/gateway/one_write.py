"""Uvicorn's HTTP protocol with a short way for answers that are there as a whole, and bounds on what is sent.

ASGI tells an answer in two messages. Uvicorn makes two writes of them, and each is a system call and a packet. An
application that has both at once finds an `Exchange` among its scope's extensions, and answers in one.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from model_rollouts.gateway.connections import Connections

_EXTENSION = "model_rollouts.exchange"
_CLOSE = b"connection: close\r\n"

_HEAD_TOO_LARGE, _TOO_LARGE = 431, 413
_HEADER_SIGNS = 4  # colon, blank, end of the line

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may have.

    Attributes:
        head_bytes: Most bytes of its path and headers.
        headers: Most headers.
        all_bytes: Most bytes in all, as they come over the wire: a body in chunks has more of them than it is long, and
            what follows its last chunk, or comes though nobody takes it any more, is no body.
        pipelined: Most requests of a connection that wait for the answers to those before.
    """

    head_bytes: int = 32_768
    headers: int = 100
    all_bytes: int = 67_108_864
    pipelined: int = 16


class _TooMuchError(Exception):
    """A head is larger than it may be, or one more than may wait."""


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
        limits: What each request may have.
    """

    def __init__(self, *, all_of_them: Connections, limits: Limits = Limits(), **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = all_of_them
        self._limits = limits
        self._waits = True
        self._in_head = True  # or before one
        self._began_now = False  # whether it did in the bytes that are being read
        self._arriving = 0  # how many those are
        self._bytes = 0  # of this request, but for those that its first ones came with
        self._beside = 0  # bytes since its head, or since a part of its body
        self._too_much = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        if not self._all.has_room(len(self.connections)):
            transport.abort()
            return
        super().connection_made(transport)
        self._all.waits(transport)

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._in_head = self._began_now = True
        self._bytes = -self._arriving

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. What follows a body's last chunk is no header: others have decided by those before.

        What uvicorn does with one is done here: calling it would cost each request several calls more.
        """
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        super().on_body(body)
        self._beside = 0

    def on_headers_complete(self) -> None:
        """See httptools."""
        limits = self._limits
        if len(self.pipeline) >= limits.pipelined:
            self._too_much = f"{len(self.pipeline)} requests wait on the connection, must be at most {limits.pipelined}"
            raise _TooMuchError
        if len(self.headers) > limits.headers:
            self._too_much = f"the request has {len(self.headers)} headers, must have at most {limits.headers}"
            raise _TooMuchError
        if self._arriving > limits.head_bytes or not self._began_now:  # else it is not that large
            size = len(self.url) + sum(len(name) + len(value) + _HEADER_SIGNS for name, value in self.headers)
            if size > limits.head_bytes:
                self._too_much = f"path and headers have {size} bytes, must have at most {limits.head_bytes}"
                raise _TooMuchError
        super().on_headers_complete()
        self._in_head = False
        self._beside = 0
        if self.cycle is not None:  # an upgrade has none; the application runs in a later turn of the loop
            scope: Scope = self.cycle.scope  # type: ignore[assignment]  # typed as a dictionary with no other values
            scope["extensions"] = {_EXTENSION: Exchange(self.cycle)}

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self.transport is None:
            return
        self._arriving, self._began_now = len(data), False
        self._beside += self._arriving
        super().data_received(data)
        self._bytes += self._arriving
        if self.cycle is None or self.cycle.response_complete:  # not a whole head yet
            self._waits = True
            self._all.waits(self.transport)
        elif self._waits:
            self._waits = False
            self._all.begins(self.transport)
        limits = self._limits
        if self._bytes > limits.head_bytes and not self.transport.is_closing():
            if self._in_head:
                self._refuse(_HEAD_TOO_LARGE, f"path and headers have more than {limits.head_bytes} bytes")
            elif self._beside > limits.head_bytes:  # a field without an end is read anew for each part that comes
                self._refuse(_TOO_LARGE, f"between the body's parts are more than {limits.head_bytes} bytes")
            elif self._bytes > limits.all_bytes:
                self._refuse(_TOO_LARGE, f"the request has more than {limits.all_bytes} bytes over the wire")

    def send_400_response(self, msg: str) -> None:
        """See uvicorn; also where a head was refused above."""
        if self._too_much:
            self._refuse(_HEAD_TOO_LARGE, self._too_much)
        elif self._may_answer():
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _may_answer(self) -> bool:
        """Whether what goes out now would be taken for the answer to what is being read."""
        if self._in_head:
            return self.cycle is None or self.cycle.response_complete
        return self.cycle is not None and not self.cycle.response_started and not self.pipeline

    def _refuse(self, status: int, message: str) -> None:
        self._all.sends_too_much()
        if not self._may_answer():
            self.transport.abort()
            return
        key = "error" if self.url.startswith(b"/v2") else "message"
        body = orjson.dumps({key: message} | ({} if key == "error" else {"error_code": "BAD_REQUEST"}))
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], head, _CLOSE, b"\r\n", body)))
        self.transport.close()
        self._ends()

    def _ends(self) -> None:
        """A connection ends once all is sent, which is never where nobody reads it."""
        if self.transport.get_write_buffer_size():
            self._all.stalls(self.transport)

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._ends()

    def eof_received(self) -> None:
        """See asyncio. Who has sent all may still not read."""
        self._ends()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._all.stalls(self.transport)

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        if not self.transport.is_closing():  # else the rest has to be taken, too
            self._all.flows(self.transport)

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn."""
        super().timeout_keep_alive_handler()
        self._ends()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if self.transport is not None:
            self._all.forget(self.transport)
            super().connection_lost(exc)
