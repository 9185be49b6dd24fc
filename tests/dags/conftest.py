"""A world for the DAGs: real Airflow metadata database, MLflow, rollout store and Delta log.

Two things are stand-ins, because the gateway has tests of its own and an end-to-end test runs the real one:
`Replay` writes the log rows that a gateway would write for the traffic row as it is, with error rates that the test
names, and `StandInGateway` says which versions are loaded.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="rollouts-airflow-"))

# read once, when airflow is imported first: so before any test of this folder is collected
os.environ |= {
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME / 'airflow.db'}",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """The metadata database, migrated."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, timeout=240)


@pytest.fixture(scope="session")
def logged_model(mlflow_server: str) -> Any:
    """A tiny model with a signature, logged once; tests register it under names of their own."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(mlflow_server)
    mlflow.set_registry_uri(mlflow_server)
    code = AIRFLOW_HOME / "threshold_model.py"
    code.write_text(
        "import mlflow\n"
        "class Threshold(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return (model_input['x'] > 0).astype(int)\n"
        "mlflow.models.set_model(Threshold())\n"
    )
    frame = pd.DataFrame({"x": [0.5, -1.0]})
    with mlflow.start_run():
        return mlflow.pyfunc.log_model(
            name="model", python_model=str(code), signature=infer_signature(frame, [1, 0]), input_example=frame
        )


@dataclass
class Replay:
    """Writes the rows of a gateway for whatever the traffic table says, until it is closed."""

    world: "World"
    wrong: dict[str, float] = field(default_factory=dict)  # version -> rate of wrong predictions
    errors: dict[str, float] = field(default_factory=dict)
    requests: int = 60  # each tick
    seed: int = 7
    null_features: bool = False

    def __enter__(self) -> "Replay":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def _run(self) -> None:
        from model_rollouts.adapters.delta_log import DeltaLogWriter

        writer = DeltaLogWriter(self.world.log_dir, f"replay-{uuid.uuid4().hex}")
        rng = random.Random(self.seed)
        tick = 0
        while not self._stop.wait(0.1):
            tick += 1
            predictions, outcomes = self._rows(rng)
            if predictions:
                writer.append(self.world.model, "predictions", predictions, tick)
                writer.append(self.world.model, "outcomes", outcomes, tick)

    def _rows(self, rng: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        from datetime import UTC, datetime

        from model_rollouts.core.bucketing import in_share

        traffic = self.world.wiring.store.traffic(self.world.model)
        predictions: list[dict[str, Any]] = []
        outcomes: list[dict[str, Any]] = []
        if traffic is None or traffic.rollout_id is None or traffic.stage is None:
            return predictions, outcomes
        for _ in range(self.requests):
            unit, request_id, now = f"u{rng.randrange(5000)}", uuid.uuid4().hex, datetime.now(UTC)
            challenger = traffic.share > 0 and in_share(traffic.salt, unit, traffic.share)
            control = traffic.share == 100 and in_share(traffic.salt + ":control", request_id, 40)
            arm = "challenger" if challenger and not control else "champion"
            version = traffic.challenger if arm == "challenger" else traffic.champion
            failed = rng.random() < self.errors.get(str(version), 0.0)
            label = rng.randrange(2)
            wrong = rng.random() < self.wrong.get(str(version), 0.1)
            predictions.append(
                {
                    "request_id": request_id,
                    "ts": int(now.timestamp() * 1e6),
                    "model": self.world.model,
                    "version": version,
                    "arm": arm,
                    "cohort": arm,
                    "served": not failed and not control,
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
                    "features": {"x": None if self.null_features else rng.gauss(0, 1)},
                }
            )
            outcomes.append({"request_id": request_id, "ts": int(now.timestamp() * 1e6), "label": str(label)})
        return predictions, outcomes


class StandInGateway:
    """Says which versions are loaded."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {"1": "ready", "2": "ready"}

    def versions(self, model: str) -> dict[str, str]:
        return self.states


@dataclass
class World:
    """One model of its own, with champion 1 and versions to challenge it."""

    model: str
    log_dir: Path
    wiring: Any
    gateway: StandInGateway
    dag: Any

    def params(self, **changes: Any) -> dict[str, Any]:
        """A form for a canary that is over in seconds."""
        quick = {
            "model": self.model,
            "challenger": "2",
            "steps": [50, 100],
            "bake_seconds": 0,
            "deadline_seconds": 25,
            "look_seconds": 0.5,
            "grace_seconds": 0.5,
            "label_maturity_seconds": 0,
            "control_percent": 40,
            "first_pass_odds": 3,
            "pass_odds": 3,
            "min_requests": 30,
        }
        return quick | changes

    def run(self, **conf: Any) -> Any:
        """One DAG run, in this process; ends when no task can run any more."""
        return self.dag.test(run_conf=self.params(**conf))

    def next_conf(self, rollout_id: str, stage: int) -> dict[str, Any]:
        """What the run that `expand` has triggered was given."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session

        from model_rollouts.operators.finish import run_id_for

        with create_session() as session:
            found = session.query(DagRun).filter(DagRun.run_id == run_id_for(rollout_id, stage)).one()
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
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_server: str, logged_model: Any, airflow_db: None
) -> Iterator[World]:
    """A fresh model, store and log; the Airflow and MLflow servers are shared."""
    from airflow.dag_processing.dagbag import DagBag
    from mlflow import MlflowClient

    from model_rollouts.wiring import shared

    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'rollouts.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("MODEL_ROLLOUTS_REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setenv("MODEL_ROLLOUTS_EXPECTATIONS_DIR", str(REPO / "expectations"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    shared.cache_clear()
    wiring = shared()
    wiring.store.migrate()
    gateway = StandInGateway()
    wiring.__dict__["gateway"] = gateway

    model = f"m-{uuid.uuid4().hex[:8]}"
    client = MlflowClient(mlflow_server, mlflow_server)
    client.create_registered_model(model)
    for _ in range(2):
        client.create_model_version(
            model, logged_model.model_uri, run_id=logged_model.run_id, model_id=logged_model.model_id
        )
    client.set_registered_model_alias(model, "champion", "1")
    dag = DagBag(str(REPO / "dags")).dags["canary"]
    for task in dag.tasks:
        task.retries = 0  # waiting for a retry is Airflow's own business
    dag.get_task("hold").watch_harm = False  # or every test that ends in a hold would wait for its end
    yield World(model, tmp_path / "log", wiring, gateway, dag)
    shared.cache_clear()
