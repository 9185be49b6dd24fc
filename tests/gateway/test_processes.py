"""Several gateway processes on one port: that they share it, come back when they die, and end together."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import uvicorn
from tests.conftest import _end_with_us
from tests.gateway.certificates import Authority
from tests.gateway.conftest import until
from tests.ports import free_port

from bench.serving import BODIES, MODEL, register
from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.rollout import Cause
from model_rollouts.gateway.processes import Supervisor
from model_rollouts.gateway.serving import AddressInUseError, GatewayServer, Leave, bind
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.startup import BadSettingsError, _line, read_settings
from model_rollouts.gateway.tokens import Role, Token, line_of

# --- the real thing


@contextmanager
def fleet(root: Path, **settings: str) -> Iterator["tuple[subprocess.Popen[bytes], int]"]:
    """`rollouts gateway --processes 2` over a registry and a store with one model; the supervisor and the port."""
    registry, store = register(root, {"1": BODIES["1"]}), f"sqlite:///{root / 'store.db'}"
    opened = SqlStore(store)
    opened.migrate()
    opened.apply(steps.adopt(MODEL, "1", Cause(actor="test", at=datetime.now(UTC), reason="adopted")))
    opened.close()
    port = free_port(3)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MODEL_ROLLOUTS_"))}
    own = {
        "MLFLOW_TRACKING_URI": registry,
        "MODEL_ROLLOUTS_STORE_URL": store,
        "MODEL_ROLLOUTS_LOG_DIR": str(root / "log"),
        "MODEL_ROLLOUTS_SPOOL_DIR": str(root / "spool"),
        "MODEL_ROLLOUTS_PORT": str(port),
        "MODEL_ROLLOUTS_MODELS": f'["{MODEL}"]',
        "MODEL_ROLLOUTS_GATEWAY_ID": "g",
    }
    command = [str(Path(sys.executable).parent / "rollouts"), "gateway", "--processes", "2"]
    with (root / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, env=inherited | own | settings, stderr=log, process_group=0)
    watch = _end_with_us(process)
    try:
        yield process, port
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        watch.kill()
        watch.communicate()


def own_urls(port: int, scheme: str = "http") -> tuple[str, str]:
    return f"{scheme}://127.0.0.1:{port + 1}", f"{scheme}://127.0.0.1:{port + 2}"


def ready(port: int, client: GatewayClient | None = None) -> bool:
    try:
        return set((client or GatewayClient(*own_urls(port))).versions(MODEL).values()) == {"ready"}
    except NotReadyError:
        return False


def wait_until_ready(
    supervisor: "subprocess.Popen[bytes]", port: int, log: Path, client: GatewayClient | None = None
) -> None:
    """Both processes serve; where they don't, what they said is in the error."""
    end = time.monotonic() + 120
    while not ready(port, client):
        said = log.read_text()[-3000:]
        assert supervisor.poll() is None, f"it ended:\n{said}"
        assert time.monotonic() < end, f"it is not ready:\n{said}"
        time.sleep(0.1)  # looking costs them time of the processor they start on


def ask(port: int, request_id: str) -> str:
    """The port of the process that a new connection to the shared port reaches; it has answered."""
    answer = requests.post(
        f"http://127.0.0.1:{port}/models/{MODEL}/invocations",
        json={"dataframe_records": [{"x": 1.0}]},
        headers={"X-Request-Id": request_id},
        timeout=10,
    )
    assert answer.json() == {"predictions": [2.0]}
    return str(requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["gateway_id"])


