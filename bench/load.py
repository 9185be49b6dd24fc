"""A load client with an open loop: requests leave on time, however long those before them take."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

import aiohttp

_MOST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        due: When it was to leave, `time.monotonic()`.
        done: When its answer was there.
        status: HTTP status; 0 when there was no answer.
        version: The version that answered, or "".
    """

    due: float
    done: float
    status: int
    version: str

    @property
    def ok(self) -> bool:
        """Whether it was answered as it should be."""
        return 200 <= self.status < 300

    @property
    def ms(self) -> float:
        """Milliseconds from when it was to leave: what the client itself was late by counts, too."""
        return (self.done - self.due) * 1000


@dataclass
class Load:
    """Runs in a thread while the block lasts; every request that was sent has its answer in `answers` afterwards.

    Attributes:
        url: Where invocations go.
        rate: Requests a second.
    """

    url: str
    rate: float
    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, start: float, end: float) -> list[Answer]:
        """Answers to what was to leave in [start, end)."""
        return [answer for answer in self.answers if start <= answer.due < end]

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(_MOST_SECONDS)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            began, open_requests = time.monotonic(), set()
            while not self._stop.is_set():
                due = began + self.sent / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._ask(session, self.sent, due))
                open_requests.add(task)
                task.add_done_callback(open_requests.discard)
                self.sent += 1
            await asyncio.gather(*open_requests)

    async def _ask(self, session: aiohttp.ClientSession, number: int, due: float) -> None:
        body = {"dataframe_records": [{"x": number + 0.5}]}
        status, version = 0, ""
        try:
            async with session.post(self.url, json=body, headers={"X-Unit-Id": f"unit{number}"}) as answer:
                await answer.read()
                status, version = answer.status, answer.headers.get("X-Model-Version", "")
        except (aiohttp.ClientError, TimeoutError):
            pass  # no answer: the status says so
        self.answers.append(Answer(due, time.monotonic(), status, version))
