"""The registry by its REST interface, against a real MLflow server."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from model_rollouts.adapters import registry_snapshot
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.registry_snapshot import RestRegistry
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.registry_snapshot import VersionSeen


def test_says_what_the_registry_says(mlflow_server: str, registered_model: str) -> None:
    client = make_client(mlflow_server)
    client.set_registered_model_alias(registered_model, "champion", "1")
    client.set_registered_model_alias(registered_model, "challenger", "2")
    client.set_registered_model_tag(registered_model, "rollout.pattern.default", "shadow")
    for key, value in {"request": "canary", "params": "{}", "id": "r1", "state": "baking"}.items():
        client.set_model_version_tag(registered_model, "2", f"rollout.{key}", value)
    client.transition_model_version_stage(registered_model, "3", "Staging")

    found = RestRegistry(mlflow_server).snapshots([registered_model])[registered_model]

    assert (found.champion, found.challenger, found.default_pattern) == ("1", "2", "shadow")
    assert found.versions == {
        "2": VersionSeen("None", "canary", "{}", "r1", "baking"),
        "3": VersionSeen("Staging"),
    }
    assert abs(datetime.now(UTC) - found.created_at) < timedelta(minutes=10)


def test_all_models_are_read_page_by_page(
    mlflow_server: str, registered_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(mlflow_server)
    other = f"{registered_model}-other"
    client.create_registered_model(other)
    for model in (registered_model, other):
        client.set_registered_model_tag(model, "rollout.pattern.default", "shadow")
    client.set_model_version_tag(registered_model, "1", "rollout.request", "canary")
    client.set_registered_model_alias(registered_model, "challenger", "1")
    monkeypatch.setattr(registry_snapshot, "_MODELS_A_PAGE", 1)
    monkeypatch.setattr(registry_snapshot, "_VERSIONS_A_PAGE", 1)

    found = RestRegistry(mlflow_server).snapshots()

    alone = RestRegistry(mlflow_server).snapshots([registered_model, other])
    assert {model: found[model] for model in (registered_model, other)} == alone
    assert alone[registered_model].version("1").request == "canary"


def test_a_model_that_is_not_there_is_left_out(mlflow_server: str) -> None:
    assert RestRegistry(mlflow_server).snapshots(["nobody's model"]) == {}


def test_a_registry_that_is_away_is_told(closed_port: int) -> None:
    with pytest.raises(NotReadyError, match=f"127.0.0.1:{closed_port} can't be read"):
        RestRegistry(f"http://127.0.0.1:{closed_port}").snapshots()


class Answers(BaseHTTPRequestHandler):
    """A server that is no MLflow: says what the test wants it to say, and keeps what it was sent."""

    content: ClassVar[Any] = {}
    status = 200
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        body = self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def odd_server() -> Iterator[tuple[str, type[Answers]]]:
    handler = type("Handler", (Answers,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>a proxy</html>"),
        (200, []),
        (500, {"message": "down"}),
        (404, {"message": "no such path"}),
        (403, {"error_code": "PERMISSION_DENIED"}),
        (200, {"registered_model": {"name": "m"}}),
        (200, {"registered_model": "m"}),
        (200, {"other": 1}),
    ],
)
def test_half_an_answer_is_never_taken_for_the_registry(odd_server: Any, status: int, content: Any) -> None:
    url, handler = odd_server
    handler.status, handler.content = status, content

    with pytest.raises(NotReadyError):
        RestRegistry(url).snapshots(["m"])


def test_pages_without_end_are_given_up(odd_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, handler = odd_server
    handler.content = {"registered_models": [], "next_page_token": "again"}
    monkeypatch.setattr(registry_snapshot, "_MOST_PAGES", 3)

    with pytest.raises(NotReadyError, match="more than 3 pages"):
        RestRegistry(url).snapshots()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "t0ken"}, "Bearer t0ken"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "Basic dTpw"),
    ],
)
def test_credentials_of_the_environment_are_sent(
    odd_server: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    url, handler = odd_server
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    RestRegistry(url).snapshots()

    assert [headers["Authorization"] for headers in handler.seen] == [expected] * 2


def test_needs_no_mlflow() -> None:
    code = (
        "import sys, model_rollouts.adapters.registry_snapshot, model_rollouts.adapters.sql_registry_changes;"
        "print([m for m in ('mlflow', 'pandas', 'airflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "[]"
