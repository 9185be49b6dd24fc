"""A real Airflow, MLflow, gateway and traffic: one challenger is rolled back, one is promoted over a killed scheduler.

The parts are the demo's; what is asserted is the state that each leaves: traffic row, aliases, events, artifacts.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.ports import free_port

from demo import airflow_parts, parts
from demo.cases import FORMS, Case
from demo.config import MODEL, DemoConfig
from demo.follow import versions_by_variant
from demo.processes import Processes, Service
from demo.progress import Progress
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.recompute import recompute
from model_rollouts.core.rollout import Event, EventKind, Rollout, State
from model_rollouts.replay.recorded import replay_recorded
from model_rollouts.service import RolloutService

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# What preflight looks at before traffic moves has tests of its own: nothing has served here for long enough.
QUICK = FORMS["canary"] | {
    "requested_by": "test",
    "deadline_seconds": 240,
    "golden_requests": 0,
    "latency_slack_ms": 1000,  # how fast two cores are while they run everything is no matter of this test
    "may_be_missing": ["accuracy", "latency", "errors", "drift", "business"],
}


@dataclass
class Stack:
    """Everything that runs."""

    config: DemoConfig
    processes: Processes
    airflow: airflow_parts.Airflow
    store: SqlStore
    versions: dict[str, str]
    services: list[Service]

    def wait(self, what: str, found: Callable[[], Any], seconds: float = 300) -> Any:
        """Wait for something to become true; gives it."""
        until = time.monotonic() + seconds
        while not (value := found()):
            self.processes.check(*self.services)
            if time.monotonic() > until:
                raise AssertionError(f"no {what} after {seconds:g} s")
            time.sleep(0.3)
        return value

    def trigger(self, variant: str, **conf: Any) -> tuple[str, Rollout]:
        """Start a canary; gives the run's id and the rollout."""
        known = {rollout.id for rollout in self.store.rollouts(MODEL)}
        run = self.airflow.api.trigger(
            "canary", {"model": MODEL, "challenger": self.versions[variant], **QUICK, **conf}
        )
        fresh = lambda: [r for r in self.store.rollouts(MODEL) if r.id not in known]  # noqa: E731
        return run, self.wait("rollout", fresh)[0]

    def rollouts(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line, as a person at another machine has it."""
        airflow = {
            "MODEL_ROLLOUTS_AIRFLOW_URL": self.config.airflow_url,
            "MODEL_ROLLOUTS_AIRFLOW_USER": airflow_parts.USER,
            "MODEL_ROLLOUTS_AIRFLOW_PASSWORD": airflow_parts.password(self.config),
        }
        env = {**os.environ, **self.config.environment(), **airflow}
        command = [sys.executable, "-m", "model_rollouts.cli", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)

    def start(self, variant: str, **conf: Any) -> tuple[str, Rollout]:
        """The same by the command line."""
        values = [
            part for name, value in {**QUICK, **conf}.items() for part in ("--set", f"{name}={json.dumps(value)}")
        ]
        done = self.rollouts(
            "start", MODEL, "--challenger", self.versions[variant], "--reason", "better features", *values
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"run (\S+) of DAG canary is triggered; its rollout will be (\S+)", done.stdout)
        assert found is not None, done.stdout
        there = lambda: [r for r in self.store.rollouts(MODEL) if r.id == found[2]]  # noqa: E731
        return found[1], self.wait("rollout", there)[0]

    def ended(self, rollout: Rollout) -> Rollout:
        """The rollout when it has ended, and all its tasks with it."""
        try:
            self.wait(f"end of {rollout.id}", lambda: not self.store.rollout(rollout.id).active)
        except AssertionError as error:
            now = self.store.rollout(rollout.id)
            raise AssertionError(f"{error}: it is {now.state}, {now.reason}") from None
        self.wait("end of the runs", lambda: not self.unfinished(), 120)
        return self.store.rollout(rollout.id)

    def unfinished(self) -> list[str]:
        """Runs that still go."""
        return [r["dag_run_id"] for r in self.airflow.api.runs("canary") if r["state"] in ("queued", "running")]

    def events(self, rollout: Rollout) -> list[Event]:
        """The rollout's audit."""
        return self.store.events(rollout_id=rollout.id)

    def artifacts(self, rollout: Rollout) -> list[set[str]]:
        """Names of the artifacts of each stage's run, in order of stages."""
        from mlflow import MlflowClient

        client = MlflowClient(self.config.mlflow_url, self.config.mlflow_url)
        experiment = client.get_experiment_by_name(f"rollouts/{MODEL}")
        runs = client.search_runs([experiment.experiment_id], f"tags.`rollout.id` = '{rollout.id}'")
        runs.sort(key=lambda run: int(run.data.tags["rollout.stage"]))
        return [{entry.path for entry in client.list_artifacts(run.info.run_id)} for run in runs]

    def alias(self, name: str) -> str | None:
        """The version an alias points to."""
        from mlflow import MlflowClient

        aliases = MlflowClient(self.config.mlflow_url, self.config.mlflow_url).get_registered_model(MODEL).aliases
        return str(aliases[name]) if name in aliases else None

    def assert_replay_reproduces(self, rollout: Rollout, decisions: int) -> None:
        """The log gives the looks that were kept, and they give every live decision again, to the last digit."""
        from mlflow import MlflowClient

        service = RolloutService(
            self.store,
            MlflowRegistry(self.config.mlflow_url),
            evidence=self.store,
            log=DeltaPredictionLog(self.config.home / "log"),
        )
        replay = replay_recorded(service, rollout)
        assert replay.changed_looks == ()
        assert [c.differences for c in replay.comparisons] == [()] * decisions
        # and so does the artifact alone, without store and log
        client = MlflowClient(self.config.mlflow_url, self.config.mlflow_url)
        experiment = client.get_experiment_by_name(f"rollouts/{MODEL}")
        for run in client.search_runs([experiment.experiment_id], f"tags.`rollout.id` = '{rollout.id}'"):
            record = json.loads(Path(client.download_artifacts(run.info.run_id, "decision.json")).read_text())
            assert recompute(record).differences == ()

    def kill_scheduler(self) -> None:
        """kill -9, and everything that it had running; then a new one."""
        old = self.airflow.services["airflow-scheduler"]
        os.kill(child_of(old.guard.pid), signal.SIGKILL)
        old.guard.wait(timeout=30)
        self.airflow.services["airflow-scheduler"] = airflow_parts.start_component(
            self.config, self.processes, "airflow-scheduler", self.airflow.env, self.airflow.home
        )


def child_of(pid: int) -> int:
    """The one process that a guard has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("e2e")
    config = DemoConfig(
        cases=(Case("canary", "inaccurate", "roll_back"), Case("canary", "better", "cut_over")),
        mlflow_port=free_port(),
        gateway_port=free_port(),
        airflow_port=free_port(),
        home=root / "home",
    )
    config.home.mkdir()
    config.cache.mkdir(parents=True, exist_ok=True)
    progress = Progress(Console(width=160))
    with Processes(config.home / "logs") as processes:
        store = SqlStore(config.store_url)
        store.migrate()
        gateway = parts.start_gateway(config, processes)
        mlflow = parts.start_mlflow(config, processes, progress)
        parts.train(config, processes, progress)
        parts.prepare_replay(config, processes, progress)
        airflow = airflow_parts.start(config, processes, progress)
        parts.wait_for_gateway(config, gateway, progress)
        traffic = parts.start_traffic(config, processes)
        versions = versions_by_variant(config.mlflow_url)
        yield Stack(config, processes, airflow, store, versions, [mlflow, gateway, traffic])


def test_a_less_accurate_version_is_rolled_back_with_the_reason_on_record(stack: Stack) -> None:
    champion = stack.alias("champion")
    _, rollout = stack.trigger("inaccurate", steps=[20, 100])
    rollout = stack.ended(rollout)

    assert rollout.state is State.ROLLED_BACK
    assert "wrong predictions" in rollout.reason
    traffic = stack.store.traffic(MODEL)
    assert traffic is not None
    assert (traffic.champion, traffic.challenger, traffic.share) == (champion, None, 0)
    assert (stack.alias("champion"), stack.alias("challenger")) == (champion, None)
    last = stack.events(rollout)[-1]
    assert last.kind is EventKind.ROLLED_BACK
    assert last.evidence["verdict"] == "fail"
    judged = sum("gates" in event.evidence for event in stack.events(rollout))
    stack.assert_replay_reproduces(rollout, judged)
    started = stack.events(rollout)[0]
    assert started.evidence["power"][0]["requests_per_second"] > 0
    names = stack.artifacts(rollout)[-1]  # of the stage that ended it: the coarse first one may have let it through
    assert names >= {"decision.json", "comparison.html", "drift.html", "data_checks_predictions.html"}


def test_a_better_version_is_promoted_though_the_scheduler_is_killed(stack: Stack) -> None:
    champion, challenger = stack.alias("champion"), stack.versions["better"]
    run, rollout = stack.start("better", steps=[20, 100], approval_from_share=100, bake_seconds=20)
    assert rollout.reason.endswith(": better features")
    early = stack.rollouts("approve", MODEL, "--reason", "looks good")
    assert early.returncode == 3, early.stderr  # nothing waits for a person yet
    stack.wait(
        "watch that waits",
        lambda: stack.airflow.api.task_state("canary", run, "watch") == "deferred",
    )
    stack.kill_scheduler()

    second = f"{rollout.id}--stage-2"
    stack.wait("second stage", lambda: stack.store.rollout(rollout.id).stage == 1)
    state = lambda: stack.airflow.api.task_state("canary", second, "approve")  # noqa: E731
    stack.wait("question to a person", lambda: state() == "awaiting_input")
    assert stack.store.rollout(rollout.id).active, "nothing is promoted before a person has said so"

    def approved() -> bool:
        # An answer that comes before the scheduler has heard that the task paused fails the try, and Airflow asks
        # again; no person is that fast.
        if (now := state()) == "awaiting_input":
            done = stack.rollouts("approve", MODEL, "--reason", "looks good", "--by", "anna")
            assert done.returncode in (0, 3), done.stderr  # 3: it was answered, and its task has yet to end
        return bool(now == "success")

    stack.wait("end of the question", approved)
    rollout = stack.ended(rollout)

    assert rollout.state is State.PROMOTED
    notes = {run["dag_run_id"]: run["note"] for run in stack.airflow.api.runs("canary")}
    assert notes[run].startswith("better features\n\nStage 1 of 2 at 20 %: expand. ")
    assert "Stage 2 of 2 at 100 %: cut over. " in notes[second]
    traffic = stack.store.traffic(MODEL)
    assert traffic is not None
    assert (traffic.champion, traffic.previous, traffic.challenger) == (challenger, champion, None)
    assert [stack.alias(name) for name in ("champion", "previous", "challenger")] == [challenger, champion, None]
    # the hourly monitoring of the champion may report at any moment
    answered = [event for event in stack.events(rollout) if event.kind is EventKind.ANSWERED]
    assert answered[0].actor.startswith("anna via ")
    events = [e for e in stack.events(rollout) if e.kind not in (EventKind.REPORTED, EventKind.ANSWERED)]
    assert [event.kind for event in events] == [
        EventKind.STARTED,
        EventKind.DRILL_BEGAN,
        EventKind.DRILL_ENDED,
        EventKind.DRILLED,
        EventKind.STAGE_OPENED,
        EventKind.CLEARED,
        EventKind.STAGE_OPENED,
        EventKind.CLEARED,
        EventKind.CUT_OVER,
    ]
    for event in events:
        assert sum(event.before.values()) == 100
        assert sum(event.after.values()) == 100
    stages = stack.artifacts(rollout)
    assert len(stages) == 2
    for names in stages:
        assert names >= {"decision.json", "comparison.html", "drift.html", "data_checks_predictions.html"}
    stack.assert_replay_reproduces(rollout, 3)
