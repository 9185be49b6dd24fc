"""Uvicorn's HTTP protocol with an answer's head and body in one write, and a bound on connections without requests.

Uvicorn makes two writes, and each is a system call and a packet.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from model_rollouts.gateway.connections import Connections

_STATUS_LINE = b"HTTP/1.1 "
_INFORMATIONAL = b"1"  # 100 Continue has no body to wait for
_HEAD_END = b"\r\n\r\n"


class _Joined:
    """A transport that keeps the head of an answer back until its body comes, or the event loop's turn ends."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_STATUS_LINE) and data.endswith(_HEAD_END) and data[9:10] != _INFORMATIONAL:
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class OneWriteProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, with fewer writes.

    Args:
        uvicorns: What uvicorn makes its own with.
        all_of_them: The process's connections.
    """

    def __init__(self, *, all_of_them: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = all_of_them
        self._raw: asyncio.Transport | None = None
        self._waits = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        if not self._all.has_room(len(self.connections)):
            transport.abort()
            return
        super().connection_made(transport)
        self._raw = transport
        self._all.waits(transport)
        self.transport = _Joined(transport, self.loop)  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._raw is None:
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # not a whole head yet
            self._waits = True
            self._all.waits(self._raw)
        elif self._waits:
            self._waits = False
            self._all.forget(self._raw)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if self._raw is not None:
            self._all.forget(self._raw)
            super().connection_lost(exc)
