"""Load client: replays flights as single-row requests at a steady rate, and reports later what came true.

Open loop: requests leave on the clock, not when the answer to the last one is there, so a slow gateway is met by as
many callers as a fast one. What is in flight is bounded; a request over the bound is counted as shed, not queued. A
request that fails is counted and gone, as for a real caller; the outcome of an answered one is kept until the gateway
has taken it.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from demo.latencies import Latencies

_TICK_SECONDS = 0.02  # requests leave in small bursts: a timer for each would cost more than the request
_OUTCOME_SECONDS = 0.25
_OUTCOME_BATCH = 500
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """What to send where.

    Attributes:
        gateway: Base URL.
        model: Registered model name.
        replay: File with one request a line: unit, label, body, separated by tabs.
        rate: Requests per second.
        seconds: Stop after this long; None: never.
        label_delay: Shortest and longest time from the answer to its outcome, in seconds.
        in_flight: At most this many requests wait for an answer.
        timeout: Seconds after which a request is given up.
        max_outcomes: At most this many outcomes wait for the gateway; beyond it the oldest are dropped and counted.
        token: Bearer token of the gateway, where it asks for one.
        seed: Of the label delays.
    """

    gateway: str
    model: str
    replay: Path
    rate: float = 250.0
    seconds: float | None = None
    label_delay: tuple[float, float] = (1.0, 4.0)
    in_flight: int = 256
    timeout: float = 5.0
    max_outcomes: int = 1_000_000
    token: str = field(default="", repr=False)
    seed: int = 13

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 10_000:
            raise ValueError(f"rate is {self.rate:g}, must be above 0 and at most 10000 requests per second")
        low, high = self.label_delay
        if not 0 <= low <= high:
            raise ValueError(f"label_delay is {low:g} to {high:g} s, must be increasing and not negative")
        if self.in_flight < 1:
            raise ValueError(f"in_flight is {self.in_flight}, must be at least 1")


@dataclass(slots=True)
class Counts:
    """What happened so far. `sent` is the sum of `answered`, `refused`, `failed` and what is in flight."""

    sent: int = 0
    answered: int = 0
    refused: int = 0  # an answer that is not 2xx
    failed: int = 0  # no answer
    shed: int = 0  # never sent: too many in flight
    outcomes: int = 0
    outcomes_waiting: int = 0
    outcomes_dropped: int = 0
    versions: Counter[str] = field(default_factory=Counter)


class TrafficClient:
    """One client. `run` until it is stopped; `report` at any time."""

    def __init__(self, options: TrafficOptions) -> None:
        self.options = options
        self.counts = Counts()
        self.latencies = Latencies()
        self._began = time.monotonic()
        self._stopped = asyncio.Event()
        self._flying: set[asyncio.Task[None]] = set()
        self._outcomes: list[tuple[float, dict[str, Any]]] = []
        self._random = random.Random(options.seed)
        self._salt = uuid.uuid4().hex[:12]
        base = f"{options.gateway.rstrip('/')}/models/{options.model}"
        self._invocations, self._outcomes_url = f"{base}/invocations", f"{base}/outcomes"

    def stop(self) -> None:
        """End soon: no more requests; the answered ones' outcomes are still delivered."""
        self._stopped.set()

    async def run(self) -> None:
        """Send until stopped or until the time is over."""
        timeout = aiohttp.ClientTimeout(total=self.options.timeout)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        self._began = time.monotonic()
        headers = {"Authorization": f"Bearer {self.options.token}"} if self.options.token else {}
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers) as session:
            outcomes = asyncio.create_task(self._deliver_outcomes(session))
            await self._send_steadily(session)
            if self._flying:
                await asyncio.wait(self._flying)
            self._stopped.set()
            await outcomes

    def report(self) -> dict[str, Any]:
        """Counts and latency quantiles, as JSON types."""
        counts = self.counts
        seconds = time.monotonic() - self._began
        self.counts.outcomes_waiting = len(self._outcomes)
        return {
            "seconds": round(seconds, 1),
            "rate": round(counts.sent / seconds, 1) if seconds > 0 else 0.0,
            **{name: getattr(counts, name) for name in Counts.__slots__ if name != "versions"},
            "versions": dict(sorted(counts.versions.items())),
            "latency_ms": self.latencies.quantiles(),
        }

    async def _send_steadily(self, session: aiohttp.ClientSession) -> None:
        requests = _replayed(self.options.replay)
        began = time.monotonic()
        owed = 0
        while not self._stopped.is_set():
            elapsed = time.monotonic() - began
            if self.options.seconds is not None and elapsed >= self.options.seconds:
                return
            due = int(elapsed * self.options.rate)
            # After a stall (a suspended machine) the missed requests are not sent as one burst.
            owed = max(owed, due - max(1, int(self.options.rate)))
            while owed < due:
                owed += 1
                unit, label, body = next(requests)
                if len(self._flying) >= self.options.in_flight:
                    self.counts.shed += 1
                    continue
                self.counts.sent += 1
                task = asyncio.create_task(self._ask(session, f"{self._salt}-{owed}", unit, label, body))
                self._flying.add(task)
                task.add_done_callback(self._flying.discard)
            await asyncio.sleep(_TICK_SECONDS)

    async def _ask(self, session: aiohttp.ClientSession, request_id: str, unit: str, label: str, body: bytes) -> None:
        headers = {**_JSON, "X-Request-Id": request_id, "X-Unit-Id": unit}
        began = time.perf_counter()
        try:
            async with session.post(self._invocations, data=body, headers=headers) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.counts.failed += 1
            return
        if not 200 <= answer.status < 300:
            self.counts.refused += 1
            return
        self.counts.answered += 1
        self.counts.versions[answer.headers.get("X-Model-Version", "unknown")] += 1
        self.latencies.add((time.perf_counter() - began) * 1000)
        due = time.monotonic() + self._random.uniform(*self.options.label_delay)
        value = worth(content, label)
        known = {"label": label} if value is None else {"label": label, "value": value}
        self._outcomes.append((due, {"request_id": request_id, **known}))

    async def _deliver_outcomes(self, session: aiohttp.ClientSession) -> None:
        """Post what is due, in batches; whatever was not taken stays and is posted again.

        At the end everything is due: a label that comes early does no harm, one that never comes does.
        """
        while True:
            last = self._stopped.is_set()
            now = time.monotonic()
            due = [entry for entry in self._outcomes if last or entry[0] <= now]
            if due:
                self._outcomes = [] if last else [entry for entry in self._outcomes if entry[0] > now]
            while due and await self._post_outcomes(session, [outcome for _, outcome in due[:_OUTCOME_BATCH]]):
                self.counts.outcomes += len(due[:_OUTCOME_BATCH])
                del due[:_OUTCOME_BATCH]
            self._outcomes = due + self._outcomes
            if (dropped := len(self._outcomes) - self.options.max_outcomes) > 0:
                self.counts.outcomes_dropped += dropped
                del self._outcomes[:dropped]
            if last:
                return
            await asyncio.sleep(_OUTCOME_SECONDS)

    async def _post_outcomes(self, session: aiohttp.ClientSession, outcomes: list[dict[str, Any]]) -> bool:
        try:
            async with session.post(self._outcomes_url, data=orjson.dumps(outcomes), headers=_JSON) as answer:
                await answer.read()
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


