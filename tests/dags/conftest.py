"""A world for the DAGs: real Airflow metadata database, MLflow, rollout store and Delta log.

Two things are stand-ins, because the gateway has tests of its own and an end-to-end test runs the real one:
`Replay` writes the log rows that a gateway would write for the traffic row as it is, with error rates that the test
names, and `StandInGateway` says which versions are loaded.
"""

import functools
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.mlflow_at import mlflow_at
from demo.databases import kept_database

REPO = Path(__file__).parents[2]
AIRFLOW_HOME = Path(os.environ["AIRFLOW_HOME"])


@pytest.fixture(scope="session")
def airflow_db() -> Iterator[None]:
    """The metadata database, migrated; what Airflow does over and over with files that stay the same is done once.

    `dag.test()` parses, checks and writes down every DAG of the folder before each run, and checks the schema of each
    parameter whenever its value is read: together that was half the time of these tests.
    """
    from airflow.dag_processing import dagbag
    from airflow.sdk import DAG
    from jsonschema import Draft202012Validator

    with kept_database(AIRFLOW_HOME / "airflow.db", "airflow") as there:
        if not there:
            migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
            subprocess.run(migrate, check=True, capture_output=True, timeout=240)
    check_schema, run = Draft202012Validator.check_schema, DAG.test
    parse, write = functools.cache(dagbag.BundleDagBag), dagbag.sync_bag_to_db
    known: set[str] = set()

    def once(key: str, do: Callable[[], object]) -> None:
        if key not in known:
            do()
            known.add(key)

    def check_once(schema: Any, *args: Any, **kwargs: Any) -> None:
        once(json.dumps(schema, sort_keys=True), lambda: check_schema(schema, *args, **kwargs))

    def run_known(dag: Any, *args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dagbag, "BundleDagBag", parse)
            patch.setattr(dagbag, "sync_bag_to_db", lambda bag, name, *of: once(name, lambda: write(bag, name, *of)))
            return run(dag, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draft202012Validator, "check_schema", check_once)
        patch.setattr(DAG, "test", run_known)
        yield


