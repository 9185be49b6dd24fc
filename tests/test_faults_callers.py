"""What the fault suite's callers count, and whom its kills reach."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.faults import test_kills as kills
from tests.faults.callers import Callers
from tests.faults.kills import strike_worker
from tests.faults.record import FULL
from tests.faults.stack import Part, Stack

from demo.processes import Processes

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


def test_a_kill_of_what_is_down_already_is_none(tmp_path: Path) -> None:
    stack = object.__new__(Stack)
    with Processes(tmp_path) as processes:
        service = processes.start("sleeper", ["sleep", "60"])
        service.wait_until(lambda: bool(psutil.Process(service.guard.pid).children()), "child", 10)
        stack.parts = {"sleeper": Part("sleeper", [], {}, tmp_path, lambda: True, service)}
        assert stack.kill("sleeper") is True
        assert service.guard.poll() is not None
        assert stack.kill("sleeper") is False
        with pytest.raises(AssertionError, match="sleeper was down already"), stack.away("sleeper"):
            pass


_WORKER = """
import subprocess, sys
task = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
print(task.pid, flush=True)
input()
"""


@contextmanager
def _worker(title: str, task: str = "input()") -> Iterator[tuple[psutil.Process, int]]:
    """A worker of that title, and the id of the task that it runs."""
    command = [sys.executable, "-c", _WORKER, task, title]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        yield psutil.Process(made.pid), int(made.stdout.readline())
        made.kill()


def test_a_worker_dies_with_the_task_that_it_runs() -> None:
    with _worker("airflow worker -- LocalExecutor: canary.compare") as (worker, pid):
        task = psutil.Process(pid)
        assert strike_worker(pid)
        assert worker.wait(10) is not None or not worker.is_running()
        psutil.wait_procs([task], timeout=10)
        assert not task.is_running() or task.status() == psutil.STATUS_ZOMBIE
        assert not strike_worker(pid), "nobody is there any more"


def test_a_worker_whose_task_has_ended_lives() -> None:
    with _worker("airflow worker -- LocalExecutor: <idle>", "") as (worker, pid):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            threading.Event().wait(0.01)
        assert not strike_worker(pid)
        assert worker.status() != psutil.STATUS_ZOMBIE


def test_a_parent_that_is_no_worker_lives_and_so_does_its_child() -> None:
    with _worker("airflow scheduler") as (parent, pid):
        assert not strike_worker(pid)
        assert parent.status() != psutil.STATUS_ZOMBIE
        child = psutil.Process(pid)
        assert child.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
        child.kill()


class _Canary:
    """A stack whose task goes from state to state, each time that somebody asks."""

    def __init__(self, alive: bool, *states: str) -> None:
        self._alive, self._states, self.struck = alive, list(states), list[str]()

    def task(self, *_: str) -> dict[str, Any]:
        return {"state": self._states.pop(0), "pid": 0}

    def until(self, _: str, found: Any, __: float) -> Any:
        return found()

    def kill(self, name: str) -> bool:
        self.struck.append(name)
        return self._alive


@pytest.mark.parametrize(
    ("boundary", "alive", "states", "hit"),
    [
        ("compare", True, ("running", "running"), True),
        ("compare", True, ("running", "success"), False),
        ("compare", False, ("running", "running"), False),
        ("watch", True, ("running", "deferred"), False),
        ("deferred", True, ("deferred", "deferred"), True),
        ("deferred", True, ("deferred", "running"), False),
        ("deferred", True, ("success", "success"), False),
    ],
)
def test_a_kill_counts_when_the_task_was_there_and_the_process_alive(
    boundary: str, alive: bool, states: tuple[str, ...], hit: bool
) -> None:
    canary: Any = _Canary(alive, *states)
    killer, point = kills.Killer(canary, "r1", "run"), kills.Point(0, 0, boundary, kills.SCHEDULER)
    killer.strike(point)
    assert (killer.hit, killer.missed) == (([point], []) if hit else ([], [point]))
    assert kills._named(killer.missed) == ("none" if hit else f"scheduler at {boundary} of stage 1")
    assert canary.struck == ([] if states[1] not in point.states else [kills.SCHEDULER])


@pytest.mark.skipif(not FULL, reason="FAULTS=small has one of each")
def test_three_canaries_come_by_every_pair_of_a_boundary_and_a_process_once() -> None:
    seen = Counter((point.boundary, point.kind) for canary in range(3) for point in kills.points(canary))
    wanted = {(boundary, kind) for boundary in kills.STAGE for kind in kills.KINDS}
    wanted = wanted - {("deferred", kills.WORKER)} | {("deferred", kills.API_SERVER)}
    assert seen == dict.fromkeys(wanted, 1)
