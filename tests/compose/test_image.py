"""The image's files without an engine: what it installs, how it begins, how it says that it is healthy."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
DEPLOY = REPO / "deploy"


def pinned(file: Path) -> dict[str, str]:
    """Package -> version."""
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;]+)", file.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_image_installs_what_was_tested() -> None:
    tested, installed = pinned(REPO / "requirements.txt"), pinned(DEPLOY / "requirements.txt")
    assert len(set(tested) & set(installed)) > 150
    assert {
        name: (installed[name], tested[name])
        for name in installed
        if tested.get(name, installed[name]) != installed[name]
    } == {}


def test_the_image_has_all_that_is_asked_for_and_no_tools_of_the_tests() -> None:
    installed = pinned(DEPLOY / "requirements.txt")
    product = (REPO / "requirements.in").read_text(encoding="utf-8").split("# --- the demo")[0]
    asked = re.findall(r"^([\w.-]+)", product + (DEPLOY / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(asked) > 30
    assert [name for name in asked if name.lower() not in installed] == []
    assert {"pytest", "mypy", "ruff", "playwright", "pyspark"} & set(installed) == set()


def test_every_package_of_the_image_has_a_hash() -> None:
    text = (DEPLOY / "requirements.txt").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[\w.-]+(?:\[[\w,]+\])?==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned(DEPLOY / "requirements.txt"))
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_dockerfile_needs_no_registry_but_for_its_base_and_ends_without_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert not lines[0].startswith("# syntax="), "a syntax line is pulled from a registry"
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    stages = {line.split()[-1] for line in lines if line.startswith("FROM ")}
    assert set(bases) <= {"${PYTHON_IMAGE}"} | stages
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert not any(line.startswith("ADD ") for line in lines)


def test_base_images_made_for_tests_have_the_names_of_the_real_ones() -> None:
    made = dict(re.findall(r'"(\w+)": "([\w:.-]+)"', (REPO / "tests/compose/engine.py").read_text(encoding="utf-8")))
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    services = yaml.safe_load((REPO / "docker-compose.yaml").read_text())["services"]
    assert services["init"]["build"]["args"]["PYTHON_IMAGE"] == f"${{PYTHON_IMAGE:-{python}}}"
    assert made["python"] == python
    assert services["postgres"]["image"] == f"${{POSTGRES_IMAGE:-{made['postgres']}}}"
    assert services["redis"]["image"] == f"${{REDIS_IMAGE:-{made['redis']}}}"


def test_the_build_sees_nothing_but_what_the_image_is_made_of() -> None:
    lines = (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    needed = {source for line in copied for source in line.split()}
    assert {source for source in needed if not any(source == a or source.startswith(f"{a}/") for a in allowed)} == set()
    assert {a for a in allowed if not any(s == a or s.startswith(f"{a}/") for s in needed)} == set()
    assert all((REPO / each).exists() for each in allowed)


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the entry point with commands that print their arguments."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("airflow", "mlflow"):
        (tools / name).write_text('#!/bin/sh\necho "$0 $*; umask $(umask)"\n')
        (tools / name).chmod(0o755)
    python = Path(sys.executable).parent

    def run(*command: str, **env: str) -> "subprocess.CompletedProcess[str]":
        full = {"PATH": f"{tools}:{python}:{os.environ['PATH']}", **env}
        return subprocess.run([DEPLOY / "entrypoint", *command], env=full, capture_output=True, text=True, check=False)

    return run


def test_airflows_password_file_is_made_for_one_user_alone(begin, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "passwords.json"
    file.write_text('{"admin": "an older one", "gone": "x"}')
    env = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(file), "AIRFLOW_ADMIN_USER": "admin"}
    file.unlink()
    done = begin("airflow", "api-server", "--port", "1", AIRFLOW_ADMIN_PASSWORD='a"b\\c d', **env)
    assert done.returncode == 0, done.stderr
    assert "api-server --port 1; umask 0022" in done.stdout
    assert json.loads(file.read_text()) == {"admin": 'a"b\\c d'}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("password", [{}, {"AIRFLOW_ADMIN_PASSWORD": ""}])
def test_without_a_password_airflow_does_not_begin(begin, tmp_path: Path, password: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    env = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(tmp_path / "p"), "AIRFLOW_ADMIN_USER": "admin"}
    done = begin("airflow", "api-server", **env, **password)
    assert done.returncode != 0
    assert "run make secrets first" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "p").exists()


def test_mlflows_logins_are_in_the_database_that_is_named(begin, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import configparser

    file, uri = tmp_path / "auth.ini", "postgresql+psycopg://mlflow:a%40b@postgres/mlflow_auth"
    env = {"MLFLOW_AUTH_CONFIG_PATH": str(file), "MLFLOW_AUTH_DATABASE_URI": uri}
    assert begin("mlflow", "server", **env).returncode != 0
    done = begin("mlflow", "server", MLFLOW_AUTH_ADMIN_PASSWORD="x", **env)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = configparser.ConfigParser()
    read.read(file)
    assert read["mlflow"]["database_uri"] == uri


class Answers(BaseHTTPRequestHandler):
    """Airflow's health, and more."""

    def do_GET(self) -> None:
        status = 500 if self.path == "/broken" else 200
        bodies = {
            "/health": {"scheduler": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}, "dag_processor": None}
        }
        body = b"<html>" if self.path == "/html" else json.dumps(bodies.get(self.path, {})).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "part", "code"),
    [
        ("/", [], 0),
        ("/broken", [], 1),
        ("/health", ["scheduler"], 0),
        ("/health", ["triggerer"], 1),
        ("/health", ["dag_processor"], 1),
        ("/health", ["nobody"], 1),
        ("/html", ["scheduler"], 1),
    ],
)
def test_healthy_is_only_what_says_so(server: str, path: str, part: list[str], code: int) -> None:
    command = [sys.executable, "-IS", str(DEPLOY / "healthy.py"), server + path, *part]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_nobody_there_is_not_healthy() -> None:
    command = [sys.executable, "-IS", str(DEPLOY / "healthy.py"), "http://127.0.0.1:9/"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.fixture
def initialise(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the first step of all with an Airflow and a store that need nothing, and the real tokens."""
    tools, rollouts = tmp_path / "bin", Path(sys.executable).with_name("rollouts")
    tools.mkdir()
    (tools / "airflow").write_text("#!/bin/sh\n")
    (tools / "rollouts").write_text(f'#!/bin/sh\n[ "$1" = db ] || exec {rollouts} "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def run(**env: str) -> "subprocess.CompletedProcess[str]":
        full = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "MODEL_ROLLOUTS_GATEWAY_TOKENS_FILE": str(tmp_path / "tokens"),
            "GATEWAY_ADMIN_TOKEN": "a" * 32,
            "GATEWAY_TOKEN": "b" * 32,
            "TESTER_TOKEN": "c" * 32,
            **env,
        }
        return subprocess.run([DEPLOY / "initialise"], env=full, capture_output=True, text=True, check=False)

    return run


def test_the_gateways_tokens_follow_the_env_file_and_those_of_people_stay(initialise, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from model_rollouts.gateway.tokens import Role, Token, line_of, parse_tokens

    file = tmp_path / "tokens"
    assert initialise().returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    theirs = Token.of("shop", [Role.PREDICT], "d" * 32)
    file.write_text(file.read_text() + line_of(theirs) + "\n")
    done = initialise(GATEWAY_TOKEN="e" * 32)
    assert done.returncode == 0, done.stderr
    assert set(parse_tokens(file.read_text())) == {
        theirs,
        Token.of("env/airflow", [Role.ADMIN], "a" * 32),
        Token.of("env/callers", [Role.PREDICT, Role.OUTCOMES], "e" * 32),
        Token.of("env/testers", [Role.TESTER], "c" * 32),
    }


def test_tokens_that_can_not_be_read_stay_as_they_were(initialise, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert initialise().returncode == 0
    before = (tmp_path / "tokens").read_text()
    grep = tmp_path / "bin" / "grep"
    grep.write_text("#!/bin/sh\necho 'grep: read error' >&2\nexit 2\n")
    grep.chmod(0o755)
    done = initialise()
    assert done.returncode != 0
    assert "read error" in done.stderr
    assert (tmp_path / "tokens").read_text() == before


def test_an_empty_token_leaves_the_tokens_as_they_were(initialise, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert initialise().returncode == 0
    before = (tmp_path / "tokens").read_text()
    done = initialise(TESTER_TOKEN="")
    assert done.returncode != 0
    assert "run make secrets first" in done.stderr
    assert (tmp_path / "tokens").read_text() == before


def test_a_token_that_is_added_meanwhile_is_not_lost(initialise, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from model_rollouts.gateway.tokens import parse_tokens

    assert initialise().returncode == 0
    file, gate, there = tmp_path / "tokens", tmp_path / "gate", tmp_path / "there"
    os.mkfifo(gate)
    move = tmp_path / "bin" / "mv"
    move.write_text(f'#!/bin/sh\n: >{there}\ncat {gate}\nexec {shutil.which("mv")} "$@"\n')
    move.chmod(0o755)
    with ThreadPoolExecutor() as pool:
        done = pool.submit(initialise)
        while not there.exists():  # the tokens were read, and are written next
            assert not done.done(), done.result()
            time.sleep(0.01)
        rollouts = [str(Path(sys.executable).with_name("rollouts")), "token", "new", "--file", str(file)]
        adding = subprocess.Popen([*rollouts, "--name", "shop", "--role", "predict"], stdout=subprocess.DEVNULL)
        while adding.poll() is None and not waits_for_a_lock(adding.pid):
            time.sleep(0.01)
        gate.write_text("")
        assert done.result().returncode == 0, done.result()
    assert adding.wait() == 0
    assert {token.name for token in parse_tokens(file.read_text())} == {
        *("env/airflow", "env/callers", "env/testers", "shop")
    }


def test_tokens_in_a_folder_that_is_not_there_are_named(initialise, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = initialise(MODEL_ROLLOUTS_GATEWAY_TOKENS_FILE=str(tmp_path / "no" / "such" / "tokens"))
    assert done.returncode != 0
    assert "there is no such folder" in done.stderr


def waits_for_a_lock(process: int) -> bool:
    return any("->" in line and f" {process} " in line for line in Path("/proc/locks").read_text().splitlines())
