"""`rollouts doctor` beside a real store, registry, log and gateway, and beside none of them."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.offline_past import logged_model, register
from typer.testing import CliRunner

from bench.serving import serving
from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.cli import app

_NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
_EXPECTATIONS = Path(__file__).parents[1] / "expectations"

Doctor = Callable[..., tuple[int, dict[str, dict[str, str]]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Asks it, with settings; its exit code, and what it found by name."""
    common = {
        "MODEL_ROLLOUTS_STORE_URL": f"sqlite:///{tmp_path / 'store.db'}",
        "MODEL_ROLLOUTS_LOG_DIR": str(tmp_path / "log"),
        "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": _NOWHERE,
        "MODEL_ROLLOUTS_GATEWAY_URL": _NOWHERE,
        "MODEL_ROLLOUTS_EXPECTATIONS_DIR": str(_EXPECTATIONS),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }

    def ask(seconds: float = 30.0, **settings: str) -> tuple[int, dict[str, dict[str, str]]]:
        with monkeypatch.context() as patch:
            for name, value in (common | settings).items():
                patch.setenv(name, value)
            result = CliRunner().invoke(app, ["doctor", "--json", "--seconds", str(seconds)])
        assert result.stdout.startswith("["), result.output
        return result.exit_code, {each["what"]: each for each in json.loads(result.stdout)}

    return ask


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    made.migrate()
    yield made
    made.close()


def healths(found: dict[str, dict[str, str]]) -> dict[str, str]:
    return {what: each["health"] for what, each in found.items()}


def test_without_anything_each_thing_says_what_to_do(doctor: Doctor) -> None:
    code, found = doctor(MODEL_ROLLOUTS_EXPECTATIONS_DIR="/nowhere")
    assert code == 1
    assert healths(found)["store"] == "failed"
    assert "rollouts db upgrade" in found["store"]["detail"] + found["store"]["remedy"]
    assert found["data checks"]["detail"] == "/nowhere has no predictions.json, outcomes.json"
    failed = [each for each in found.values() if each["health"] == "failed"]
    assert all(each["remedy"] or "rollouts db upgrade" in each["detail"] for each in failed)


def test_a_new_store_is_no_failure_and_what_is_away_is_told(doctor: Doctor, store: SqlStore) -> None:
    code, found = doctor()
    assert code == 1, "there is no MLflow"
    assert healths(found) == {
        "store": "warning",
        "registry": "failed",
        "gateways": "unused",
        "engine": "ok",
        "log": "unused",
        "data checks": "ok",
        "airflow": "unused",
        "webhook": "unused",
    }
    assert "127.0.0.1" in found["registry"]["detail"]
    assert "MLFLOW_TRACKING_URI" in found["registry"]["remedy"]


def test_what_hangs_is_given_up_and_the_rest_is_looked_at(doctor: Doctor, store: SqlStore) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        began = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, found = doctor(1.0, MODEL_ROLLOUTS_MLFLOW_TRACKING_URI=url, MODEL_ROLLOUTS_WEBHOOK_SECRET="short")
    assert time.monotonic() - began < 10
    assert code == 1
    assert found["registry"]["detail"] == "no answer within 1 s"
    assert found["data checks"]["health"] == "ok"
    assert found["webhook"]["health"] == "warning"


def test_a_password_is_not_shown(doctor: Doctor) -> None:
    url = "postgresql://me:hush@127.0.0.1:9/x"
    http = "http://me:hush@127.0.0.1:9"
    _, found = doctor(5.0, MODEL_ROLLOUTS_STORE_URL=url, MODEL_ROLLOUTS_MLFLOW_TRACKING_URI=http)
    assert found["store"]["health"] == found["registry"]["health"] == "failed"
    assert "hush" not in json.dumps(found)


def test_an_engine_that_is_not_there_is_told(doctor: Doctor, store: SqlStore) -> None:
    log = "postgresql://me:hush@127.0.0.1:9/x"
    _, found = doctor(10.0, MODEL_ROLLOUTS_LOG_URL=log, MODEL_ROLLOUTS_ENGINE="postgresql")
    assert found["engine"]["health"] == "failed"
    assert "hush" not in json.dumps(found)


def test_the_command_ends_though_something_hangs(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("MODEL_ROLLOUTS_", "MLFLOW_"))
            },
            "MODEL_ROLLOUTS_STORE_URL": f"sqlite:///{tmp_path / 'none.db'}",
            "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": url,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "600",
        }
        command = [str(Path(sys.executable).parent / "rollouts"), "doctor", "--seconds", "1"]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "no answer within 1 s" in done.stdout


def test_beside_a_running_gateway_everything_is_well_and_a_moved_alias_is_told(
    doctor: Doctor, tmp_path: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = register(mlflow_server, logged_model(mlflow_server))
    client = make_client(mlflow_server)
    root = tmp_path / "gateway"
    root.mkdir()
    with serving(root, mlflow_server, model=model) as (gateway, _):
        settings: dict[str, Any] = {
            "MODEL_ROLLOUTS_STORE_URL": gateway.store_url,
            "MODEL_ROLLOUTS_LOG_DIR": str(root / "log"),
            "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": mlflow_server,
            "MODEL_ROLLOUTS_GATEWAY_URL": gateway.url,
        }
        code, found = doctor(**settings)
        assert code == 0, found
        assert found[f"gateways of {model}"] | {"remedy": ""} == {
            "what": f"gateways of {model}",
            "health": "ok",
            "detail": "1 processes, versions 1 ready",
            "remedy": "",
        }
        assert found[f"log of {model}"]["health"] == "warning", "nobody asked yet"
        with monkeypatch.context() as holding:
            holding.setattr(GatewayClient, "backlog", lambda self, model: {"g-1": 95.0, "g-2": 0.0})
            code, found = doctor(**settings)
        told = found[f"gateways of {model}"]
        assert (code, told["health"]) == (0, "warning")
        assert "gateway g-1 has rows of" in told["detail"]
        client.delete_registered_model_alias(model, "champion")
        code, found = doctor(**settings)
        assert code == 0
        assert found[f"aliases of {model}"]["health"] == "warning"
    code, found = doctor(**settings)
    assert code == 1
    assert found[f"gateways of {model}"]["health"] == "failed"
    assert found["store"]["health"] == "ok"
