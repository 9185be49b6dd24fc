"""What the fault suite's callers count, and whom its kills reach."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.faults.callers import Callers

_GOOD = json.dumps({"predictions": [1]})


@contextmanager
def _gateway(body: str, **headers: str) -> Iterator[str]:
    """A gateway that says 200 and this to everybody; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            said = {"X-Request-Id": self.headers["X-Request-Id"], "X-Model-Version": "1"} | headers
            for name, value in (said | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def _asking(url: str) -> Iterator[Callers]:
    """Somebody who has asked at least three times."""
    with Callers([url], "m", 50.0, "q") as callers:
        while len(callers.requests) < 4:
            threading.Event().wait(0.01)
    yield callers


def test_a_whole_answer_is_an_answer() -> None:
    with _gateway(_GOOD) as url, _asking(url) as callers:
        assert all((each.prediction, each.version) == (1, "1") for each in callers.requests)
        assert not callers.lost
        assert not callers.left


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ('{"predictions": [1', {}),
        ('{"predictions": []}', {}),
        ('{"predictions": [1, 1]}', {}),
        ('{"predictions": [NaN]}', {}),
        ('{"predictions": [null]}', {}),
        ("[]", {}),
        ("", {}),
        (_GOOD, {"X-Model-Version": ""}),
        (_GOOD, {"X-Request-Id": "somebody-elses"}),
    ],
)
def test_an_answer_that_says_200_and_is_none_is_lost_and_asked_of_nobody_else(
    body: str, headers: dict[str, str]
) -> None:
    with _gateway(body, **headers) as url, _asking(url) as callers:
        assert callers.lost == callers.requests
        assert callers.left == {"broken answer": len(callers.requests)}
