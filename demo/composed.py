"""`docker compose run --rm demo`: canaries on the installation of docker-compose.yaml, with real flights.

Trains what the registry lacks, sends traffic to the gateways, and rolls the challengers out in Airflow as people do.
What runs is left running; the traffic ends with this process.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from demo import parts
from demo.airflow_api import AirflowApi
from demo.cases import FORMS, chosen
from demo.config import CHAMPION, MODEL, START_SECONDS, DemoConfig
from demo.follow import Follower
from demo.processes import DemoError, Processes
from demo.progress import Progress
from demo.run import interrupt
from demo.summary import RolloutReport, problems, to_json, to_table

if TYPE_CHECKING:
    from model_rollouts.wiring import Wiring

_POLL_SECONDS = 0.5
_ROLLOUT_SECONDS = 1_200.0
_PASSED_ON = ("MODEL_ROLLOUTS_", "MLFLOW_", "OMP_")

# Several containers share a machine of unknown size: rows come later to the log, and answers are slower at times.
_SLOWER = {"grace_seconds": 5, "label_maturity_seconds": 6.5, "latency_slack_ms": 400, "deadline_seconds": 300}
_FORMS = {**FORMS, "canary": FORMS["canary"] | _SLOWER}


@dataclass(frozen=True, slots=True)
class ComposedConfig(DemoConfig):
    """A demo on what runs already.

    Attributes:
        gateway: The address of all gateways.
        mlflow: MLflow's.
        airflow: Airflow's API server.
        passed_on: Settings of this container, for the processes that it starts.
        has_champion: The registry has one: only challengers are trained.
    """

    gateway: str = ""
    mlflow: str = ""
    airflow: str = ""
    passed_on: tuple[tuple[str, str], ...] = ()
    has_champion: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        """What to train."""
        challengers = tuple(dict.fromkeys(case.challenger for case in self.cases))
        return challengers if self.has_champion else (CHAMPION, *challengers)

    @property
    def gateway_url(self) -> str:
        """Address of the gateways."""
        return self.gateway

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow."""
        return self.mlflow

    @property
    def airflow_url(self) -> str:
        """Address of Airflow."""
        return self.airflow

    def environment(self) -> dict[str, str]:
        """What this container was told."""
        return dict(self.passed_on)


def config_of(environment: Mapping[str, str], *, has_champion: bool) -> ComposedConfig:
    """The settings, from the container's environment.

    Raises:
        ValueError: One is missing or out of its bounds; the message names it.
    """
    needed = ("DEMO_GATEWAY", "DEMO_GATEWAY_TOKEN", "DEMO_HOME", "MLFLOW_TRACKING_URI", "MODEL_ROLLOUTS_AIRFLOW_URL")
    for name in (*needed, "MODEL_ROLLOUTS_AIRFLOW_USER", "MODEL_ROLLOUTS_AIRFLOW_PASSWORD"):
        if not environment.get(name):
            raise ValueError(f"{name} is not set; start it with: docker compose run --rm demo")
    names = environment.get("DEMO_CHALLENGERS", "better,inaccurate").split(",")
    rate = environment.get("DEMO_RATE", "300")
    try:
        requests = float(rate)
    except ValueError:
        raise ValueError(f"DEMO_RATE is {rate!r}, must be requests per second, such as 300") from None
    home = Path(environment["DEMO_HOME"])
    return ComposedConfig(
        cases=chosen(("canary",), [name.strip() for name in names if name.strip()]),
        rate=requests,
        rollout_seconds=_ROLLOUT_SECONDS,
        home=home,
        cache=home,
        gateway=environment["DEMO_GATEWAY"],
        mlflow=environment["MLFLOW_TRACKING_URI"],
        airflow=environment["MODEL_ROLLOUTS_AIRFLOW_URL"],
        passed_on=(
            *((k, v) for k, v in environment.items() if k.startswith(_PASSED_ON)),
            ("MODEL_ROLLOUTS_GATEWAY_TOKEN", environment["DEMO_GATEWAY_TOKEN"]),  # a caller's, not an operator's
        ),
        has_champion=has_champion,
    )


