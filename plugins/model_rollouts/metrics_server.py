"""An address that Prometheus asks for the rollouts' metrics. It reads the store and nothing else."""

import hmac
import ipaddress
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from model_rollouts.core.errors import NotReadyError

_SHORTEST_TOKEN = 16


def make_server(
    host: str, port: int, render: Callable[[], bytes], content_type: str, token: str = ""
) -> ThreadingHTTPServer:
    """The server, bound and not yet serving.

    Args:
        host: Address to listen on.
        port: Its port; 0: any that is free.
        render: Makes the text.
        content_type: Of the text.
        token: Bearer token that every request needs; "": none, on this machine alone.

    Raises:
        NotReadyError: It would listen beyond this machine without a token, or the token could be guessed.
    """
    if token and len(token) < _SHORTEST_TOKEN:
        raise NotReadyError(f"the token has {len(token)} characters, must have {_SHORTEST_TOKEN} or more")
    if not token and not _is_here(host):
        raise NotReadyError(
            f"{host} is reached from other machines; set MODEL_ROLLOUTS_METRICS_TOKEN, which Prometheus sends as its "
            "bearer token, or listen on 127.0.0.1"
        )

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "model-rollouts", ""
        timeout = 10  # seconds that a connection may say nothing

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if token and not hmac.compare_digest(
                self.headers.get("Authorization", "").encode(), f"Bearer {token}".encode()
            ):
                self._say(401, b"the bearer token is missing or wrong\n", "text/plain")
            elif path != "/metrics":
                self._say(404, b"only /metrics is here\n", "text/plain")
            else:
                self._say(200, render(), content_type)

        def _say(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
            """Nothing: a scrape is no news."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
