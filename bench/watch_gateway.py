"""A stand-in for the gateway of many models, which has logged everything: what a watch asks of it, and no more."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

_STATUS = {
    "gateway_id": "stand-in",
    "versions": {"1": "ready", "2": "ready"},
    "routed_revision": 3,
    "backlog_seconds": 0,
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(_STATUS).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def answer_for_a_gateway(port: Connection) -> None:
    """Serve until killed.

    Args:
        port: Gets the port that it listens on.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    port.send(server.server_port)
    server.serve_forever()
