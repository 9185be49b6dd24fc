"""The demo's processes: started under a guard each, waited for with a reason, ended together."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_GUARD = Path(__file__).with_name("guard.py")
_POLL_SECONDS = 0.2
# Whatever the caller's shell says of another Airflow, registry or gateway, the demo keeps to its own.
_FOREIGN = ("AIRFLOW", "MLFLOW_", "_MLFLOW_", "MODEL_ROLLOUTS_")
_LOG_TAIL = 25


class DemoError(Exception):
    """The demo can't go on; the message says why and where to look."""


@dataclass(frozen=True, slots=True)
class Service:
    """A process with its guard.

    Attributes:
        name: For messages.
        guard: The guard; its exit code is the command's.
        log: Where its output goes.
    """

    name: str
    guard: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """See that it still runs.

        Raises:
            DemoError: It has ended; the message holds the end of its log.
        """
        if (code := self.guard.poll()) is not None:
            raise DemoError(f"{self.name} ended with exit code {code}; the end of {self.log}:\n{tail(self.log)}")

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for something that this service does.

        Args:
            ready: Asked until it says True.
            what: What is waited for, for the error.
            seconds: The longest wait.

        Raises:
            DemoError: The service ended, or the time is over.
        """
        until = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise DemoError(f"{self.name}: no {what} after {seconds:g} s; the end of {self.log}:\n{tail(self.log)}")
            time.sleep(_POLL_SECONDS)

    def finish(self, seconds: float) -> None:
        """Wait for a command that is to end by itself.

        Raises:
            DemoError: It failed, or the time is over.
        """
        try:
            code = self.guard.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self.name} still runs after {seconds:g} s; see {self.log}") from None
        if code != 0:
            raise DemoError(f"{self.name} failed with exit code {code}; the end of {self.log}:\n{tail(self.log)}")


class Processes:
    """Everything the demo started. Leaving the `with` block ends it all."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.services: list[Service] = []
        self._lock = threading.Lock()
        self._closed = False
        logs.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace: float = 5.0,
    ) -> Service:
        """Start a command in a session of its own; its output goes to `<logs>/<name>.log`.

        Args:
            name: For messages and for the log's name.
            command: Program and arguments.
            env: Added to this process's environment, without what that says of other Airflows or registries.
            cwd: Working directory.
            grace: Seconds between asking it to end and killing it.

        Raises:
            DemoError: Everything is being ended already.
        """
        with self._lock:
            if self._closed:
                raise DemoError(f"{name} is not started: everything is being ended")
            return self._start(name, command, env, cwd, grace)

    def _start(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None, grace: float
    ) -> Service:
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(grace), *command],
                stdin=subprocess.PIPE,  # never written to: it closes when this process is gone
                stdout=output,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)} | dict(env or {}),
                cwd=cwd,
                start_new_session=True,
            )
        service = Service(name, guard, log)
        self.services.append(service)
        return service

    def check(self, *services: Service) -> None:
        """See that these still run.

        Raises:
            DemoError: One has ended.
        """
        for service in services:
            service.check()

    def stop(self, *services: Service) -> None:
        """End these, all at once, and wait until they have ended. Ending one again is harmless."""
        for service in services:
            if service.guard.poll() is None:
                service.guard.terminate()
        for service in services:
            service.guard.wait()
            if service.guard.stdin is not None:
                service.guard.stdin.close()

    def close(self) -> None:
        """End everything, and start nothing more."""
        with self._lock:
            self._closed = True
        self.stop(*reversed(self.services))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-_LOG_TAIL:])


def require_free_port(port: int, what: str, variable: str) -> None:
    """See that a port can be listened on.

    Raises:
        DemoError: Somebody else has it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise DemoError(
                f"port {port} for {what} is taken; choose another one with {variable}, such as "
                f"`make demo {variable}={port + 1}`"
            ) from None


def answers(url: str) -> bool:
    """Whether an HTTP address answers with 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - one of our own servers
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, OSError):
        return False