def test_processes_share_the_port_come_back_and_end_with_everything_in_the_log(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    with fleet(tmp_path) as (supervisor, port):
        log = tmp_path / "gateway.log"
        wait_until_ready(supervisor, port, log)
        assert set(GatewayClient(*own_urls(port)).routed(MODEL)) == {"g-0", "g-1"}
        until(lambda: log.read_text().count("joined_shared_port") == 2, 20)
        assert {ask(port, f"before-{i}") for i in range(40)} == {"g-0", "g-1"}

        children = psutil.Process(supervisor.pid).children()
        assert len(children) == 2
        children[0].kill()
        until(lambda: log.read_text().count("joined_shared_port") == 3, 60)
        assert ready(port)
        assert {ask(port, f"after-{i}") for i in range(40)} == {"g-0", "g-1"}

        children = psutil.Process(supervisor.pid).children()
        assert len(children) == 2
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(40) == 0
        assert not any(child.is_running() for child in children)
    rows = DeltaTable(str(tmp_path / "log" / MODEL / "predictions")).to_pandas()
    assert sorted(rows["request_id"]) == sorted(f"{when}-{i}" for when in ("before", "after") for i in range(40))
    assert set(rows["gateway_id"]) == {"g-0", "g-1"}
    assert list((tmp_path / "spool").rglob("*.rows")) == []


def test_processes_speak_tls_follow_one_file_of_tokens_and_end_with_their_supervisor(tmp_path: Path) -> None:
    authority, tokens, log = Authority(tmp_path), tmp_path / "tokens", tmp_path / "gateway.log"
    cert, key = authority.certificate("gateway")
    airflow = Token.of("airflow", [Role.ADMIN], "airflow's token")
    tokens.write_text(line_of(airflow))
    own = {"GATEWAY_TOKENS_FILE": tokens, "TLS_CERT_FILE": cert, "TLS_KEY_FILE": key}
    with fleet(tmp_path, **{f"MODEL_ROLLOUTS_{name}": str(path) for name, path in own.items()}) as (supervisor, port):
        urls = own_urls(port, "https")
        client = GatewayClient(*urls, token="airflow's token", ca_file=authority.file)
        wait_until_ready(supervisor, port, log, client)
        until(lambda: log.read_text().count("joined_shared_port") == 2, 20)

        def predicted(url: str) -> int:
            body, headers = {"dataframe_records": [{"x": 1.0}]}, {"Authorization": "Bearer the shop's token"}
            with requests.Session() as session:
                where = f"{url}/models/{MODEL}/invocations"
                return session.post(
                    where, json=body, headers=headers, verify=str(authority.file), timeout=10
                ).status_code

        everywhere = (*urls, f"https://127.0.0.1:{port}")
        assert [predicted(url) for url in everywhere] == [401] * 3
        tokens.write_text("\n".join([line_of(airflow), line_of(Token.of("shop", [Role.PREDICT], "the shop's token"))]))
        until(lambda: [predicted(url) for url in everywhere] == [200] * 3, 20)
        tokens.write_text(line_of(airflow))
        until(lambda: [predicted(url) for url in everywhere] == [401] * 3, 20)
        assert "the shop's token" not in log.read_text()

        children = psutil.Process(supervisor.pid).children()
        supervisor.kill()
        supervisor.wait()
        gone, alive = psutil.wait_procs(children, timeout=30)
        assert (len(gone), alive) == (2, [])


# --- the supervisor, with processes that are quick


def settings(tmp_path: Path, **more: Any) -> GatewaySettings:
    return GatewaySettings(**{"gateway_id": "g", "processes": 2, "port": free_port(3), "spool_dir": tmp_path} | more)


@contextmanager
def supervised(one: GatewaySettings, code: str) -> Iterator[tuple[Supervisor, list[bool]]]:
    """A running supervisor of processes that run `code`; and whether it ended clean."""
    supervisor, ended = Supervisor(one, (sys.executable, "-S", "-c", code)), []
    supervisor_run = threading.Thread(target=lambda: ended.append(supervisor.run()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)  # only the main thread may set handlers
        supervisor_run.start()
        try:
            yield supervisor, ended
        finally:
            supervisor.stop()
            supervisor_run.join(30)
            assert not supervisor_run.is_alive()


def test_each_process_is_told_who_it_is(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; e = os.environ; p = 'MODEL_ROLLOUTS_';"
        f"pathlib.Path({str(tmp_path)!r}, e[p + 'GATEWAY_ID']).write_text("
        "' '.join(e[p + n] for n in ('PORT', 'SHARED_PORT', 'PROCESSES', 'SIBLING_IDS'))); sys.stdin.read()"
    )
    one = settings(tmp_path)
    with supervised(one, code):
        until(lambda: len(list(tmp_path.glob("g-*"))) == 2 and all(p.read_text() for p in tmp_path.glob("g-*")))
    assert (tmp_path / "g-0").read_text() == f'{one.port + 1} {one.port} 1 ["g-0", "g-1"]'
    assert (tmp_path / "g-1").read_text() == f'{one.port + 2} {one.port} 1 ["g-0", "g-1"]'


def test_a_process_that_keeps_dying_is_started_again_after_ever_longer_waits(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"open({str(starts)!r}, 'a').write('x')"
    with supervised(settings(tmp_path, processes=1), code):
        began = time.monotonic()
        until(lambda: starts.exists() and len(starts.read_text()) == 3, 20)
        assert time.monotonic() - began >= 1.5, "0.5 s, then 1 s"


def test_a_process_that_does_not_end_is_killed_after_the_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_rollouts.gateway.processes._COMMIT_SECONDS", 0.0)
    ready_file = tmp_path / "ready"
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(ready_file)!r}, 'w').write(str(__import__('os').getpid())); time.sleep(600)"
    )
    with supervised(settings(tmp_path, processes=1, drain_seconds=1), code) as (supervisor, ended):
        until(lambda: ready_file.exists() and bool(ready_file.read_text()))
        began = time.monotonic()
        supervisor.stop()
        until(lambda: bool(ended), 10)
        assert ended == [False]
        assert time.monotonic() - began >= 1
    assert not psutil.pid_exists(int(ready_file.read_text()))


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_somebody_has_is_not_shared_by_accident(tmp_path: Path, offset: int, shared: bool) -> None:
    one = settings(tmp_path)
    (other,) = bind("127.0.0.1", one.port + offset, shared=shared)
    other.listen()
    try:
        with pytest.raises(AddressInUseError, match=f"port {one.port + offset}: .*MODEL_ROLLOUTS_PORT"):
            Supervisor(one, (sys.executable, "-c", "")).run()
    finally:
        other.close()


