"""`make demo`: starts everything, rolls the challengers out under traffic, checks each decision, ends everything."""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from demo import airflow_parts, parts
from demo.airflow_api import AirflowApi
from demo.config import DemoConfig, parse
from demo.processes import DemoError, Processes, Service, require_free_port
from demo.progress import Progress
from demo.summary import RolloutReport, problems, to_json, to_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0 when every decision was the expected one, 1 when one was not or anything failed, 2 for a wrong
        setting, 130 when it was interrupted.
    """
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.update(config.environment())  # this process reads the store by the same settings as the others
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell starts background jobs with it ignored
        signal.signal(number, interrupt)
    console = Console(stderr=False, width=None if sys.stdout.isatty() else 160)
    progress = Progress(console)
    try:
        require_free_port(config.mlflow_port, "MLflow", "MLFLOW_PORT")
        require_free_port(config.gateway_port, "the gateway", "GATEWAY_PORT")
        require_free_port(config.airflow_port, "Airflow", "AIRFLOW_PORT")
        shutil.rmtree(config.home, ignore_errors=True)
        config.home.mkdir(parents=True)
        config.cache.mkdir(parents=True, exist_ok=True)
        with Processes(config.home / "logs") as processes, progress.live():
            return _run(config, processes, progress)
    except DemoError as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been ended")
        return 130


def _run(config: DemoConfig, processes: Processes, progress: Progress) -> int:
    api, services = _start(config, processes, progress)
    _say_addresses(config, progress)
    reports: list[RolloutReport] = []
    broken: list[str] = []
    try:
        for report in _rolled_out(config, processes, progress, api, services):
            reports.append(report)
    except DemoError as error:
        broken.append(str(error))  # what was judged before is still worth telling
    found = broken + problems(config.cases, reports)
    summary = config.home / "summary.json"
    content = to_json(reports, found, progress.elapsed, progress.seconds)
    summary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    progress.console.print(to_table(reports))
    for problem in found:
        progress.say(f"[red]{escape(problem)}[/]")
    if found:
        progress.say(f"logs are in {config.home / 'logs'} and {config.home / 'airflow' / 'logs'}")
    progress.say(f"{progress.elapsed:.0f} s in all; written to {summary}")
    if config.keep:
        _say_addresses(config, progress)
        progress.say("everything stays up; Ctrl-C ends it")
        progress.waiting("up; Ctrl-C ends it")
        threading.Event().wait()
    return 1 if found else 0


def _start(config: DemoConfig, processes: Processes, progress: Progress) -> tuple[AirflowApi, list[Service]]:
    """Start everything, in parallel where one thing does not need the other.

    Raises:
        DemoError: Something failed; the rest is ended at once.
    """
    from model_rollouts.adapters.sql_store import SqlStore

    SqlStore(config.store_url).migrate()
    # Training waits for MLflow and everything else waits for a core: with two of them MLflow goes first, alone.
    mlflow = parts.start_mlflow(config, processes, progress)
    # Its imports take seconds, so it starts now; it asks for the champion until there is one.
    gateway = parts.start_gateway(config, processes)

    def models() -> list[Service]:
        parts.train(config, processes, progress)
        parts.wait_for_gateway(config, gateway, progress)
        return [mlflow, gateway]

    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="start") as pool:
        airflow = pool.submit(airflow_parts.start, config, processes, progress)
        served = pool.submit(models)
        data = pool.submit(parts.prepare_replay, config, processes, progress)
        _wait_for_all(processes, [airflow, served, data])
    traffic = parts.start_traffic(config, processes)
    return airflow.result().api, [*served.result(), traffic]


def _wait_for_all(processes: Processes, futures: Sequence[Future[Any]]) -> None:
    """Wait; where one fails, end every process, so that the other threads end too, and say the first error."""
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
        wait(futures)
    except BaseException:
        processes.close()
        raise


def _rolled_out(
    config: DemoConfig, processes: Processes, progress: Progress, api: AirflowApi, services: Sequence[Service]
) -> Iterator[RolloutReport]:
    from demo.follow import Follower, versions_by_variant
    from model_rollouts.adapters.sql_store import SqlStore

    check: Callable[[], None] = lambda: processes.check(*services)  # noqa: E731 - a bound call, not a function
    follower = Follower(config, api, SqlStore(config.store_url), progress, check)
    versions = versions_by_variant(config.mlflow_url)
    follower.wait_for_history()
    for case in config.cases:
        if case.challenger not in versions:
            log = config.home / "logs" / "training.log"
            raise DemoError(f"training registered no version for {case.challenger}; see {log}")
        with progress.step(case.title):
            report = follower.roll_out(case, versions[case.challenger])
        yield report


def _say_addresses(config: DemoConfig, progress: Progress) -> None:
    login = f"user {airflow_parts.USER}, password {airflow_parts.password(config)}"
    progress.say(f"Airflow  {config.airflow_url}  ({login})")
    progress.say(f"MLflow   {config.mlflow_url}  (this machine only, no login)")
    progress.say(f"gateway  {config.gateway_url}/models/flights/status")


def interrupt(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
