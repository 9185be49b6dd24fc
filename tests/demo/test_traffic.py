"""The load client against a small server on this machine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from demo.traffic import TrafficClient, TrafficOptions


@dataclass
class Gateway:
    """A stand-in that records what it is sent."""

    port: int = 0
    requests: list[tuple[str, str, object]] = field(default_factory=list)
    outcomes: list[dict[str, str]] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)
    status: int = 200
    outcome_status: int = 200

    async def invoke(self, request: web.Request) -> web.Response:
        self.shown.add(request.headers.get("Authorization", ""))
        body = json.loads(await request.read())
        entry = (request.headers["X-Request-Id"], request.headers["X-Unit-Id"], body["row"])
        if self.status == 200:
            self.requests.append(entry)
        return web.json_response({}, status=self.status, headers={"X-Model-Version": "7"})

    async def take(self, request: web.Request) -> web.Response:
        self.shown.add(request.headers.get("Authorization", ""))
        if self.outcome_status == 200:
            known = {entry[0] for entry in self.requests}
            for outcome in await request.json():
                self.outcomes.append(outcome)
                if outcome["request_id"] not in known:
                    self.early.append(outcome["request_id"])
        return web.json_response({}, status=self.outcome_status)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/models/flights/invocations", self.invoke)
        app.router.add_post("/models/flights/outcomes", self.take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            await runner.cleanup()


@pytest.fixture
def replay(tmp_path: Path) -> Path:
    path = tmp_path / "replay.tsv"
    path.write_text("".join(f'N{i}\t{i % 2}\t{{"row": {i}}}\n' for i in range(10)))
    return path


def options(url: str, replay: Path, **more: object) -> TrafficOptions:
    given = {"rate": 200.0, "seconds": 0.5, "label_delay": (0.02, 0.1), **more}
    return TrafficOptions(url, "flights", replay, **given)  # type: ignore[arg-type]


async def until(ready: object) -> None:
    async with asyncio.timeout(10):
        while not ready():  # type: ignore[operator]  # noqa: ASYNC110 - the counts it asks for raise no event
            await asyncio.sleep(0.01)


def test_replays_in_order_with_ids_and_units_and_begins_again_at_the_end(replay: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway()
        async with gateway.up() as url:
            client = TrafficClient(options(url, replay, in_flight=1))
            await client.run()
        assert 20 < len(gateway.requests) <= 100
        assert client.counts.sent == client.counts.answered == len(gateway.requests)
        ids, units, rows = zip(*gateway.requests, strict=True)
        assert len(set(ids)) == len(ids)
        assert all(unit == f"N{row}" for unit, row in zip(units, rows, strict=True))

    asyncio.run(scenario())


@pytest.mark.parametrize(("token", "shown"), [("secret", "Bearer secret"), ("", "")])
def test_shows_the_gateways_token_with_requests_and_outcomes(replay: Path, token: str, shown: str) -> None:
    async def scenario() -> None:
        gateway = Gateway()
        async with gateway.up() as url:
            await TrafficClient(options(url, replay, token=token)).run()
        assert gateway.outcomes
        assert gateway.shown == {shown}
        assert "secret" not in repr(options(url, replay, token=token))

    asyncio.run(scenario())


def test_sends_every_flight_in_time_order(replay: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway()
        async with gateway.up() as url:
            await TrafficClient(options(url, replay)).run()
        numbers = sorted(int(entry[0].rsplit("-", 1)[1]) for entry in gateway.requests)
        by_number = {int(entry[0].rsplit("-", 1)[1]): entry[2] for entry in gateway.requests}
        assert numbers == list(range(1, len(numbers) + 1))
        assert [by_number[n] for n in numbers] == [(n - 1) % 10 for n in numbers]

    asyncio.run(scenario())


def test_each_answered_request_gets_its_label_once_and_not_before_its_answer(replay: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway()
        async with gateway.up() as url:
            await TrafficClient(options(url, replay)).run()
        truth = {request_id: str(row % 2) for request_id, _, row in gateway.requests}  # type: ignore[operator]
        assert gateway.early == []
        assert len(gateway.outcomes) == len(truth)
        assert {o["request_id"]: o["label"] for o in gateway.outcomes} == truth

    asyncio.run(scenario())


def test_a_restart_of_the_gateway_loses_no_label_and_does_not_end_the_client(replay: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway()
        async with gateway.up() as url:
            client = TrafficClient(options(url, replay, seconds=None))
            running = asyncio.create_task(client.run())
            await until(lambda: client.counts.answered > 20)
        await until(lambda: client.counts.failed > 5)
        before = client.counts.answered
        async with gateway.up():
            await until(lambda: client.counts.answered > before + 20)
            client.stop()
            await running
        assert {o["request_id"] for o in gateway.outcomes} >= {entry[0] for entry in gateway.requests[:before]}
        assert client.counts.outcomes == client.counts.answered == len(gateway.outcomes)
        assert client.counts.sent == client.counts.answered + client.counts.failed + client.counts.refused

    asyncio.run(scenario())


def test_outcomes_that_are_refused_are_sent_again(replay: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway(outcome_status=503)
        async with gateway.up() as url:
            client = TrafficClient(options(url, replay, seconds=None))
            running = asyncio.create_task(client.run())
            await until(lambda: client.counts.answered > 60)
            assert client.counts.outcomes == 0
            gateway.outcome_status = 200
            client.stop()
            await running
        assert len(gateway.outcomes) == client.counts.answered > 60

    asyncio.run(scenario())


def test_refusals_are_counted_and_get_no_label(replay: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway(status=503)
        async with gateway.up() as url:
            client = TrafficClient(options(url, replay, seconds=0.3))
            await client.run()
        assert client.counts.refused == client.counts.sent > 0
        assert client.counts.answered == 0
        assert gateway.outcomes == []

    asyncio.run(scenario())


def test_the_report_is_json_with_counts_versions_and_quantiles(replay: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway()
        async with gateway.up() as url:
            client = TrafficClient(options(url, replay))
            await client.run()
        report = json.loads(json.dumps(client.report()))
        assert report["answered"] == report["versions"]["7"] == len(gateway.requests)
        assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]

    asyncio.run(scenario())


@pytest.mark.parametrize("content", ["", "one\ttwo\n"])
def test_a_broken_replay_file_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "replay.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"is empty|has 2 parts"):
        asyncio.run(TrafficClient(options("http://127.0.0.1:9", path)).run())


@pytest.mark.parametrize(
    ("bad", "message"), [({"rate": 0.0}, "rate is 0"), ({"label_delay": (4.0, 1.0)}, "4 to 1"), ({"in_flight": 0}, "0")]
)
def test_nonsense_is_refused(replay: Path, bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options("http://127.0.0.1:9", replay, **bad)
