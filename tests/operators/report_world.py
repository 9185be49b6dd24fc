"""A stage to report on: real MLflow, rollout store and Delta log. What stands in is Airflow's context alone."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_rollouts.adapters.delta_log import DeltaLogWriter
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.core import rollout as core
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Cause
from model_rollouts.operators.reports import ReportOperator
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

Row = dict[str, Any]


@dataclass
class World:
    """One model with an open stage."""

    wiring: Wiring
    plan: Plan
    opened_at: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(minutes=10))
    model: str = field(default_factory=lambda: f"delays-{uuid.uuid4().hex[:8]}")
    appended: int = 0
    pushed: dict[str, Any] = field(default_factory=dict)

    def open(self) -> None:
        """Start the rollout and open its first stage."""
        client = make_client(self.wiring.settings.mlflow_tracking_uri)
        client.create_registered_model(self.model)
        self.make_versions(client)
        store, cause = self.wiring.store, Cause("test", self.opened_at, "a test")
        store.apply(core.adopt(self.model, "1", cause))
        store.apply(core.start(self.id, self.plan, "2", "salt", store.traffic(self.model), cause))
        store.apply(core.open_stage(store.rollout(self.id), store.traffic(self.model), 0, cause))
        self.run_id = self.wiring.stage_runs.open(store.rollout(self.id), 0)

    def make_versions(self, client: Any) -> None:
        """Register two versions that have no model behind them."""
        run = client.create_run(client.create_experiment(self.model))
        for _ in range(2):
            client.create_model_version(self.model, source=f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)

    @property
    def id(self) -> str:
        """The rollout's id."""
        return f"{self.model}-to-2"

    def row(self, request_id: str, at: float, arm: str, **changes: Any) -> Row:
        """A prediction, `at` seconds after the stage was opened."""
        return {
            "request_id": request_id,
            "ts": self.opened_at + timedelta(seconds=at),
            "model": self.model,
            "version": "1" if arm == "champion" else "2",
            "arm": arm,
            "cohort": arm,
            "served": True,
            "rollout_id": self.id,
            "stage": 0,
            "status": "ok",
            "latency_ms": 3.5,
            "prediction": "1",
            "gateway_id": "g1",
            "traffic_revision": 3,
        } | changes

    def log(self, table: Any, rows: list[Row]) -> None:
        """Write rows."""
        self.appended += 1
        DeltaLogWriter(self.wiring.settings.log_dir, "g1").append(self.model, table, rows, self.appended)

    def report(self, operator: ReportOperator) -> dict[str, Any]:
        """Run the task."""
        preflight = {"rollout_id": self.id, "stage": 0, "mlflow_run_id": self.run_id}
        ti = SimpleNamespace(
            xcom_pull=lambda task_ids: preflight if task_ids == "preflight" else None,
            xcom_push=lambda key, value: self.pushed.update({key: value}),
        )
        return operator.execute({"ti": ti, "params": {}})  # type: ignore[typeddict-item]

    def run(self) -> Any:
        """The stage's run in MLflow."""
        return make_client(self.wiring.settings.mlflow_tracking_uri).get_run(self.run_id)

    def artifacts(self) -> set[str]:
        """Names of the stage's artifacts."""
        return {
            found.path for found in make_client(self.wiring.settings.mlflow_tracking_uri).list_artifacts(self.run_id)
        }


def make_world(
    plan: Plan, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[World] = World
) -> World:
    """A world whose adapters are those that the operators use."""
    settings = Settings(
        store_url=f"sqlite:///{tmp_path / 'rollouts.db'}",
        log_dir=tmp_path / "log",
        reports_dir=tmp_path / "reports",
        MODEL_ROLLOUTS_MLFLOW_TRACKING_URI=mlflow_server,
    )
    wiring = Wiring(settings)
    monkeypatch.setattr("model_rollouts.wiring.shared", lambda: wiring)
    wiring.store.migrate()
    world = kind(wiring, plan)
    world.open()
    return world