def main() -> int:
    """Run it.

    Returns:
        0 when every decision was the expected one, 1 when one was not or anything failed, 2 for a wrong setting, 130
        when it was interrupted.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    console = Console(width=None if sys.stdout.isatty() else 160)
    progress = Progress(console)
    try:
        config = config_of(os.environ, has_champion=_has_champion())
        with Processes(config.home / "logs") as processes, progress.live():
            return _run(config, processes, progress)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except DemoError as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; a rollout that is under way goes on: docker compose run --rm rollouts status")
        return 130


def _run(config: ComposedConfig, processes: Processes, progress: Progress) -> int:
    from model_rollouts.wiring import Wiring

    wiring = Wiring()
    parts.train(config, processes, progress)
    parts.prepare_replay(config, processes, progress)
    with progress.step("gateways"):
        _wait_for_gateways(wiring)
    traffic = parts.start_traffic(config, processes)
    password = os.environ["MODEL_ROLLOUTS_AIRFLOW_PASSWORD"]
    api = AirflowApi(config.airflow_url, os.environ["MODEL_ROLLOUTS_AIRFLOW_USER"], password)
    with progress.step("DAGs"):
        _wait_for_dags(api, config)
    follower = Follower(config, api, wiring.store, progress, lambda: processes.check(traffic), _FORMS)
    follower.wait_for_history()
    versions = _versions(config)
    reports: list[RolloutReport] = []
    broken: list[str] = []
    try:
        for case in config.cases:
            with progress.step(case.title):
                reports.append(follower.roll_out(case, versions[case.challenger]))
    except DemoError as error:
        broken.append(str(error))  # what was judged before is still worth telling
    found = broken + problems(config.cases, reports)
    content = to_json(reports, found, progress.elapsed, progress.seconds)
    (config.home / "summary.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    progress.console.print(to_table(reports))
    for problem in found:
        progress.say(f"[red]{escape(problem)}[/]")
    progress.say(f"{progress.elapsed:.0f} s in all")
    return 1 if found else 0


def _has_champion() -> bool:
    """Whether the registry has a champion: what serves is never replaced by training."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from model_rollouts.adapters.mlflow_client import is_missing

    try:
        MlflowClient().get_model_version_by_alias(MODEL, CHAMPION)
    except MlflowException as error:
        if is_missing(error) or error.error_code == "INVALID_PARAMETER_VALUE":  # no such model; no such alias
            return False
        raise DemoError(f"MLflow can't be asked for the champion of {MODEL}: {error}") from None
    return True


def _versions(config: ComposedConfig) -> dict[str, str]:
    """Newest version of each variant, from the tags that training set.

    Raises:
        DemoError: A challenger has none.
    """
    from mlflow import MlflowClient

    found = MlflowClient().search_model_versions(f"name='{MODEL}'", max_results=1_000)
    ordered = sorted(found, key=lambda version: int(version.version))
    newest = {version.tags["variant"]: str(version.version) for version in ordered if "variant" in version.tags}
    if missing := [case.challenger for case in config.cases if case.challenger not in newest]:
        raise DemoError(f"training registered no version for {', '.join(missing)}; see {config.home / 'logs'}")
    return newest


def _wait_for_gateways(wiring: "Wiring") -> None:
    """Adopt the model, and wait until each gateway has loaded its champion.

    Raises:
        DemoError: One has not; the message says what they say.
    """
    from model_rollouts.core.errors import RolloutError

    champion = wiring.service.adopt(MODEL, "demo").champion
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            said = wiring.gateway.versions(MODEL).get(champion, "not there")
        except RolloutError as error:
            said = str(error)
        if said == "ready":
            return
        if time.monotonic() > until:
            raise DemoError(f"version {champion} of {MODEL} is not ready after {START_SECONDS:g} s: {said}")
        time.sleep(_POLL_SECONDS)


def _wait_for_dags(api: AirflowApi, config: ComposedConfig) -> None:
    """Wait until the DAGs can be triggered.

    Raises:
        DemoError: One is not there in time, or can't be imported.
    """
    until = time.monotonic() + START_SECONDS
    for dag_id in sorted({case.dag_id for case in config.cases}):
        while not api.dag_is_there(dag_id):
            if time.monotonic() > until:
                raise DemoError(f"DAG {dag_id} is not there, or paused, after {START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
