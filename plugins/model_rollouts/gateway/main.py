"""The serving process: `rollouts gateway`, or `python -m model_rollouts.gateway.main`."""

import os
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
import uvicorn

from model_rollouts.adapters.mlflow_client import DEFAULTS
from model_rollouts.gateway.app import create_app
from model_rollouts.gateway.connections import Connections, within_open_files
from model_rollouts.gateway.one_write import Limits, OneWriteProtocol
from model_rollouts.gateway.parts import Parts
from model_rollouts.gateway.processes import SUPERVISED
from model_rollouts.gateway.serving import AddressInUseError, GatewayServer, Leave, bind, end_with_supervisor
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import SpoolInUseError
from model_rollouts.gateway.startup import BadSettingsError, read_settings
from model_rollouts.gateway.tls import Certificate, CertificateError
from model_rollouts.gateway.tokens import TokensError
from model_rollouts.logs import log_to_stderr

_KEEP_ALIVE_SECONDS = 65
_CHUNKED = 8  # times as many bytes as a body has, when it is sent in chunks of one byte

_log = structlog.get_logger(__name__)


def run() -> None:
    """Serve until SIGTERM; then finish open requests and commit the log.

    Raises:
        SystemExit: The settings do not hold, or another process has the address or the gateway id.
    """
    try:
        log_to_stderr("json")
    except ValueError as error:
        raise SystemExit(str(error)) from error
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        settings = read_settings()
        leave = Leave()
        certificate = _certificate(settings)
        parts = Parts.of(settings, leave)
        own = bind(settings.host, settings.port)
        shared = [] if settings.shared_port is None else bind(settings.host, settings.shared_port, shared=True)
    except (BadSettingsError, SpoolInUseError, AddressInUseError, TokensError, CertificateError) as error:
        raise SystemExit(str(error)) from error
    if SUPERVISED in sys.argv[1:]:
        end_with_supervisor()
    connections = Connections(within_open_files(settings.max_connections))
    all_bytes = settings.max_header_bytes + _CHUNKED * settings.max_body_bytes
    limits = Limits(settings.max_header_bytes, settings.max_headers, all_bytes)
    http: Any = partial(OneWriteProtocol, all_of_them=connections, limits=limits)
    config = uvicorn.Config(
        create_app(parts),
        loop="uvloop",
        http=http,
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_level="warning",
        log_config=None,  # as everything else is logged
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
        ssl_context_factory=None if certificate is None else _always(certificate.context),
    )
    notice, drain = settings.drain_notice_seconds, settings.drain_seconds
    GatewayServer(config, leave, notice, drain, shared, lambda: parts.follower.healthy).run(sockets=own)


def _certificate(settings: GatewaySettings) -> Certificate | None:
    """The one that callers are shown, followed from now on; None: they are shown none."""
    if settings.tls_cert_file is None:
        if settings.is_seen_by_others:
            _log.warning(
                "tokens_in_clear", host=settings.host, remedy="set MODEL_ROLLOUTS_TLS_CERT_FILE, or a proxy does"
            )
        return None
    certificate = Certificate(settings.tls_cert_file, settings.tls_key_file, settings.tls_key_password)
    certificate.start()
    return certificate


def _always(context: ssl.SSLContext) -> Callable[..., ssl.SSLContext]:
    return lambda *_: context


if __name__ == "__main__":
    run()
