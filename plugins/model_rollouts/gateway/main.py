"""The serving process: `rollouts gateway`, or `python -m model_rollouts.gateway.main`."""

import os
import sys
from functools import partial
from typing import Any

import uvicorn

from model_rollouts.adapters.mlflow_client import DEFAULTS
from model_rollouts.gateway.app import create_app
from model_rollouts.gateway.connections import Connections, within_open_files
from model_rollouts.gateway.one_write import OneWriteProtocol
from model_rollouts.gateway.parts import Parts
from model_rollouts.gateway.processes import SUPERVISED
from model_rollouts.gateway.serving import AddressInUseError, GatewayServer, Leave, bind, end_with_supervisor
from model_rollouts.gateway.spool import SpoolInUseError
from model_rollouts.gateway.startup import BadSettingsError, log_as_json, read_settings

_KEEP_ALIVE_SECONDS = 65


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
        parts = Parts.of(settings, leave)
        own = bind(settings.host, settings.port)
        shared = [] if settings.shared_port is None else bind(settings.host, settings.shared_port, shared=True)
    except (BadSettingsError, SpoolInUseError, AddressInUseError) as error:
        raise SystemExit(str(error)) from error
    if SUPERVISED in sys.argv[1:]:
        end_with_supervisor()
    http: Any = partial(OneWriteProtocol, all_of_them=Connections(within_open_files(settings.max_connections)))
    config = uvicorn.Config(
        create_app(parts),
        loop="uvloop",
        http=http,
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    notice, drain = settings.drain_notice_seconds, settings.drain_seconds
    GatewayServer(config, leave, notice, drain, shared, lambda: parts.follower.healthy).run(sockets=own)


if __name__ == "__main__":
    run()
