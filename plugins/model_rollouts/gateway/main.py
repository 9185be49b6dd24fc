"""The serving process: `rollouts gateway`, or `python -m model_rollouts.gateway.main`."""

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from model_rollouts.adapters.mlflow_client import DEFAULTS
from model_rollouts.gateway import environment
from model_rollouts.gateway.app import create_app
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.dataplane import DataPlane
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.front import Front
from model_rollouts.gateway.loading import MlflowLoader
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.reporter import Reporter
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import Spool, SpoolInUseError
from model_rollouts.gateway.upstream import Upstreams
from model_rollouts.wiring import Wiring

_KEEP_ALIVE_SECONDS = 65


def build(settings: GatewaySettings) -> Front:
    """The application with all its parts; they start and stop with it.

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
    upstreams = Upstreams(in_process, settings)
    follower = Follower(
        poll=lambda: wiring.store.all_traffic(),  # noqa: PLW0108  # the store is opened with the first poll, not now
        adopt=lambda model: wiring.service.adopt(model, actor=f"gateway {settings.gateway_id}"),
        loader=upstreams,
        models=settings.models,
        poll_seconds=settings.poll_seconds,
        retry_seconds=settings.retry_seconds,
        settled=_FreezeOnce(),
    )
    mirror = Mirror(spool, follower.in_force, settings)
    reporter = Reporter(lambda: wiring.service, f"gateway {settings.gateway_id}", settings.retry_seconds)
    breakers = Breakers(settings.breaker_failures, reporter.roll_back)
    plane = DataPlane(follower, spool, mirror, breakers, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        spool.start()
        upstreams.start()
        follower.start()
        mirror.start()
        reporter.start()
        await asyncio.to_thread(environment.packages)  # now, and not while callers wait
        try:
            yield
        finally:
            follower.stop()
            reporter.stop()
            await mirror.close(settings.drain_seconds)
            await upstreams.close()
            await asyncio.to_thread(spool.close)

    return create_app(settings, follower=follower, plane=plane, spool=spool, mirror=mirror, lifespan=lifespan)


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
        SystemExit: The settings do not hold, or another process runs under the same gateway id.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        settings = GatewaySettings()
        app = build(settings)
    except (ValidationError, SpoolInUseError) as error:
        raise SystemExit(str(error)) from error
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
    )


if __name__ == "__main__":
    run()
