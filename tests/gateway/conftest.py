"""A gateway whose models, store and log are in memory, so that a test decides what they do."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import structlog

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.app import create_app
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.callers import Callers
from model_rollouts.gateway.dataplane import DataPlane
from model_rollouts.gateway.errors import GatewayError
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.front import Front
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.metrics import Metrics, Recorder
from model_rollouts.gateway.metrics_families import Sources
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.open_inference_model import Interface, Tensor
from model_rollouts.gateway.parts import Parts
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.reading import SignatureReader
from model_rollouts.gateway.scorer import MicroBatcher
from model_rollouts.gateway.serving import Leave
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.signature import Signature
from model_rollouts.gateway.spool import Spool

COLUMNS = (Column("x", "double"), Column("n", "long", required=False))
Predict = Callable[[Any], Any]
_DATATYPES = {"double": "FP64", "float": "FP32", "long": "INT64", "string": "BYTES"}


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


class MemoryWriter:
    """A log in memory with the promise of the real one: a version that is not above the last is skipped."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.last: dict[tuple[str, str, str], int] = {}
        self.away = False
        self.fails_after_commit = False

    def open(self, app_id: str) -> "MemoryAppender":
        return MemoryAppender(self, app_id)

    def of(self, model: str = "m", table: str = "predictions") -> list[dict[str, Any]]:
        return self.rows.get((model, table), [])


@dataclass
class MemoryAppender:
    writer: MemoryWriter
    app_id: str

    def append(self, model: str, table: str, rows: Sequence[Mapping[str, Any]], version: int) -> bool:
        if self.writer.away:
            raise ConnectionError("the log is away")
        key = (self.app_id, model, table)
        if self.writer.last.get(key, -1) >= version:
            return False
        self.writer.last[key] = version
        self.writer.rows.setdefault((model, table), []).extend(dict(row) for row in rows)
        if self.writer.fails_after_commit:
            self.writer.fails_after_commit = False
            raise ConnectionError("the connection broke after the commit")
        return True


def double(frame: Any) -> Any:
    """The simplest model."""
    assert isinstance(frame, pd.DataFrame)
    return frame["x"].to_numpy() * 2


class Models:
    """A loader whose versions do what the test says."""

    def __init__(self) -> None:
        self.predicts: dict[str, Predict] = {}
        self.columns: dict[str, tuple[Column, ...]] = {}
        self.held: dict[str, threading.Event] = {}
        self.errors: dict[str, BaseException] = {}
        self.room: dict[str, int] = {}
        self.quick: dict[str, int] = {}
        self.says_no_outputs: set[str] = set()
        self.loads: list[tuple[str, bool]] = []

    def load(self, model: str, version: str, *, serving: bool) -> Version:
        self.loads.append((version, serving))
        if version in self.held:
            assert self.held[version].wait(10)
        if version in self.errors:
            raise self.errors[version]
        predict = self.predicts.get(version, double)
        room = self.room.get(version, 4096)
        scorer = MicroBatcher(
            lambda payload, _: predict(payload.data()), f"{model} {version}", 64, room, 0.0, self.quick.get(version, 0)
        )
        signature = Signature(self.columns.get(version, COLUMNS))
        inputs = tuple(Tensor(c.name, _DATATYPES[c.type], (-1, 1), None, c.required) for c in signature.columns)
        outputs = () if version in self.says_no_outputs else (Tensor("predictions", "FP64", (-1, 1)),)
        interface = Interface("columns", inputs, outputs)
        return Version(model, version, SignatureReader(signature), scorer, lambda _: None, interface)


