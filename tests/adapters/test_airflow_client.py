"""DAGs that undo data, through the REST API of a real Airflow.

Its scheduler is left out: the tests say how a run goes, and a retry finds what was said. What a real Airflow does not
do on demand (being away, forgetting a token) is done by a stand-in for its API.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from tests.conftest import _end_group, _end_with_us, _wait_until_healthy
from tests.ports import free_port

from demo.databases import kept_database
from model_rollouts.adapters import airflow_client
from model_rollouts.adapters.airflow_client import AirflowClient, AirflowError
from model_rollouts.adapters.data_undo import DataUndoer
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import DataRollbackError, NotReadyError
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

ROLLOUT = {"id": "ro-1", "model": "flights", "champion": "1", "challenger": "2", "position": 1}
DAGS = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param

for name in ("undo_features", "undo_paused"):
    params = {"day": Param("2026-01-01", type="string", format="date")}
    with DAG(name, schedule=None, is_paused_upon_creation=name == "undo_paused", params=params):
        EmptyOperator(task_id="undo")
"""


@pytest.fixture(scope="session")
def airflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real API server with two DAGs and a user."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "undo.py").write_text(DAGS)
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({"undoer": "sesame"}))
    port = free_port()
    settings = {
        "CORE__DAGS_FOLDER": home / "dags",
        "CORE__PLUGINS_FOLDER": home / "plugins",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "undoer:op",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "LOGGING__LOGGING_LEVEL": "WARNING",
    }
    env = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    env |= {"AIRFLOW_HOME": str(home), **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-m", "airflow"]
    with kept_database(home / "airflow.db", "airflow") as there:
        for step in ([] if there else [["db", "migrate"]]) + [["dags", "reserialize"]]:
            subprocess.run([*command, *step], env=env, check=True, capture_output=True, timeout=240)
    log = home / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            **{"cwd": home, "env": env, "stdout": out, "stderr": subprocess.STDOUT, "process_group": 0},
        )
    watch = _end_with_us(process)
    try:
        _wait_until_healthy(process, f"http://127.0.0.1:{port}/api/v2/version", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end_group(process)
        watch.communicate()


@pytest.fixture
def client(airflow_url: str) -> AirflowClient:
    return AirflowClient(airflow_url, user="undoer", password="sesame")


class Person:
    """Looks at runs, and says how they end."""

    def __init__(self, url: str) -> None:
        self.url = url
        login = requests.post(f"{url}/auth/token", json={"username": "undoer", "password": "sesame"}, timeout=15)
        self.headers = {"Authorization": f"Bearer {login.json()['access_token']}"}

    def runs(self, dag_id: str = "undo_features") -> dict[str, dict[str, Any]]:
        answer = requests.get(f"{self.url}/api/v2/dags/{dag_id}/dagRuns", headers=self.headers, timeout=15)
        return {run["dag_run_id"]: run for run in answer.json()["dag_runs"]}

    def ends(self, run_id: str, state: str, dag_id: str = "undo_features", unless: tuple[str, ...] = ()) -> None:
        """Give a run its end, once it is there and in none of the states that are of before."""
        until = time.monotonic() + 60
        while self.runs(dag_id).get(run_id, {"state": None})["state"] in (None, *unless):
            assert time.monotonic() < until, f"no run {run_id}"
            time.sleep(0.1)
        where = f"{self.url}/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        answer = requests.patch(where, json={"state": state}, headers=self.headers, timeout=15)
        assert answer.ok, answer.text


@pytest.fixture
def person(airflow_url: str) -> Person:
    return Person(airflow_url)


@pytest.fixture
def undo(client: AirflowClient) -> Iterator[Callable[..., Future[dict[str, Any]]]]:
    """Begins a data rollback; gives what will come of it."""
    with ThreadPoolExecutor() as pool:

        def begin(rollout_id: str, seconds: float = 60.0, **arguments: Any) -> Future[dict[str, Any]]:
            step = DataRollback(DataRollbackKind.DAG, "undo_features", arguments=arguments, timeout_seconds=seconds)
            return pool.submit(DataUndoer(lambda: client).undo, step, {**ROLLOUT, "id": rollout_id})

        yield begin


def test_a_dag_is_run_once_with_its_arguments_and_its_end_is_waited_for(undo: Any, person: Person) -> None:
    going = undo("ro-once", day="2026-02-03")
    person.ends("ro-once--data-rollback-2", "success")
    result = going.result(30)
    run = person.runs()["ro-once--data-rollback-2"]
    assert run["conf"] == {"day": "2026-02-03"}
    assert run["note"] == "Data rollback of flights, rollout ro-once"
    assert (result["kind"], result["run_id"], result["state"]) == ("dag", "ro-once--data-rollback-2", "success")
    assert result["detail"].endswith("of DAG undo_features ran and has succeeded")
    again = undo("ro-once", day="2026-02-03").result(30)  # a retry, after the run's end was not put on record
    assert "had been started before and has succeeded" in again["detail"]
    assert [name for name in person.runs() if name.startswith("ro-once")] == ["ro-once--data-rollback-2"]


def test_a_runs_note_gets_a_line_once_and_keeps_what_people_wrote(client: AirflowClient, person: Person) -> None:
    client.trigger("undo_features", "noted", {}, note="because of the launch")
    for _ in range(2):
        client.add_note("undo_features", "noted", "Stage 1 of 2 at 5 %: hold. No proof")
    note = person.runs()["noted"]["note"]
    assert note == "because of the launch\n\nStage 1 of 2 at 5 %: hold. No proof"
    client.add_note("undo_features", "noted", "x" * 2000)
    assert len(person.runs()["noted"]["note"]) == 1000
    client.add_note("undo_features", "noted", "y")  # there is no room left
    assert person.runs()["noted"]["note"].startswith(f"{note}\n\nxxx")
    with pytest.raises(AirflowError, match="HTTP 404"):
        client.add_note("undo_features", "nothing", "y")


def test_a_run_that_asks_nobody_has_no_question_and_one_that_has_not_failed_no_failure(client: AirflowClient) -> None:
    client.trigger("undo_features", "asks-nobody", {})
    assert client.questions("undo_features", "asks-nobody") == []
    assert client.questions("undo_features", "nothing") == []
    assert client.failure("undo_features", "asks-nobody") == ""
    assert client.failure("undo_features", "nothing") == ""


def test_a_dag_that_fails_fails_the_data_rollback_and_is_taken_up_again(undo: Any, person: Person) -> None:
    going = undo("ro-fails")
    person.ends("ro-fails--data-rollback-2", "failed")
    with pytest.raises(DataRollbackError, match="run ro-fails--data-rollback-2 of DAG undo_features has failed"):
        going.result(30)
    going = undo("ro-fails")  # somebody has mended the cause
    person.ends("ro-fails--data-rollback-2", "success", unless=("failed",))
    assert "had failed before, and ran again and has succeeded" in going.result(30)["detail"]


def test_a_dag_that_takes_too_long_is_told_of_and_goes_on(undo: Any, person: Person) -> None:
    with pytest.raises(DataRollbackError, match="is still queued after 1 s; it goes on"):
        undo("ro-slow", seconds=1.0).result(30)
    going = undo("ro-slow")
    person.ends("ro-slow--data-rollback-2", "success")
    assert "had been started before" in going.result(30)["detail"]


def test_arguments_that_the_dag_refuses_start_nothing(undo: Any, person: Person) -> None:
    with pytest.raises(DataRollbackError, match="HTTP 400"):
        undo("ro-wrong", day="someday").result(30)
    assert not [name for name in person.runs() if name.startswith("ro-wrong")]


def test_a_dag_that_is_there_is_pinned_as_it_is(client: AirflowClient) -> None:
    step = DataRollback(DataRollbackKind.DAG, "undo_features", arguments={"day": "2026-02-03"})
    assert DataUndoer(lambda: client).pin(step) == step


@pytest.mark.parametrize(
    ("dag_id", "said"),
    [("no/such dag", "has no DAG no/such dag"), ("undo_paused", "DAG undo_paused is paused, so its run would never")],
)
def test_a_dag_that_could_not_be_run_refuses_the_rollout(
    client: AirflowClient, person: Person, dag_id: str, said: str
) -> None:
    undoer, step = DataUndoer(lambda: client), DataRollback(DataRollbackKind.DAG, dag_id)
    with pytest.raises(NotReadyError, match=said):
        undoer.pin(step)
    with pytest.raises(DataRollbackError, match=said):
        undoer.undo(step, ROLLOUT)
    assert person.runs("undo_paused") == {}


def test_a_wrong_password_is_told(airflow_url: str) -> None:
    with pytest.raises(AirflowError, match="refuses to log in undoer: HTTP 401") as caught:
        AirflowClient(airflow_url, user="undoer", password="wrong").dag("undo_features")
    assert caught.value.transient is False
    with pytest.raises(AirflowError, match=r"HTTP 40[13].*check MODEL_ROLLOUTS_AIRFLOW_TOKEN"):
        AirflowClient(airflow_url, token="wrong").dag("undo_features")


def test_a_token_will_do(airflow_url: str, person: Person) -> None:
    dag = AirflowClient(airflow_url, token=person.headers["Authorization"].split()[1]).dag("undo_features")
    assert dag is not None
    assert dag["is_paused"] is False


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "MODEL_ROLLOUTS_AIRFLOW_URL is ''"),
        ({"AIRFLOW_URL": "http://127.0.0.1:1"}, "there are no credentials"),
        ({"AIRFLOW_URL": "http://127.0.0.1:1", "AIRFLOW_USER": "undoer"}, "there are no credentials"),
    ],
)
def test_a_dag_without_an_airflow_to_ask_refuses_the_rollout(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"MODEL_ROLLOUTS_{name}", value)
    step = DataRollback(DataRollbackKind.DAG, "undo_features")
    undoer = Wiring(Settings()).data_undo
    with pytest.raises(NotReadyError, match=said):
        undoer.pin(step)
    with pytest.raises(DataRollbackError, match=said):
        undoer.undo(step, ROLLOUT)


