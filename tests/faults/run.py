"""`make test-faults`: breaks everything in turn, and writes docs/faults.md from what it saw.

    python -m tests.faults.run [stack] [gateway] [page]

`stack` are the tests of this folder, `gateway` those of tests/chaos (the outages at full size, the rest at its small
one, which `make test-chaos` has in full), `page` is docs/faults.md. Without a word it is all of them. FAULTS=small does
the first alone, with one canary and a kill of each process, and leaves the page as it is.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from tests.faults import gateway_lines
from tests.faults.expected import EXPECTED
from tests.faults.record import FOLDER, FULL, Shown, forget, keep, kept

from demo.config import REPO

PAGE = REPO / "docs" / "faults.md"
_OUTAGES = "tests/chaos/test_outages.py"


def main(words: Sequence[str]) -> int:
    """Run the parts; 0 when everything held."""
    parts = list(words) or (["stack", "gateway", "page"] if FULL else ["stack"])
    code = 0
    for part in {"stack", "gateway"} & set(parts):
        forget(part)
    if "stack" in parts:
        code |= _pytest("tests/faults")
    if "gateway" in parts:
        code |= _gateway([_OUTAGES], full=True)
        code |= _gateway(["tests/chaos", f"--ignore={_OUTAGES}"], full=False)
    if "page" in parts:
        lines = rows(kept())
        PAGE.write_text(page(lines), encoding="utf-8")
        print(f"{PAGE.name} is written")
        for line in lines:
            if not line.passed or line.fault not in EXPECTED:
                print(f"{line.fault}: {line.outcome}{', not in expected.py' * (line.fault not in EXPECTED)}")
                code |= 1
    return code


def rows(lines: Mapping[str, Shown]) -> list[Shown]:
    """A line of each fault that is expected, seen or not, and of whatever else was seen."""
    missing = {fault: Shown(fault, "", times=0, part=part, ran=False) for fault, part in EXPECTED.items()}
    return list((missing | dict(lines)).values())


def _gateway(arguments: Sequence[str], *, full: bool) -> int:
    report, began = FOLDER / "gateway.xml", time.time()
    FOLDER.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    code = _pytest(*arguments, marker="chaos", more=[f"--junitxml={report}"], CHAOS="full" if full else "small")
    if not report.exists():
        return code or 1  # nothing ran: its rows say so
    for line in gateway_lines.lines(report, full, began):
        keep(line)
    return code


def _pytest(*arguments: str, marker: str = "faults", more: Sequence[str] = (), **env: str) -> int:
    command = [sys.executable, "-m", "pytest", *arguments, "-m", marker, "-s", *more]
    return subprocess.run(command, env=os.environ | env, cwd=REPO, check=False).returncode


def page(lines: Sequence[Shown]) -> str:
    """The Markdown page."""
    table = "\n".join(
        f"| {line.fault} | {line.times} | {line.held} | {line.outcome}"
        f"{': ' * bool(line.result)}{line.result}{'' if line.full else ' (small)'} | {line.seconds:.0f} "
        f"| {datetime.fromtimestamp(line.at, UTC).strftime('%Y-%m-%d') if line.ran else ''} |"
        for line in lines
    )
    held, ran = sum(line.ran and line.passed for line in lines), sum(line.ran for line in lines)
    seconds, broken = sum(line.seconds for line in lines), sum(line.times for line in lines if line.ran)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"""# Faults

What DESIGN.md promises, shown by breaking things. Made by `make test-faults` ({machine}): of {len(lines)} lines {held}
held, {ran - held} did not hold and {len(lines) - ran} did not run;
{broken} times something was broken, {seconds / 60:.0f} minutes. Each line has the day it was tried on.

| fault | times | what was checked | result | seconds | day |
| --- | --- | --- | --- | --- | --- |
{table}

## How it is done

- PostgreSQL (Airflow's database and the rollout store), an MLflow server, two gateways, and Airflow's scheduler,
  triggerer, DAG processor and API server with LocalExecutor run as processes of their own. What is killed gets SIGKILL
  with all its children; a thread starts again what has ended, as an init system does. Airflow is told to notice within
  15 s that a process is gone (by default: minutes).
- A boundary is a task's state in Airflow's database: the task runs, or the watch is deferred. Three canaries of two
  stages come by every pair of a boundary and a process once; where no worker runs, the API server is to be killed. A
  kill counts when the task was still there right before it and the process was alive; what was not is named as missed,
  and a canary that misses more than one in five does not hold.
- A worker is LocalExecutor's process that supervises the task, killed together with the task. One that is idle is not
  killed: in Airflow 3.3.2 it waits with the lock of the executor's queue, and takes that with it.
- Callers ask two gateways in turn, and ask the other one when a connection breaks or a gateway that has just started
  says 503. A request keeps its id. A caller without an answer from either is a failure of the test.
- After each: shares sum to 100 in every event, revisions follow each other without a gap, the shares of an event begin
  where those of the one before it ended, each has an actor and a reason, and the last one is the traffic row. Each row
  of the log was routed by a revision that an event tells of, and its unit stands where that revision's share says. Each
  answer is in the log once, as served and with the version that answered; what was not answered is not served.
- Lines marked (small) are done at full size by `make test-chaos`.

## What is not shown

- kill -9 is the end of a process, not of a machine: what the kernel had not written is not lost here.
- Between an answer and its mark a kill leaves a row that says less than was true
  (docs/adr/0016-marks-of-sent-answers.md); at most one for each kill of a gateway is let pass.
- MLflow is on SQLite here, the log in Delta. Celery's workers are killed by nobody here.
- The clock that the verdicts are made by is moved inside the service, not in Airflow's processes.
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
