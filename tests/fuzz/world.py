"""A gateway on a port of its own: its real HTTP side and a real Delta log, with models that a test decides on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from tests.gateway.conftest import Models, until

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.app import create_app
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.callers import Callers
from model_rollouts.gateway.connections import Connections
from model_rollouts.gateway.dataplane import DataPlane
from model_rollouts.gateway.errors import GatewayError
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.metrics import Metrics, Recorder
from model_rollouts.gateway.metrics_families import Sources
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.one_write import OneWriteProtocol
from model_rollouts.gateway.parts import Parts
from model_rollouts.gateway.serving import GatewayServer, Leave, bind
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import Spool

TRAFFIC = Traffic("m", "1", share=30.0, revision=2, rollout_id="r1", stage=0, salt="s", challenger="2")


@dataclass(frozen=True)
class World:
    """It, running.

    Attributes:
        url: Its address.
        log: Folder of its Delta tables.
        spool: To be flushed before the tables are read.
    """

    url: str
    log: Path
    spool: Spool


@contextmanager
def serving(root: Path, **options: Any) -> Iterator[World]:
    """The gateway of model m, with a challenger for a part of its units.

    Args:
        root: For its files.
        options: Settings.
    """
    settings = GatewaySettings(gateway_id="g1", spool_dir=root / "spool", models=("m",), **options)
    spool = Spool(settings.spool_dir, "g1", partial(open_writer, root / "log"), 60, settings.max_spool_bytes)
    follower = Follower(
        poll=lambda: [TRAFFIC],
        adopt=lambda model: None,
        loader=Models(),
        models=settings.models,
        poll_seconds=0.05,
        retry_seconds=0.05,
    )
    recorder = Recorder(follower.follows)
    mirror = Mirror(spool, follower.in_force, recorder, settings)
    breakers = Breakers(0, 0.5, lambda *_: None)
    plane = DataPlane(follower, spool, mirror, breakers, recorder, settings)
    metrics = Metrics("g1", recorder, Sources(follower, spool, mirror, breakers.tripped))
    callers, leave = Callers.of(settings, recorder.caller), Leave()
    rest: Any = None  # not started here
    app = create_app(Parts(settings, leave, follower, plane, spool, mirror, rest, metrics, rest, rest, callers))
    http: Any = partial(OneWriteProtocol, all_of_them=Connections(100))
    config = uvicorn.Config(app, loop="uvloop", http=http, ws="none", lifespan="off", log_level="critical")
    sockets = bind("127.0.0.1", 0)
    server = _Server(config, leave, 0.0, 2.0)
    server.mirror = mirror
    thread = threading.Thread(target=lambda: server.run(sockets=sockets))
    follower.start()
    thread.start()
    try:
        until(lambda: server.started and _serves(follower))
        yield World(f"http://127.0.0.1:{sockets[0].getsockname()[1]}", root / "log", spool)
    finally:
        server.should_exit = True
        thread.join(10)
        follower.stop()
        spool.close()


class _Server(GatewayServer):
    """Starts what needs the loop."""

    mirror: Mirror

    async def startup(self, sockets: Any = None) -> None:
        self.mirror.start()
        await super().startup(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        await self.mirror.close(2)


def _serves(follower: Follower) -> bool:
    try:
        return follower.serving("m").challenger is not None
    except GatewayError:
        return False
