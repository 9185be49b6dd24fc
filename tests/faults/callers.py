"""Callers with two gateways: one that does not answer, or is not ready yet, is left for the other.

A request keeps its id. What no gateway answered rightly is lost, which is what must never happen.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from tests.load import Load

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
        left: Why each gateway before that was left: "broken" (the connection), "broken answer", or its HTTP status.
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


class Callers(Load[Request]):
    """Sends requests while the block lasts; afterwards each has its outcome in `requests`.

    Args:
        gateways: Addresses.
        model: Registered model.
        rate: Requests a second.
        prefix: Of the request ids.
    """

    def __init__(self, gateways: Sequence[str], model: str, rate: float, prefix: str) -> None:
        super().__init__(rate, prefix)
        self._urls = [f"{url}/models/{model}/invocations" for url in gateways]

    @property
    def requests(self) -> list[Request]:
        """What was sent, and what came of it."""
        return self._sent

    @property
    def lost(self) -> list[Request]:
        """Requests that nobody answered rightly; before the block has ended, also those on their way."""
        return [each for each in self.requests if not each.answered]

    @property
    def left(self) -> Counter[str]:
        """How often a gateway was left for the other one, by why."""
        return Counter(why for each in self.requests for why in each.left)

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        flying = set()
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            async for number, _ in self._ticks():
                x = float(number % 7) - 3
                request = Request(f"{self.prefix}-{number}", f"unit{number}", x, time.monotonic())
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
        asked = {"dataframe_records": [{"x": request.x}]}
        try:
            async with session.post(url, json=asked, headers=headers) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return "broken"
        if answer.status != 200:
            return str(answer.status)
        try:
            request.prediction, version = _read(body, answer.headers, request)
        except (ValueError, KeyError, TypeError):
            return "broken answer"
        request.version, request.gateway = version, url
        return None


def _read(body: bytes, headers: Mapping[str, str], request: Request) -> tuple[int, str]:
    """Prediction and version of an answer.

    Raises:
        ValueError: It is not the answer to this request, or no whole one. So are KeyError and TypeError.
    """
    (prediction,) = json.loads(body)["predictions"]
    version = headers["X-Model-Version"]
    if type(prediction) is not int or not version or headers["X-Request-Id"] != request.request_id:
        raise ValueError(f"{request.request_id} got {prediction!r} of version {version!r}")
    return prediction, version
