"""Nothing that the demo starts outlives it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from demo.processes import DemoError, Processes, require_free_port

REPO = Path(__file__).resolve().parents[2]

# A family as Airflow's: a child in the group, one in a session of its own, an orphan that ignores SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
nap = [sys.executable, "-c", "import time; time.sleep(600)"]
deafness = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
deaf = [sys.executable, "-c", deafness]
child = subprocess.Popen(nap)
stranger = subprocess.Popen(nap, start_new_session=True)
if (middle := os.fork()) == 0:
    orphan = subprocess.Popen(deaf, start_new_session=True, stdout=subprocess.PIPE)
    orphan.stdout.readline()
    (folder / "orphan").write_text(str(orphan.pid))
    os._exit(0)
os.waitpid(middle, 0)
(folder / "pids.new").write_text(f"{os.getpid()} {child.pid} {stranger.pid} {(folder / 'orphan').read_text()}")
(folder / "pids.new").rename(folder / "pids")
if sys.argv[2] == "stay":
    time.sleep(600)
"""

DRIVER = """
import sys, time
from pathlib import Path
from demo.processes import Processes
with Processes(Path(sys.argv[1])) as processes:
    processes.start("family", [sys.executable, "-c", sys.argv[2], sys.argv[1], "stay"], grace=0.5)
    time.sleep(600)
"""


def until(ready: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.02)


def pids_of(folder: Path) -> list[int]:
    until((folder / "pids").exists, "family")
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    def lives(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in pids if lives(pid)]


def family_command(folder: Path, then: str) -> list[str]:
    return [sys.executable, "-c", FAMILY, str(folder), then]


def test_leaving_the_block_ends_children_strangers_and_orphans(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("family", family_command(tmp_path, "stay"), grace=0.5)
        family = pids_of(tmp_path)
        assert alive(family) == family
    assert alive(family) == []


def test_a_driver_killed_with_9_leaves_nobody(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), FAMILY], cwd=REPO)
    family = pids_of(tmp_path)
    assert alive(family) == family
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    until(lambda: not alive(family), "end of the family")


def test_a_command_that_ends_takes_what_it_left_behind_with_it(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        service = processes.start("family", family_command(tmp_path, "go"), grace=0.2)
        service.finish(10)
        assert alive(pids_of(tmp_path)) == []


def test_a_failed_command_is_told_with_its_exit_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        service = processes.start("broken", [sys.executable, "-c", "import sys; print('no disk'); sys.exit(3)"])
        with pytest.raises(DemoError, match=r"broken failed with exit code 3(.|\n)*no disk"):
            service.finish(10)


def test_a_service_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        service = processes.start("gone", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
        with pytest.raises(DemoError, match="gone ended with exit code 137"):
            service.wait_until(lambda: False, "answer", 10)


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        service = processes.start("missing", [str(tmp_path / "no-such-program")])
        with pytest.raises(DemoError, match=r"exit code 127(.|\n)*can't be started"):
            service.finish(10)


def test_nothing_starts_while_everything_is_being_ended(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.close()
    with pytest.raises(DemoError, match="late is not started"):
        processes.start("late", [sys.executable, "-c", ""])


def test_a_busy_port_names_the_variable_to_set() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=f"port {port} for MLflow is taken; .* MLFLOW_PORT"):
            require_free_port(port, "MLflow", "MLFLOW_PORT")
