"""Callers with two gateways: one that does not answer, or is not ready yet, is left for the other.

A request keeps its id. What no gateway answered is lost, which is what must never happen.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

_TIMEOUT = 15.0
_ROUNDS = 3  # of all gateways; a caller gives up then
_ROUND_SECONDS = 0.2
_NOT_READY = 503


@dataclass(slots=True)
class Request:
    """One request and what came of it.

    Attributes:
        request_id: As sent.
        unit: As sent.
        x: The only input.
        sent: `time.monotonic()`.
        done: When it was answered, or given up.
        version: The version that answered; empty: nobody did.
        gateway: The address that answered.
        prediction: What was answered.
        left: Why each gateway before that was left: "broken", or its HTTP status.
    """

    request_id: str
    unit: str
    x: float
    sent: float
    done: float = 0.0
    version: str = ""
    gateway: str = ""
    prediction: int | None = None
    left: list[str] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether the caller got a prediction."""
        return bool(self.version)

    @property
    def ms(self) -> float:
        """Milliseconds that the caller waited."""
        return (self.done - self.sent) * 1000


class Callers:
    """Sends requests while the block lasts, on the clock; afterwards each has its outcome in `requests`.

    Args:
        gateways: Addresses.
        model: Registered model.
        rate: Requests a second.
        prefix: Of the request ids.
    """

    def __init__(self, gateways: Sequence[str], model: str, rate: float, prefix: str) -> None:
        self._urls = [f"{url}/models/{model}/invocations" for url in gateways]
        self._rate, self._prefix = rate, prefix
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.requests: list[Request] = []

    def __enter__(self) -> "Callers":
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def run_for(self, seconds: float) -> list[Request]:
        """Load for so long, and what came of it."""
        with self:
            self._stop.wait(seconds)
        return self.requests

    @property
    def lost(self) -> list[Request]:
        """Requests that nobody answered."""
        return [each for each in self.requests if each.done and not each.answered]

    @property
    def left(self) -> Counter[str]:
        """How often a gateway was left for the other one, by why."""
        return Counter(why for each in self.requests for why in each.left)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self._error = error

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        began, flying = time.monotonic(), set()
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            while not self._stop.is_set():
                number = len(self.requests)
                if (wait := began + number / self._rate - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                x = float(number % 7) - 3
                request = Request(f"{self._prefix}-{number}", f"unit{number}", x, time.monotonic())
                self.requests.append(request)
                task = asyncio.create_task(self._ask(session, request, number))
                flying.add(task)
                task.add_done_callback(flying.discard)
            if flying:
                await asyncio.wait(flying)

    async def _ask(self, session: aiohttp.ClientSession, request: Request, number: int) -> None:
        count = len(self._urls)
        for attempt in range(_ROUNDS * count):
            if attempt and attempt % count == 0:
                await asyncio.sleep(_ROUND_SECONDS)
            url = self._urls[(number + attempt) % count]
            why = await self._ask_one(session, request, url)
            if why is None:
                break
            request.left.append(why)
            if why not in ("broken", str(_NOT_READY)):
                break  # an answer, and not one to ask somebody else for
        request.done = time.monotonic()

    async def _ask_one(self, session: aiohttp.ClientSession, request: Request, url: str) -> str | None:
        headers = {"X-Request-Id": request.request_id, "X-Unit-Id": request.unit}
        body = {"dataframe_records": [{"x": request.x}]}
        try:
            async with session.post(url, json=body, headers=headers) as answer:
                content = await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return "broken"
        if answer.status != 200:
            return str(answer.status)
        (request.prediction,) = content["predictions"]
        request.version, request.gateway = answer.headers["X-Model-Version"], url
        return None
