"""`rollouts start` with a stand-in for Airflow's API, which starts the rollout in a real store as preflight would."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.cli import app
from model_rollouts.core import rollout as core
from model_rollouts.core.names import rollout_id_for
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, Rollout
from model_rollouts.core.traffic import Traffic


class StandInAirflow:
    """Takes a run and says how it goes; what a started run does to the store is up to the test."""

    def __init__(self) -> None:
        self.dag: dict[str, Any] | None = {"dag_id": "canary", "is_paused": False}
        self.state = "running"
        self.runs: list[dict[str, Any]] = []
        self.begins: Callable[[str], None] = lambda run_id: None
        airflow = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith("/taskInstances"):
                    task = {"task_id": "preflight", "state": "failed", "end_date": "2026", "try_number": 1}
                    self._say(200, {"task_instances": [task]})
                elif "/logs/" in self.path:
                    line = {"level": "error", "event": "Task failed", "error_detail": [{"exc_value": "no champion"}]}
                    self._say(200, {"content": [line]})
                elif "/dagRuns/" in self.path:
                    self._say(200, {"state": airflow.state})
                else:
                    self._say(404 if airflow.dag is None else 200, airflow.dag or {"detail": "none"})

            def do_POST(self) -> None:
                run = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                airflow.runs.append(run)
                airflow.begins(run["dag_run_id"])
                self._say(200, run)

            def _say(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInAirflow]:
    made = StandInAirflow()
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_AIRFLOW_URL", made.url)
    monkeypatch.setenv("MODEL_ROLLOUTS_AIRFLOW_TOKEN", "t")
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def store(tmp_path: Path, airflow: StandInAirflow) -> Iterator[SqlStore]:
    made = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    made.migrate()
    made.apply(core.adopt("flights", "1", Cause("test", datetime.now(UTC), "first seen")))
    yield made
    made.close()


def _start(*more: str) -> Result:
    return CliRunner().invoke(app, ["start", "flights", "--reason", "new features", "--challenger", "2", *more])


def _steps(store: SqlStore, run_id: str, *steps: Callable[[Rollout, Traffic, Cause], Any]) -> None:
    """What the run's tasks do to the store."""
    rollout_id = rollout_id_for("flights", "2", "canary", run_id)
    cause = Cause("test", datetime.now(UTC), "because")
    traffic = store.traffic("flights")
    assert traffic is not None
    store.apply(core.start(rollout_id, plan_canary(CanaryParameters(steps=(100,))), "2", "s", traffic, cause))
    for step in steps:
        traffic = store.traffic("flights")
        assert traffic is not None
        store.apply(step(store.rollout(rollout_id), traffic, cause))
        time.sleep(0.1)


_OPENS = (lambda r, t, c: core.open_stage(r, t, 0, c),)
_PROMOTES = (*_OPENS, lambda r, t, c: core.clear(r, t, 0, c), core.cut_over)
_ROLLS_BACK = (*_OPENS, core.roll_back)


def test_the_run_gets_the_forms_values_and_who_wants_it_and_why(airflow: StandInAirflow, store: SqlStore) -> None:
    answer = _start("--set", "steps=[5,100]", "--by", "anna")

    assert answer.exit_code == 0, answer.output
    (run,) = airflow.runs
    assert run["conf"].pop("requested_by").startswith("anna via ")
    assert run["conf"] == {"steps": [5, 100], "model": "flights", "challenger": "2", "reason": "new features"}
    assert run["note"] == "new features"
    assert rollout_id_for("flights", "2", "canary", run["dag_run_id"]) in answer.output


@pytest.mark.parametrize(("steps", "code", "said"), [(_PROMOTES, 0, "is promoted"), (_ROLLS_BACK, 1, "is rolled_back")])
def test_waiting_ends_with_the_rollout(
    airflow: StandInAirflow, store: SqlStore, steps: Any, code: int, said: str
) -> None:
    airflow.begins = lambda run_id: threading.Thread(target=_steps, args=(store, run_id, *steps)).start()

    answer = _start("--wait", "--timeout", "60")

    assert answer.exit_code == code, answer.output
    assert said in answer.output.splitlines()[-1]


def test_a_rollout_that_does_not_begin_is_told_with_what_its_task_said(
    airflow: StandInAirflow, store: SqlStore
) -> None:
    airflow.state = "failed"

    answer = _start("--wait")

    assert answer.exit_code == 3
    assert answer.stderr == "error: the rollout did not start: task preflight failed: no champion\n"


def test_waiting_has_an_end(airflow: StandInAirflow, store: SqlStore) -> None:
    before = _start("--wait", "--timeout", "1")
    airflow.begins = lambda run_id: _steps(store, run_id, *_OPENS)
    under_way = _start("--wait", "--timeout", "1")

    assert (before.exit_code, under_way.exit_code) == (6, 6)
    assert "has not begun: the run is running" in before.stderr
    assert "is baking at stage 1" in under_way.stderr


def test_a_dag_that_is_paused_or_not_there_starts_nothing(airflow: StandInAirflow, store: SqlStore) -> None:
    airflow.dag = {"dag_id": "canary", "is_paused": True}
    paused = _start()
    airflow.dag = None
    absent = _start()

    assert (paused.exit_code, absent.exit_code) == (3, 4)
    assert "airflow dags unpause canary" in paused.stderr
    assert "`rollouts init`" in absent.stderr
    assert airflow.runs == []