@pytest.fixture(scope="session")
def logged_model(mlflow_server: str) -> Any:
    """A tiny model with a signature, logged once; tests register it under names of their own."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    code = AIRFLOW_HOME / "threshold_model.py"
    code.write_text(
        "import mlflow\n"
        "class Threshold(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return (model_input['x'] > 0).astype(int)\n"
        "mlflow.models.set_model(Threshold())\n"
    )
    frame = pd.DataFrame({"x": [0.5, -1.0]})
    with mlflow_at(mlflow_server), mlflow.start_run():
        return mlflow.pyfunc.log_model(
            name="model", python_model=str(code), signature=infer_signature(frame, [1, 0]), input_example=frame
        )


@dataclass
class Replay:
    """Writes the rows of a gateway for whatever the traffic table says, until it is closed.

    Failures and wrong answers come as evenly as their rates allow, so that no gate alarms by chance; and rows are
    spread over the time since the last ones, with the gateway telling how old that is, so that a machine that is
    busy elsewhere leaves no silence.
    """

    world: "World"
    wrong: dict[str, float] = field(default_factory=dict)  # version -> rate of wrong predictions
    errors: dict[str, float] = field(default_factory=dict)
    requests: int = 60  # each tick
    seed: int = 7
    null_features: bool = False
    disagree: float = 0.0  # mirrored requests that the challenger answers differently
    values: dict[str, float] = field(default_factory=dict)  # version -> mean business value of a request
    units: int = 5000
    due: dict[tuple[str, str], float] = field(default_factory=dict)  # (kind, version) -> of the next one, 1: it is one

    def __enter__(self) -> "Replay":
        self._revision, self._logged = 0, time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "the replay is stuck"
        self.world.gateway.logged = None

    def _run(self) -> None:
        from model_rollouts.adapters.delta_log import DeltaLogWriter

        writer = DeltaLogWriter(self.world.log_dir, f"replay-{uuid.uuid4().hex}")
        rng = random.Random(self.seed)
        tick = 0
        while not self._stop.wait(0.1):
            tick += 1
            now = time.time()
            predictions, outcomes = self._rows(rng, now)
            if predictions:
                writer.append(self.world.model, "predictions", predictions, tick)
                writer.append(self.world.model, "outcomes", outcomes, tick)
            self._logged = self.world.gateway.logged = now

    def _rows(self, rng: random.Random, now: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        from model_rollouts.core.bucketing import in_share, position

        traffic = self.world.wiring.store.traffic(self.world.model)
        predictions: list[dict[str, Any]] = []
        outcomes: list[dict[str, Any]] = []
        if traffic is None or traffic.rollout_id is None or traffic.stage is None:
            return predictions, outcomes
        moved, self._revision = traffic.revision != self._revision, traffic.revision
        seconds = 0.0 if moved else now - self._logged
        for i in range(self.requests):
            unit, request_id = f"u{rng.randrange(self.units)}", uuid.uuid4().hex
            challenger = traffic.share > 0 and in_share(traffic.salt, unit, traffic.share)
            control = traffic.share == 100 and in_share(traffic.salt + ":control", request_id, 40)
            mirrored = traffic.share == 0 and in_share(traffic.salt + ":mirror", request_id, traffic.mirror_percent)
            arm = "challenger" if challenger and not control else "champion"
            outside = traffic.control_group and arm == "champion" and position(traffic.salt, unit) < 100 - traffic.share
            label, x = rng.randrange(2), rng.gauss(0, 1)
            at = int((now - seconds * i / self.requests) * 1e6)
            common = (request_id, at, unit, label, x, traffic)
            first = self._row(rng, arm, *common, served=not control, cohort=None if outside else arm)
            predictions.append(first)
            if mirrored:
                second = self._row(rng, "challenger", *common, served=False, cohort="challenger")
                if second["prediction"] is not None:
                    differs = rng.random() < self.disagree
                    second["prediction"] = str(1 - int(first["prediction"] or 0)) if differs else first["prediction"]
                predictions.append(second)
            mean = self.values.get(str(first["version"]))
            value = None if mean is None else mean * rng.gammavariate(4, 0.25)
            outcomes.append({"request_id": request_id, "ts": at, "label": str(label), "value": value})
        return predictions, outcomes

    def _row(
        self,
        rng: random.Random,
        arm: str,
        request_id: str,
        at: int,
        unit: str,
        label: int,
        x: float,
        traffic: Any,
        *,
        served: bool,
        cohort: str | None,
    ) -> dict[str, Any]:
        version = traffic.challenger if arm == "challenger" else traffic.champion
        failed = self._falls_due("failed", str(version), self.errors.get(str(version), 0.0))
        wrong = self._falls_due("wrong", str(version), self.wrong.get(str(version), 0.1))
        return {
            "request_id": request_id,
            "ts": at,
            "model": self.world.model,
            "version": version,
            "arm": arm,
            "cohort": cohort,
            "served": served and not failed,
            "rollout_id": traffic.rollout_id,
            "stage": traffic.stage,
            "unit_id": unit,
            "status": "error" if failed else "ok",
            "error": "KeyError: 'dest'" if failed else None,
            "latency_ms": rng.lognormvariate(2, 0.3),
            "prediction": None if failed else str(1 - label if wrong else label),
            "score": None if failed else rng.random(),
            "gateway_id": "replay",
            "traffic_revision": traffic.revision,
            "features": {"x": None if self.null_features else x},
        }

    def _falls_due(self, kind: str, version: str, rate: float) -> bool:
        due = self.due.get((kind, version), 0.5) + rate
        self.due[kind, version] = due - (due >= 1)
        return due >= 1


class StandInGateway:
    """Says which versions are loaded, follows the store at once, and answers as the logged model does."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.states: dict[str, str] = {"1": "ready", "2": "ready"}
        self.answers: dict[str, str] = {}  # version -> what it answers whatever it is asked
        self.revisions: list[int] = []  # that were followed
        self.logged: float | None = None  # all rows until this second of the epoch are in the log; None: all rows

    def versions(self, model: str) -> dict[str, str]:
        return self.states

    def routed(self, model: str) -> dict[str, int | None]:
        self.revisions.append(self.store.traffic(model).revision)
        return {"stand-in": self.revisions[-1]}

    def backlog(self, model: str) -> dict[str, float]:
        return {"stand-in": 0.0 if self.logged is None else max(0.0, time.time() - self.logged)}

    def probe(self, model: str, version: str, inputs: Any) -> list[list[Any]]:
        from model_rollouts.ports import ProbeAnswer

        def answer(row: Any) -> ProbeAnswer:
            given = self.answers.get(version, str(int(row["x"] > 0)))
            if given == "error":
                return ProbeAnswer("stand-in", "error", error="KeyError: 'dest'")
            return ProbeAnswer("stand-in", "ok", given)

        return [[answer(row) for row in inputs]]

    def environments(self) -> dict[str, dict[str, str]]:
        from importlib.metadata import distributions
        from platform import python_version

        found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions() if d.metadata["Name"]}
        return {"stand-in": {"python": python_version(), **found}}


