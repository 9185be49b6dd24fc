"""Load at a fixed rate from a client that costs little itself: bytes made beforehand, answers read as far as needed.

A request's time counts from when it was to leave, so an answer that is late makes those behind it late, too.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

import uvloop

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass
class Paced:
    """What came of a run.

    Attributes:
        ms: Milliseconds of each answer that was there in time, from when its request was to leave.
        failed: Answers that are not 200, and requests without one.
    """

    ms: list[float] = field(default_factory=list)
    failed: int = 0


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, request: bytes, paced: Paced, idle: "deque[_Connection]", queue: deque[float]) -> None:
        self.request, self.paced, self.idle, self.queue = request, paced, idle, queue
        self.due: float | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self.idle.append(self)

    def ask(self, due: float) -> None:
        self.due, self.buffer = due, b""
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(_HEAD_END)
        if not end:
            return
        lower = head.lower()
        at = lower.index(_LENGTH) + len(_LENGTH)
        if len(rest) < int(lower[at:].split(b"\r\n", 1)[0]):
            return
        assert self.due is not None  # noqa: S101  # for the type checker
        if b" 200 " in head[:16]:
            self.paced.ms.append((time.perf_counter() - self.due) * 1000)
        else:
            self.paced.failed += 1
        self.due = None
        if self.queue:
            self.ask(self.queue.popleft())
        else:
            self.idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self.due is not None:
            self.paced.failed += 1


def run(host: str, port: int, path: str, body: bytes, rate: float, seconds: float, connections: int = 64) -> Paced:
    """Send requests at a rate, and wait for their answers for at most five seconds more.

    Args:
        host: Where to.
        port: Of it.
        path: Of the URL.
        body: JSON.
        rate: Requests a second.
        seconds: How long.
        connections: Kept alive; when all are busy, requests wait, and their time runs.
    """
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return uvloop.run(_run(host, port, head.encode() + body, rate, seconds, connections))


async def _run(host: str, port: int, request: bytes, rate: float, seconds: float, connections: int) -> Paced:
    paced, idle, queue = Paced(), deque[_Connection](), deque[float]()
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(request, paced, idle, queue), host, port)
    began, total = time.perf_counter(), int(rate * seconds)
    for number in range(total):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if idle:
            idle.popleft().ask(due)
        else:
            queue.append(due)
    end = time.perf_counter() + 5
    while len(paced.ms) + paced.failed < total and time.perf_counter() < end:  # noqa: ASYNC110  # no event for each
        await asyncio.sleep(0.01)
    paced.failed += total - len(paced.ms) - paced.failed
    return paced
