# ruff: noqa: S607 - Docker is found on the path, as people call it
"""The compose file, brought up under a project name and with ports of its own."""

import base64
import json
import re
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
FILE = REPO / "docker-compose.yaml"
_PORTS = ("AIRFLOW_PORT", "MLFLOW_PORT", "GATEWAY_1_PORT", "GATEWAY_2_PORT")
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SAMPLE_SECONDS = 15.0


class CheckError(Exception):
    """Something is not as it must be; the message says what and how it is."""


class Stack:
    """One project.

    Args:
        folder: For its secrets.
        project: Its name.
        docker_env: Of an engine.
        choices: Lines of the env file beside the secrets and the ports.
    """

    def __init__(self, folder: Path, project: str, docker_env: Mapping[str, str], choices: Mapping[str, str]) -> None:
        self.folder, self.project = folder, project
        self.file = folder / f"{project}.env"
        # Settings of whoever calls this are none of the project's.
        ours = re.findall(r"\$\{([A-Z0-9_]+)", FILE.read_text(encoding="utf-8"))
        self._env = {k: v for k, v in docker_env.items() if k not in ours and not k.startswith("COMPOSE_")}
        self._choices = dict(choices)
        self.peak_memory = 0

    def make_secrets(self) -> None:
        """An env file as people make one, with free ports and the choices."""
        if not self.file.exists():
            subprocess.run([REPO / "deploy" / "make-secrets", self.file], check=True, capture_output=True)
            lines = [f"{name}={port}" for name, port in zip(_PORTS, _free_ports(len(_PORTS)), strict=True)]
            lines += [f"{name}={value}" for name, value in self._choices.items()]
            with self.file.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")

    @property
    def values(self) -> dict[str, str]:
        """What the env file says; the last line of a name counts."""
        lines = self.file.read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def compose(self, *arguments: str, ok: Sequence[int] = (0,), show: bool = False, seconds: float = 900) -> str:
        """Run `docker compose` with the project's file and secrets; gives what it prints.

        Raises:
            CheckError: It ended with another code than those of `ok`, or not in time.
        """
        done = self.run(*arguments, env_file=self.file, show=show, seconds=seconds)
        if done.returncode not in ok:
            told = (done.stdout or "") + (done.stderr or "")
            raise CheckError(f"docker compose {' '.join(arguments)} ended with {done.returncode}:\n{told[-6000:]}")
        return done.stdout or ""

    def run(
        self, *arguments: str, env_file: Path, show: bool = False, seconds: float = 900
    ) -> "subprocess.CompletedProcess[str]":
        """The same with any env file, and whatever it ends with.

        Raises:
            CheckError: It did not end in time.
        """
        command = ["docker", "compose", "-p", self.project, "--env-file", str(env_file), "-f", str(FILE), *arguments]
        pipe = None if show else subprocess.PIPE
        try:
            return subprocess.run(
                command,
                cwd=REPO,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=subprocess.STDOUT if show else pipe,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CheckError(f"docker compose {' '.join(arguments)} still runs after {seconds:g} s") from None

    def docker(self, *arguments: str) -> str:
        """Run `docker`; gives what it prints.

        Raises:
            CheckError: It failed.
        """
        done = subprocess.run(["docker", *arguments], env=self._env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CheckError(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def inspected(self) -> dict[str, dict[str, Any]]:
        """What the engine says of each running container, by service."""
        ids = self.compose("ps", "-q").split()
        found = json.loads(self.docker("inspect", *ids)) if ids else []
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def sql(self, query: str, database: str = "rollouts") -> list[list[str]]:
        """Rows of a query, as text, asked inside PostgreSQL's container."""
        command = (
            "psql",
            "-h",
            "/var/run/postgresql",
            "-U",
            "postgres",
            "-d",
            database,
            "-qAt",
            "-F",
            "\t",
            "-c",
            query,
        )
        printed = self.compose("exec", "-T", "postgres", *command)
        return [line.split("\t") for line in printed.splitlines() if line]

    def url(self, port: str) -> str:
        """A published address, by the name of its port's variable."""
        return f"http://127.0.0.1:{self.values[port]}"

    def gateway(self, number: int, path: str) -> Any:
        """What a gateway answers to its operators, JSON or text."""
        token = self.values["GATEWAY_ADMIN_TOKEN"]
        status, text = call(f"{self.url(f'GATEWAY_{number}_PORT')}{path}", {"Authorization": f"Bearer {token}"})
        if status != 200:
            raise CheckError(f"gateway {number} answers {path} with {status}: {text[:500]}")
        return json.loads(text) if text.startswith(("{", "[")) else text

    def mlflow(self, path: str) -> tuple[int, Any]:
        """Status and content of a call of MLflow's API, logged in."""
        login = f"{self.values['MLFLOW_ADMIN_USER']}:{self.values['MLFLOW_ADMIN_PASSWORD']}".encode()
        headers = {"Authorization": f"Basic {base64.b64encode(login).decode()}"}
        status, text = call(f"{self.url('MLFLOW_PORT')}/api/2.0/mlflow/{path}", headers)
        return status, json.loads(text) if text.startswith("{") else text

    def airflow(self, path: str) -> Any:
        """Content of a call of Airflow's API, logged in."""
        login = {"username": self.values["AIRFLOW_ADMIN_USER"], "password": self.values["AIRFLOW_ADMIN_PASSWORD"]}
        base = self.url("AIRFLOW_PORT")
        status, text = call(f"{base}/auth/token", {"Content-Type": "application/json"}, json.dumps(login).encode())
        if status not in (200, 201):
            raise CheckError(f"Airflow answers the login with {status}: {text[:500]}")
        token = json.loads(text)["access_token"]
        status, text = call(f"{base}/api/v2/{path}", {"Authorization": f"Bearer {token}"})
        if status != 200:
            raise CheckError(f"Airflow answers {path} with {status}: {text[:500]}")
        return json.loads(text)

    def memory(self) -> dict[str, int]:
        """Bytes by container, without what is only cached of files."""
        ids = self.compose("ps", "-q").split()
        lines = self.docker("stats", "--no-stream", "--format", "{{.Name}}\t{{.MemUsage}}", *ids).splitlines()
        found = {}
        for name, usage in (line.split("\t") for line in lines):
            if part := re.match(r"([\d.]+)(\wiB|B)", usage):
                found[name.removeprefix(f"{self.project}-")] = int(float(part[1]) * _UNITS[part[2]])
        return found

    @contextmanager
    def watching_memory(self) -> Iterator[None]:
        """Keep the largest sum of memory while inside."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_SAMPLE_SECONDS):
                try:
                    self.peak_memory = max(self.peak_memory, sum(self.memory().values()))
                except CheckError:
                    continue  # a container has ended between listing and asking

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def left(self) -> list[str]:
        """What there is of the project: containers, volumes, networks."""
        label = f"label=com.docker.compose.project={self.project}"
        found = []
        for what, listing in (
            ("container", ("ps", "-aq", "--filter", label)),
            ("volume", ("volume", "ls", "-q", "--filter", label)),
            ("network", ("network", "ls", "-q", "--filter", label)),
        ):
            found += [f"{what} {name}" for name in self.docker(*listing).split()]
        return found


def call(url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> tuple[int, str]:
    """Status and text of an HTTP call; 0 where nobody answers."""
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}))  # noqa: S310 - our own servers
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