@dataclass
class Gateway:
    """All parts, started."""

    settings: GatewaySettings
    writer: MemoryWriter
    models: Models
    table: dict[str, Traffic] = field(default_factory=dict)
    store_error: Exception | None = None
    reports: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    client: httpx.AsyncClient = field(init=False)
    follower: Follower = field(init=False)
    spool: Spool = field(init=False)
    mirror: Mirror = field(init=False)
    recorder: Recorder = field(init=False)
    app: Front = field(init=False)
    leave: Leave = field(default_factory=Leave)

    def poll(self) -> list[Traffic]:
        if self.store_error is not None:
            raise self.store_error
        return list(self.table.values())

    def set(self, traffic: Traffic) -> None:
        self.table[traffic.model] = traffic

    async def happens(self, condition: Callable[[], bool]) -> None:
        """Wait for what a thread or a task does."""
        await asyncio.to_thread(until, condition)

    async def routes_by(self, revision: int, model: str = "m") -> None:
        """Wait until a revision is in force, with the versions that can be loaded."""

        def done() -> bool:
            try:
                status, serving = self.follower.status(model), self.follower.serving(model)
            except GatewayError:
                return False
            state = status["versions"].get(serving.traffic.challenger, "")
            return (
                serving.traffic.revision == revision
                and "loading" not in status["versions"].values()
                and (serving.challenger is not None) == (state == "ready")
            )

        await self.happens(done)

    async def score(self, x: Any = 1.0, unit: str | None = None, request_id: str | None = None) -> httpx.Response:
        headers = {k: v for k, v in {"X-Unit-Id": unit, "X-Request-Id": request_id}.items() if v is not None}
        body = {"dataframe_records": [{"x": x}]}
        return await self.client.post("/models/m/invocations", json=body, headers=headers)

    async def rows(self) -> list[dict[str, Any]]:
        """Everything that was logged, committed now."""
        await asyncio.to_thread(self.spool.flush)
        return self.writer.of()


@pytest.fixture
def writer() -> MemoryWriter:
    return MemoryWriter()


@pytest.fixture
def gateway(tmp_path: Path, writer: MemoryWriter) -> Callable[..., Any]:
    """Makes a running gateway: `async with gateway(setting=...) as g`."""

    @asynccontextmanager
    async def start(**overrides: Any) -> AsyncIterator[Gateway]:
        options = {
            "gateway_id": "g1",
            "spool_dir": tmp_path / "spool",
            "challenger_timeout_seconds": 0.5,
            "champion_timeout_seconds": 2,
        }
        settings = GatewaySettings(**(options | overrides))
        g = Gateway(settings, writer, Models())
        g.spool = Spool(settings.spool_dir, settings.gateway_id, writer.open, 60, settings.max_spool_bytes)
        g.follower = Follower(
            poll=g.poll,
            adopt=lambda model: g.table.setdefault(model, Traffic(model, "1")),
            loader=g.models,
            models=settings.models,
            poll_seconds=0.005,
            retry_seconds=0.02,
        )
        g.recorder = Recorder(g.follower.follows)
        g.mirror = Mirror(g.spool, g.follower.in_force, g.recorder, settings)
        breakers = Breakers(settings.breaker_failures, 0.5, lambda *report: g.reports.append(report))
        plane = DataPlane(g.follower, g.spool, g.mirror, breakers, g.recorder, settings)
        callers = Callers.of(settings, g.recorder.caller)
        sources = Sources(g.follower, g.spool, g.mirror, breakers.tripped, tokens_ok=lambda: callers.problem is None)
        metrics = Metrics("g1", g.recorder, sources)
        rest: Any = None  # not started here
        parts = Parts(settings, g.leave, g.follower, plane, g.spool, g.mirror, rest, metrics, rest, rest, callers)

        app = g.app = create_app(parts)
        g.set(Traffic("m", "1"))
        g.follower.start()
        g.mirror.start()
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as g.client:
                await g.routes_by(1)
                yield g
        finally:
            g.follower.stop()
            await g.mirror.close(2)
            await asyncio.to_thread(g.spool.close)

    return start


def rollout(share: float, revision: int = 2, **more: Any) -> Traffic:
    """Traffic of a rollout of version 2."""
    options = {"rollout_id": "r1", "stage": 0, "salt": "s", "challenger": "2"} | more
    return Traffic("m", "1", share=share, revision=revision, **options)


@pytest.fixture(name="rollout")
def _rollout() -> Callable[..., Traffic]:
    return rollout


@pytest.fixture(name="until")
def _until() -> Callable[..., None]:
    return until


@contextmanager
def captured_logs() -> Iterator[list[Any]]:
    """What the gateway's modules log, at any level: Airflow, where a test has imported it, keeps warnings alone."""
    before = structlog.get_config()
    modules = [module for name, module in sys.modules.items() if name.startswith("model_rollouts.gateway.")]
    with pytest.MonkeyPatch.context() as patch:
        structlog.configure(wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
        for module in modules:
            if hasattr(module, "_log"):
                patch.setattr(module, "_log", structlog.get_logger(module.__name__))
        try:
            with structlog.testing.capture_logs() as logs:
                yield logs
        finally:
            structlog.configure(**before)