@dataclass
class World:
    """One model of its own, with champion 1 and versions to challenge it."""

    model: str
    log_dir: Path
    wiring: Any
    gateway: StandInGateway
    dags: dict[str, Any]

    @property
    def dag(self) -> Any:
        """The canary's."""
        return self.dags["canary"]

    def params(self, pattern: str = "canary", **changes: Any) -> dict[str, Any]:
        """A form for a rollout that is over in seconds. What has tests of its own is not asked for."""
        quick: dict[str, Any] = {
            "model": self.model,
            "challenger": "2",
            "look_seconds": 0.5,
            "grace_seconds": 0.5,
            "label_maturity_seconds": 0,
            "pass_odds": 3,
            "min_requests": 30,
            "may_be_missing": ["accuracy", "latency", "errors", "drift", "business"],
            "golden_requests": 0,
        }
        quick |= {
            "canary": {"steps": [50, 100], "bake_seconds": 0, "deadline_seconds": 25, "control_percent": 40,
                       "first_pass_odds": 3},
            "blue_green": {"mirror_percent": 100, "green_seconds": 0, "green_deadline_seconds": 25, "bake_seconds": 0,
                           "deadline_seconds": 25, "control_percent": 40, "on_differences": "report"},
            "shadow": {"bake_seconds": 0, "deadline_seconds": 25},
            "ab_test": {"bake_seconds": 0, "horizon_seconds": 25, "min_units": 50},
            "gradual": {"bake_seconds": 0, "deadline_seconds": 25, "control_percent": 40},
        }[pattern]  # fmt: skip
        return quick | changes

    def run(self, pattern: str = "canary", **conf: Any) -> Any:
        """One DAG run, in this process; ends when no task can run any more."""
        return self.dags[pattern].test(run_conf=self.params(pattern, **conf))

    def go_on(self, stage: int, pattern: str = "canary") -> Any:
        """The run that `expand` has triggered for a stage, of a pattern's DAG."""
        return self.dags[pattern].test(run_conf=self.next_conf(self.rollout.id, stage))

    def next_conf(self, rollout_id: str, stage: int) -> dict[str, Any]:
        """What the run that `expand` has triggered was given."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session

        from model_rollouts.core.names import stage_run_id

        with create_session() as session:
            found = session.query(DagRun).filter(DagRun.run_id == stage_run_id(rollout_id, stage)).one()
            return dict(found.conf)

    @property
    def rollout(self) -> Any:
        """The newest rollout of the model."""
        return self.wiring.store.rollouts(self.model)[0]

    @property
    def traffic(self) -> Any:
        """The model's traffic row."""
        return self.wiring.store.traffic(self.model)

    @property
    def kinds(self) -> list[str]:
        """The audit's kinds of events, in order."""
        return [str(event.kind) for event in self.wiring.store.events(model=self.model)]

    def alias(self, name: str) -> str | None:
        """The version an alias points to, from MLflow itself."""
        from mlflow import MlflowClient

        aliases = MlflowClient().get_registered_model(self.model).aliases
        return str(aliases[name]) if name in aliases else None

    @staticmethod
    def states(dag_run: Any) -> dict[str, str]:
        """Task id -> state."""
        return {ti.task_id: str(ti.state) for ti in dag_run.get_task_instances()}

    @contextmanager
    def replay(self, **rates: Any) -> Iterator[Replay]:
        """Traffic for as long as the block lasts."""
        with Replay(self, **rates) as running:
            yield running


