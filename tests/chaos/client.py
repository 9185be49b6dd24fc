"""A load client with an open loop that knows, for each request id, whether its caller got a whole answer.

Each connection has one request at a time and is read to its end, so an answer that was on the wire when the server died
counts as one. What did not leave in full, or was not answered in full, was not answered.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvloop
from tests.load import Load

_HEAD_END = b"\r\n\r\n"
_PATIENCE = 20.0  # for answers, once the load has ended


@dataclass(slots=True)
class Asked:
    """One request and what came of it.

    Attributes:
        request_id: As sent.
        unit: As sent.
        x: The only input.
        due: When it was to leave, `time.monotonic()`.
        sent: When it left; 0: there was no connection.
        done: When its answer was there, or it was clear that there will be none.
        status: HTTP status; 0: no whole answer.
        version: The version that answered, or "".
        prediction: The number that was answered.
        retry_after: That header, or "".
    """

    request_id: str
    unit: str
    x: float
    due: float
    sent: float = 0.0
    done: float = 0.0
    status: int = 0
    version: str = ""
    prediction: float | None = None
    retry_after: str = ""

    @property
    def answered(self) -> bool:
        """Whether the caller got a prediction."""
        return self.status == 200

    @property
    def ms(self) -> float:
        """Milliseconds from when it was to leave."""
        return (self.done - self.due) * 1000


class _Connection(asyncio.Protocol):
    def __init__(self, idle: "deque[_Connection]") -> None:
        self._idle = idle
        self._asked: Asked | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    @property
    def is_open(self) -> bool:
        return not self.transport.is_closing()

    def ask(self, asked: Asked, request: bytes) -> None:
        self._asked, self._buffer, asked.sent = asked, b"", time.monotonic()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(_HEAD_END)
        if not end or self._asked is None:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if len(body) < int(headers["content-length"]):
            return
        asked, self._asked = self._asked, None
        asked.status, asked.done = int(first.split()[1]), time.monotonic()
        asked.version, asked.retry_after = headers.get("x-model-version", ""), headers.get("retry-after", "")
        if asked.answered:
            (asked.prediction,) = json.loads(body)["predictions"]
            if headers["x-request-id"] != asked.request_id:
                raise AssertionError(f"{asked.request_id} got the answer to {headers['x-request-id']}")
        self._idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self._asked is not None:
            self._asked.done = time.monotonic()
            self._asked = None


class Client(Load[Asked]):
    """Sends requests while the block lasts; afterwards each has its outcome in `asked`.

    Args:
        url: Where invocations go.
        rate: Requests a second, whatever becomes of them.
        prefix: Of the request ids.
        units: How many units there are; request i is for unit i modulo that. None: each has its own.
        x: The input of request i.
    """

    def __init__(
        self,
        url: str,
        rate: float,
        prefix: str,
        units: int | None = None,
        x: Callable[[int], float] = lambda number: number + 0.5,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path
        super().__init__(rate, prefix, uvloop.run)
        self._units, self._x = units, x
        self._idle: deque[_Connection] = deque()

    @property
    def asked(self) -> list[Asked]:
        """What was sent, and what came of it."""
        return self._sent

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures: list[object] = []
        loop.set_exception_handler(lambda _, context: failures.append(context.get("exception") or context["message"]))
        opening = set()
        async for number, due in self._ticks():
            unit = number if self._units is None else number % self._units
            asked = Asked(f"{self.prefix}-{number}", f"unit{unit}", self._x(number), due)
            self.asked.append(asked)
            if (connection := self._free()) is not None:
                connection.ask(asked, self._request(asked))
            else:
                task = asyncio.create_task(self._open(asked))
                opening.add(task)
                task.add_done_callback(opening.discard)
        end = time.monotonic() + _PATIENCE
        while any(not asked.done for asked in self.asked) and time.monotonic() < end:  # noqa: ASYNC110  # many ends, one look
            await asyncio.sleep(0.01)
        while (connection := self._free()) is not None:
            connection.transport.close()
        if failures:
            raise RuntimeError(f"the client itself failed {len(failures)} times, first with {failures[0]!r}")

    def _free(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _open(self, asked: Asked) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._idle), self._host, self._port
            )
        except OSError:
            asked.done = time.monotonic()
            return
        connection.ask(asked, self._request(asked))

    def _request(self, asked: Asked) -> bytes:
        body = json.dumps({"dataframe_records": [{"x": asked.x}]}).encode()
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"X-Request-Id: {asked.request_id}\r\nX-Unit-Id: {asked.unit}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body
