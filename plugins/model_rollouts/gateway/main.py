"""The serving process: `rollouts gateway`, or `python -m model_rollouts.gateway.main`."""

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import uvicorn
from fastapi import FastAPI

from model_rollouts.adapters.mlflow_client import DEFAULTS
from model_rollouts.gateway import environment
from model_rollouts.gateway.app import create_app
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.dataplane import DataPlane
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.front import Front
from model_rollouts.gateway.loading import MlflowLoader
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.memory import MB, MemoryLimit
from model_rollouts.gateway.metrics import Metrics
from model_rollouts.gateway.metrics_families import Sources
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.processes import SUPERVISED
from model_rollouts.gateway.reporter import Reporter
from model_rollouts.gateway.serving import AddressInUseError, GatewayServer, Leave, bind, end_with_supervisor
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import Spool, SpoolInUseError
from model_rollouts.gateway.startup import BadSettingsError, log_as_json, read_settings
from model_rollouts.gateway.upstream import Upstreams
from model_rollouts.wiring import Wiring

_KEEP_ALIVE_SECONDS = 65


def build(settings: GatewaySettings, leave: Leave) -> tuple[Front, Follower]:
    """The application with all its parts, which start and stop with it, and the one that knows whether it can answer.

    Args:
        settings: Of this process.
        leave: Says how long is left once the process is to end.

    Raises:
        SpoolInUseError: Another process runs under the same gateway id.
    """
    wiring = Wiring(settings)
    spool = Spool(
        settings.spool_dir,
        settings.gateway_id,
        partial(open_writer, settings.log_dir),
        settings.flush_seconds,
        settings.max_spool_bytes,
    )
    in_process = MlflowLoader(
        settings.mlflow_tracking_uri,
        settings.max_batch_rows,
        settings.max_waiting_rows,
        settings.batch_wait_ms / 1000,
    )
    upstreams = Upstreams(in_process, settings, lambda *call: metrics.recorder.batch(*call))  # noqa: PLW0108  # made below
    follower = Follower(
        poll=lambda: wiring.store.all_traffic(),  # noqa: PLW0108  # the store is opened with the first poll, not now
        adopt=lambda model: wiring.service.adopt(model, actor=f"gateway {settings.gateway_id}"),
        loader=upstreams,
        models=settings.models,
        poll_seconds=settings.poll_seconds,
        retry_seconds=settings.retry_seconds,
        settled=_FreezeOnce(),
        memory=MemoryLimit(settings.max_memory_mb * MB, upstreams.size) if settings.max_memory_mb else None,
    )
    mirror = Mirror(spool, follower.in_force, settings)
    reporter = Reporter(lambda: wiring.service, f"gateway {settings.gateway_id}", settings.retry_seconds)
    breakers = Breakers(settings.breaker_failures, reporter.roll_back)
    sources = Sources(follower, spool, mirror, breakers.tripped, upstreams.problems)
    metrics = Metrics(settings.gateway_id, sources)
    plane = DataPlane(follower, spool, mirror, breakers, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        spool.start()
        upstreams.start()
        follower.start()
        mirror.start()
        reporter.start()
        metrics.start()
        await asyncio.to_thread(environment.packages)  # now, and not while callers wait
        try:
            yield
        finally:
            follower.stop()
            reporter.stop()
            await mirror.close(leave.remaining())
            await upstreams.close()
            await metrics.close()
            await asyncio.to_thread(spool.close)

    app = create_app(settings, follower=follower, plane=plane, spool=spool, mirror=mirror, lifespan=lifespan)
    return app, follower


class _FreezeOnce:
    """Takes what is loaded out of the garbage collector's sight, so that it never stalls a request to look at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False

    def __call__(self) -> None:
        with self._lock:
            if not self._done:
                gc.collect()
                gc.freeze()
                self._done = True


def run() -> None:
    """Serve until SIGTERM; then finish open requests and commit the log.

    Raises:
        SystemExit: The settings do not hold, or another process has the address or the gateway id.
    """
    log_as_json()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        settings = read_settings()
        leave = Leave()
        app, follower = build(settings, leave)
        own = bind(settings.host, settings.port)
        shared = [] if settings.shared_port is None else bind(settings.host, settings.shared_port, shared=True)
    except (BadSettingsError, SpoolInUseError, AddressInUseError) as error:
        raise SystemExit(str(error)) from error
    if SUPERVISED in sys.argv[1:]:
        end_with_supervisor()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    notice, drain = settings.drain_notice_seconds, settings.drain_seconds
    GatewayServer(config, leave, notice, drain, shared, lambda: follower.healthy).run(sockets=own)


if __name__ == "__main__":
    run()