@pytest.fixture
def suites(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The data checks; of each kind the first one, but for tests marked `pictures`: it takes long to do all of them."""
    whole, short = REPO / "expectations", tmp_path / "expectations"
    if request.node.get_closest_marker("pictures"):
        return whole
    short.mkdir()
    for file in whole.glob("*.json"):
        suite = json.loads(file.read_text())
        kinds = {expectation["type"]: expectation for expectation in reversed(suite["expectations"])}
        (short / file.name).write_text(json.dumps(suite | {"expectations": list(kinds.values())}))
    return short


@pytest.fixture(autouse=True)
def _pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidently's pictures and the Data Docs are drawn for tests marked `pictures`: half of the time of a stage's
    reports, about which other tests say nothing. Scores, checks and comparison are made for all of them."""
    if request.node.get_closest_marker("pictures"):
        return
    from model_rollouts.adapters import evidently_report, expectations

    def docs(self: Any, results: Any, folder: Path) -> None:
        folder.mkdir()
        (folder / "index.html").write_text("not drawn")

    monkeypatch.setattr(evidently_report, "_compare", lambda *_: ([], None, None))
    monkeypatch.setattr(expectations._Engine, "build_docs", docs)


@pytest.fixture
def world(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mlflow_server: str,
    logged_model: Any,
    airflow_db: None,
    suites: Path,
) -> Iterator[World]:
    """A fresh model, store and log; the Airflow and MLflow servers are shared."""
    from airflow.dag_processing.dagbag import DagBag
    from mlflow import MlflowClient

    from model_rollouts.wiring import shared

    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'rollouts.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("MODEL_ROLLOUTS_REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setenv("MODEL_ROLLOUTS_EXPECTATIONS_DIR", str(suites))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    shared.cache_clear()
    wiring = shared()
    wiring.store.migrate()
    gateway = StandInGateway(wiring.store)
    wiring.__dict__["gateway"] = gateway

    # `dag.test()` sleeps a second whenever a task can't run yet, which is in each of a run's dozen rounds
    monkeypatch.setattr("model_rollouts.operators.decide._PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("time.sleep", lambda seconds, sleep=time.sleep: sleep(0.02 if seconds == 1 else seconds))
    model = f"m-{uuid.uuid4().hex[:8]}"
    client = MlflowClient(mlflow_server, mlflow_server)
    client.create_registered_model(model)
    for _ in range(2):
        client.create_model_version(
            model, logged_model.model_uri, run_id=logged_model.run_id, model_id=logged_model.model_id
        )
    client.set_registered_model_alias(model, "champion", "1")
    dags = DagBag(str(REPO / "dags")).dags
    for dag in dags.values():
        for task in dag.tasks:
            task.retries = 0  # waiting for a retry is Airflow's own business
            if task.task_id == "hold":
                task.watch_harm = False  # or every test that ends in a hold would wait for its end
    try:
        with mlflow_at(mlflow_server):
            yield World(model, tmp_path / "log", wiring, gateway, dags)
        for event in wiring.store.events(model=model):  # pytest shows them where the test has failed
            print(event.at, event.kind, event.reason)
    finally:
        shared.cache_clear()