def test_the_last_process_needs_a_port(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the last one would listen on 65537"):
        GatewaySettings(port=65_533, processes=4)


# --- joining and leaving


class App:
    """Says whether it leaves, like /readyz, and holds requests for /slow."""

    def __init__(self, leave: Leave) -> None:
        self.leave = leave
        self.go = threading.Event()
        self.taken = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/slow":
            self.taken.set()
            await asyncio.to_thread(self.go.wait, 10)
        status = 503 if scope["path"] == "/readyz" and self.leave.taken else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def server(notice: float, **more: Any) -> Iterator[tuple[GatewayServer, App, str]]:
    leave = Leave()
    app = App(leave)
    own = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{own[0].getsockname()[1]}"
    config = uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=5)
    running = GatewayServer(config, leave, notice, 5.0, **more)
    thread = threading.Thread(target=lambda: running.run(sockets=own))
    thread.start()
    try:
        until(lambda: running.started)
        yield running, app, url
    finally:
        app.go.set()
        running.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.ConnectionError:
        return None


def terminate(running: GatewayServer) -> None:
    running.handle_exit(signal.SIGTERM, None)
    running._captured_signals.clear()  # or uvicorn would end the tests by it


def test_before_it_ends_it_says_so_and_still_answers() -> None:
    with server(notice=1.0) as (running, _, url):
        assert status(f"{url}/readyz") == 200
        began = time.monotonic()
        terminate(running)
        assert status(f"{url}/readyz") == 503
        assert status(f"{url}/predict") == 200
        assert not running.should_exit
        running.handle_exit = lambda *_: None  # type: ignore[method-assign]
        until(lambda: running.should_exit, 5)
        assert time.monotonic() - began >= 1.0
        until(lambda: status(f"{url}/predict") is None)
        running._captured_signals.clear()


def test_a_second_signal_ends_the_notice() -> None:
    with server(notice=600.0) as (running, _, _):
        terminate(running)
        assert not running.should_exit
        terminate(running)
        assert running.should_exit


def test_without_a_notice_open_requests_finish_and_new_ones_are_not_taken() -> None:
    with server(notice=0.0) as (running, app, url):
        answers: list[int | None] = []
        asking = threading.Thread(target=lambda: answers.append(status(f"{url}/slow")))
        asking.start()
        assert app.taken.wait(5)
        terminate(running)
        until(lambda: status(f"{url}/predict") is None)
        app.go.set()
        asking.join(10)
        assert answers == [200]


