"""One process's HTTP server: its sockets, when it joins the port that it shares, and how it takes leave.

Several processes share a port by SO_REUSEPORT: each has a queue of its own, and the kernel deals connections by a hash
of both addresses. The other way, one socket that all inherit, gives connections to whoever wakes up first, which then
takes all that wait. With 32 kept-alive connections opened at once, the busiest of 2 processes got 18 in the median and
23 at worst with SO_REUSEPORT, and 26 and 32 with an inherited socket; of 4 processes 11 and 15, and 21 and 32.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn

from model_rollouts.gateway.tls import HANDSHAKE_SECONDS

_BACKLOG = 2048
_SHUTDOWN_SECONDS = 5.0  # for a caller to say that it has seen the end of an encrypted connection
_LOOK_SECONDS = 0.05

_log = structlog.get_logger(__name__)


class AddressInUseError(Exception):
    """Somebody else listens there."""


class Leave:
    """How far the end of the process is."""

    def __init__(self) -> None:
        self._until: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the process is about to end: it answers still, but is not ready for more (`/readyz`)."""
        return self._until is not None

    def take(self, seconds: float) -> None:
        """Begin to end, with so many seconds for open requests and what they leave to do."""
        if self._until is None:
            self._until = time.monotonic() + seconds

    def remaining(self, least: float = 1.0) -> float:
        """Seconds that are left of it; at least so many."""
        return max(least, (self._until or 0.0) - time.monotonic())


class GatewayServer(uvicorn.Server):
    """Uvicorn, which says that it leaves before it does, and joins a shared port only once it can answer there.

    Args:
        config: Uvicorn's.
        leave: Told when the process is to end.
        notice_seconds: How long requests are still taken after that, so that balancers can see it.
        drain_seconds: Time for open requests after the notice.
        shared: Sockets of the shared port, bound and not yet listening.
        ready: Whether requests from there can be answered.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        leave: Leave,
        notice_seconds: float,
        drain_seconds: float,
        shared: Sequence[socket.socket] = (),
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(config)
        self._leave = leave
        self._notice_seconds = notice_seconds
        self._drain_seconds = drain_seconds
        self._shared = shared
        self._ready = ready
        self._signal: tuple[int, float] | None = None
        self._joining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal gives notice, the second ends it."""
        if self._signal is not None or self._notice_seconds <= 0:
            self._leave.take(self._drain_seconds)
            super().handle_exit(sig, frame)
            return
        self._leave.take(self._notice_seconds + self._drain_seconds)
        self._signal = (sig, time.monotonic() + self._notice_seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn, which would give a caller a minute for a handshake."""
        await super().startup([])
        self.started = False
        await self._listen(sockets or [])
        self.started = True
        if self._shared:
            self._joining = asyncio.create_task(self._join())

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn."""
        if self._signal is not None and time.monotonic() >= self._signal[1] and not self.should_exit:
            super().handle_exit(self._signal[0], None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        if self._joining is not None:
            self._joining.cancel()
        await super().shutdown([*(sockets or []), *self._shared])

    async def _join(self) -> None:
        while not self._ready():  # noqa: ASYNC110  # it is other threads that make it so
            await asyncio.sleep(_LOOK_SECONDS)
        await self._listen(self._shared)
        _log.info("joined_shared_port", port=self._shared[0].getsockname()[1])

    async def _listen(self, sockets: Sequence[socket.socket]) -> None:
        make: Any = self.config.http_protocol_class
        protocol = partial(make, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        limits = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": _SHUTDOWN_SECONDS}
        encrypted: dict[str, Any] = {} if self.config.ssl is None else {"ssl": self.config.ssl, **limits}
        for each in sockets:
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_server(protocol, sock=each, backlog=_BACKLOG, **encrypted))


def bind(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Sockets bound to an address, one for each kind of address that the host has.

    Args:
        host: To listen on.
        port: Its port.
        shared: Whether other processes may bind it, too.

    Raises:
        AddressInUseError: Somebody else listens there.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(each := socket.socket(family, kind, protocol))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
    except OSError as error:
        for each in sockets:
            each.close()
        reason = f"can't listen on {host} port {port}: {error.strerror}; set another MODEL_ROLLOUTS_PORT"
        raise AddressInUseError(reason) from error
    return sockets


def end_with_supervisor() -> None:
    """Have this process end as on SIGTERM once nobody holds the other end of its standard input any more."""

    def wait() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        _log.warning("supervisor_gone")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()