def worth(answer: bytes, label: str) -> float | None:
    """What an answer was worth to whoever asked, in dollars a passenger, once the flight has landed.

    A late flight that was called late: people were rebooked in time. One that was not: they miss their connection. An
    undisturbed flight on time is worth a little, a false alarm nothing. The numbers are made up; that missing a late
    flight costs more than a false alarm is not. None where the answer can't be read: its label still counts.
    """
    try:
        late = orjson.loads(answer)["predictions"][0]["prediction"] == 1
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return None
    return (5.0 if late else -5.0) if label == "1" else (0.0 if late else 1.0)


def _replayed(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Unit, label and body of each request, from the start again at the end.

    Raises:
        ValueError: The file is empty or a line has not three parts.
    """
    while True:
        number = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                parts = line.rstrip(b"\n").split(b"\t")
                if len(parts) != 3:
                    raise ValueError(f"{path}:{number} has {len(parts)} parts, must have 3: unit, label, body")
                yield parts[0].decode(), parts[1].decode(), parts[2]
        if number == 0:
            raise ValueError(f"{path} is empty: write it with mlflow/flights/replay.py")


async def _main(options: TrafficOptions, status_seconds: float, report: Path | None) -> None:
    client = TrafficClient(options)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, client.stop)

    async def tell() -> None:
        while True:
            await asyncio.sleep(status_seconds)
            print(json.dumps(client.report()), flush=True)

    telling = asyncio.create_task(tell())
    try:
        await client.run()
    finally:
        telling.cancel()
        text = json.dumps(client.report())
        print(text, flush=True)
        if report is not None:
            report.write_text(text + "\n", encoding="utf-8")  # noqa: ASYNC240 - nothing else is left to run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="MODEL_ROLLOUTS_GATEWAY_TOKEN: the gateway's token.")
    parser.add_argument("--gateway", required=True, help="base URL")
    parser.add_argument("--model", default="flights")
    parser.add_argument("--replay", type=Path, required=True, help="file made by mlflow/flights/replay.py")
    parser.add_argument("--rate", type=float, default=250.0, help="requests per second")
    parser.add_argument("--seconds", type=float, help="stop after this long")
    parser.add_argument("--label-delay", type=float, nargs=2, default=(1.0, 4.0), metavar=("MIN", "MAX"))
    parser.add_argument("--status-seconds", type=float, default=5.0, help="time between two status lines")
    parser.add_argument("--report", type=Path, help="write the last report here")
    given = parser.parse_args()
    try:
        low, high = given.label_delay
        options = TrafficOptions(
            given.gateway,
            given.model,
            given.replay,
            given.rate,
            given.seconds,
            (low, high),
            token=os.environ.get("MODEL_ROLLOUTS_GATEWAY_TOKEN", ""),
        )
    except ValueError as error:
        sys.exit(str(error))
    import uvloop

    uvloop.run(_main(options, given.status_seconds, given.report))


if __name__ == "__main__":
    main()