# --- a stand-in for what a real Airflow does not do on demand


class StandIn(ThreadingHTTPServer):
    """Answers with what the test says, in order; the last answer is given again and again."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Answering)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        answers = self.server.answers
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Location", "/login")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that the server asks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandIn]]:
    monkeypatch.setattr(airflow_client, "_FIRST_POLL", 0.01)
    made: list[StandIn] = []

    def start(*answers: tuple[int, Any]) -> StandIn:
        made.append(StandIn(*answers))
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def test_a_token_that_has_run_out_is_renewed_once(stand_in: Callable[..., StandIn]) -> None:
    token = {"access_token": "t"}
    server = stand_in((201, token), (200, {"state": "running"}), (401, {}), (201, token), (200, {"state": "success"}))
    client = AirflowClient(server.url, user="u", password="p")
    assert client.state("d", "r") == "running"
    assert client.state("d", "r") == "success"
    assert [path for _, path, _ in server.asked].count("/auth/token") == 2
    refusing = stand_in((201, token), (401, {"detail": "no"}))
    with pytest.raises(AirflowError, match="HTTP 401, no"):
        AirflowClient(refusing.url, user="u", password="p").state("d", "r")
    assert len(refusing.asked) == 2  # not for ever


def test_an_airflow_that_is_away_for_a_while_is_asked_again(stand_in: Callable[..., StandIn]) -> None:
    server = stand_in((503, "restarting"), (429, {}), (200, {"state": "running"}), (200, {"state": "success"}))
    assert AirflowClient(server.url, token="t").wait("d", "r", 30) == "success"
    assert {header for _, _, header in server.asked} == {"Bearer t"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((503, "restarting"), "HTTP 503, 'restarting'"),
        ((404, {"detail": "no such run"}), "HTTP 404, no such run"),
        ((302, ""), "HTTP 302"),
        ((200, "<html>Sign in</html>"), "is no Airflow: '<html>Sign in</html>'"),
        ((200, [1]), "is no Airflow"),
    ],
)
def test_what_is_no_state_is_never_taken_for_an_end(
    stand_in: Callable[..., StandIn], answer: tuple[int, Any], said: str
) -> None:
    with pytest.raises(AirflowError, match=said):
        AirflowClient(stand_in(answer).url, token="t").wait("d", "r", 0.3)


def test_an_airflow_that_does_not_answer_is_an_error(closed_port: int) -> None:
    with pytest.raises(AirflowError, match=r"no Airflow answers at .* \(ConnectionError\)") as caught:
        AirflowClient(f"http://127.0.0.1:{closed_port}", token="t").dag("undo")
    assert caught.value.transient is True


def test_a_dag_whose_file_is_gone_or_broken_is_not_run(stand_in: Callable[..., StandIn]) -> None:
    step = DataRollback(DataRollbackKind.DAG, "undo")
    for answer, said in (({"is_stale": True}, "has no DAG undo"), ({"has_import_errors": True}, "has import errors")):
        client = AirflowClient(stand_in((200, answer)).url, token="t")
        with pytest.raises(NotReadyError, match=said):
            DataUndoer(lambda client=client: client).pin(step)  # type: ignore[misc]


def test_what_a_failed_task_said_last_is_told(stand_in: Callable[..., StandIn]) -> None:
    tasks = {"task_instances": [{"task_id": "preflight", "state": "failed", "end_date": "2026", "try_number": 1}]}
    raised = {"event": "Task failed", "level": "error", "error_detail": [{"exc_type": "E", "exc_value": "not ready"}]}
    log = {"content": [{"event": "begun", "level": "info"}, raised]}
    assert AirflowClient(stand_in((200, tasks), (200, log)).url, token="t").failure("d", "r") == (
        "task preflight failed: not ready"
    )
    silent = AirflowClient(stand_in((200, tasks), (500, {})).url, token="t")
    assert silent.failure("d", "r") == ""