def test_the_shared_port_is_joined_only_once_requests_can_be_answered() -> None:
    port = free_port()
    able = threading.Event()
    shared = bind("127.0.0.1", port, shared=True)
    with server(notice=0.0, shared=shared, ready=able.is_set) as (_, _, url):
        assert status(f"{url}/predict") == 200
        assert status(f"http://127.0.0.1:{port}/predict") is None
        able.set()
        until(lambda: status(f"http://127.0.0.1:{port}/predict") == 200)


# --- settings


def test_everything_that_is_wrong_with_the_settings_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "PORT": "0",
        "MODELS": "flights",
        "MAX_ROWS": "many",
        "UPSTREAMS": '{"m": "http://x"}',
        "PROCESSES": "65",
        "CHALLENGER_TIMEOUT_SECONDS": "61",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"MODEL_ROLLOUTS_{name}", value)
    with pytest.raises(BadSettingsError) as caught:
        read_settings()
    first, *lines = str(caught.value).splitlines()
    assert first == "the gateway can't start with these settings:"
    said = dict(line.split(" is ", 1) for line in lines)
    assert said.keys() == {f"MODEL_ROLLOUTS_{name}" for name in wrong}
    assert said["MODEL_ROLLOUTS_PORT"] == "'0': must be greater than or equal to 1"
    assert said["MODEL_ROLLOUTS_MODELS"].startswith("'flights', must be JSON")
    assert said["MODEL_ROLLOUTS_PROCESSES"] == "'65': must be less than or equal to 64"
    assert os.environ["MODEL_ROLLOUTS_MODELS"] == "flights", "and the environment is as before"


def test_a_misspelt_setting_is_asked_about_and_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_SOMEBODY_ELSES", "1")
    read_settings()
    monkeypatch.setenv("MODEL_ROLLOUTS_BREAKER_FALIURES", "3")
    with pytest.raises(BadSettingsError, match="FALIURES is no setting, did you mean MODEL_ROLLOUTS_BREAKER_FAILURES"):
        read_settings()


def test_settings_under_names_in_small_letters_are_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("model_rollouts_models", "flights")
    with pytest.raises(BadSettingsError, match='parsing value for field "models"'):
        read_settings()


def test_secrets_are_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_HOST", "0.0.0.0")  # noqa: S104  # it is refused
    monkeypatch.setenv("MODEL_ROLLOUTS_PORT", "0")
    monkeypatch.setenv("MODEL_ROLLOUTS_WEBHOOK_SECRET", "hush-hush")
    with pytest.raises(BadSettingsError) as caught:
        read_settings()
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("MODEL_ROLLOUTS_PORT", "8600")
    with pytest.raises(BadSettingsError, match=r"host is 0\.0\.0\.0") as caught:
        read_settings()
    assert "hush" not in str(caught.value)


def test_the_value_of_a_secret_is_hidden() -> None:
    said = _line({"loc": ("gateway_token",), "msg": "Value error, too short", "input": "hush-hush"})
    assert said == "MODEL_ROLLOUTS_GATEWAY_TOKEN is (hidden): too short"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_URL", "mysql://user:hush@host/db"),
        ("LOG_URL", "mysql://user:hu/s@hush@host/db"),
        ("LOG_URL", "user:hush@host/db"),
        ("LOG_URL", f"mysql://{'u' * 70}:hush-hush-hush@host/db"),
        ("LOG_URL", "mysql://host/db?password=hush&x=1"),
        ("GATEWAY_URL", "http://user:hush@host"),
        ("UPSTREAMS", '{"m": "mlflow+http://user:hush@host:1/?a=b"}'),
        ("UPSTREAMS", '{"m": "mlflow+http://user:hush@host:1"'),
    ],
)
def test_users_of_urls_are_not_said(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MODEL_ROLLOUTS_{name}", value)
    with pytest.raises(BadSettingsError) as caught:
        read_settings()
    assert f"MODEL_ROLLOUTS_{name} is " in str(caught.value)
    assert "(hidden)" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_settings_that_hold_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_MODELS", '["flights"]')
    assert read_settings().models == ("flights",)
