"""A champion's past, in a real log, store and MLflow registry; and models that agree with it, or do not."""

import functools
import random
import tempfile
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.delta_files import current_files
from model_rollouts.adapters.delta_log import DeltaLogWriter, DeltaPredictionLog
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.adapters.offline_log import DeltaOfflineLog
from model_rollouts.adapters.offline_scorer import PyfuncScorer
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow
from model_rollouts.core.rollout import Rollout
from model_rollouts.offline import OfflineScoring
from model_rollouts.service import RolloutService

SOON = timedelta(seconds=1)

# Answers whether x is above 0. The configuration says for which n it answers otherwise, raises, ends or hangs.
_CODE = """
import sys
import threading
import mlflow

CONFIG = {}

class Threshold(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        def hit(name):
            return (model_input["n"] % CONFIG[name] == 0) if CONFIG.get(name) else model_input["n"] < 0
        if hit("raise_every").any():
            raise KeyError("carrier")
        if hit("exit_every").any():
            sys.exit("enough")
        if hit("hang_every").any():
            threading.Event().wait()
        if CONFIG.get("needs_carrier") and model_input["carrier"].isna().any():
            raise ValueError("no carrier")
        answer = model_input["x"] > 0
        return (answer ^ hit("flip_every")).astype(int)

mlflow.models.set_model(Threshold())
"""


@functools.cache
def logged_model(server: str, inputs: str = "", **config: Any) -> Any:
    """A model as MLflow has it, logged once for each configuration; `inputs` names one more column."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    columns = [
        ColSpec(DataType.double, "x"),
        ColSpec(DataType.long, "n"),
        ColSpec(DataType.string, "carrier"),
        ColSpec(DataType.long, "hour", required=False),
        *([ColSpec(DataType.double, inputs)] if inputs else []),
    ]
    code = Path(tempfile.mkdtemp(prefix="offline-model-")) / "threshold.py"
    code.write_text(_CODE.replace("CONFIG = {}", f"CONFIG = {config!r}"))
    with mlflow_at(server), mlflow.start_run():
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code),
            signature=ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec(DataType.long)])),
            pip_requirements=["mlflow"],
        )


def register(server: str, *infos: Any) -> str:
    """A registered model of its own, with a version for each logged one; the first is the champion."""
    client = make_client(server)
    name = f"offline-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    for info in infos:
        client.create_model_version(name, info.model_uri, run_id=info.run_id, model_id=info.model_id)
    client.set_registered_model_alias(name, "champion", "1")
    return name


def request(number: int, at: datetime, **changes: Any) -> dict[str, Any]:
    """A row of the champion's log: whether x is above 0."""
    dice = random.Random(number)
    x = dice.gauss(0, 1)
    return {
        "request_id": f"r{number}",
        "ts": at,
        "model": "delays",
        "version": "1",
        "arm": "champion",
        "cohort": None,
        "served": True,
        "rollout_id": None,
        "stage": None,
        "unit_id": f"u{number % 3000}",
        "status": "ok",
        "error": None,
        "latency_ms": dice.uniform(1, 5),
        "prediction": str(int(x > 0)),
        "score": None,
        "gateway_id": "g1",
        "traffic_revision": 7,
        "features": {"x": x, "n": float(number + 1), "carrier": "UA", "hour": None},
    } | changes


@dataclass
class Past:
    """One model with its log, store and registry.

    Attributes:
        root: Scratch folder.
        server: MLflow's address.
        model: Registered model name.
        parameters: Of the plan.
    """

    root: Path
    server: str
    model: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = SqlStore(f"sqlite:///{self.root / 'store.db'}")
        self.store.migrate()
        self.log_dir = self.root / "log"
        self.registry = MlflowRegistry(self.server, sync_stages=False)
        self.service = RolloutService(self.store, self.registry, self.store, DeltaPredictionLog(self.log_dir))
        self.began = datetime.now(UTC)
        self._segment = 0

    def write(self, *rows: dict[str, Any], table: Any = "predictions") -> None:
        """Log rows as a gateway does."""
        self._segment += 1
        DeltaLogWriter(self.log_dir, "g1").append(self.model, table, rows, self._segment)

    def requests(self, n: int, first: int = 0, labels: bool = False, **changes: Any) -> None:
        """The champion's answers to n requests, the last of them a second before the test began."""
        every = timedelta(hours=40) / n
        rows = [
            request(i, self.began - SOON - (i - first) * every, model=self.model, **changes)
            for i in range(first, first + n)
        ]
        self.write(*rows)
        if labels:
            self.write(
                *({"request_id": r["request_id"], "ts": r["ts"] + SOON, "label": r["prediction"]} for r in rows),
                table="outcomes",
            )

    def start(self, *, offline: bool = True) -> Rollout:
        """A shadow rollout of version 2, with its stage open."""
        plan = plan_shadow(ShadowParameters(offline=offline, **self.parameters))
        self.service.start("ro", self.model, "2", plan, "test", "because")
        return self.service.open_stage("ro", 0, "test")

    def offline_log(self, **limits: Any) -> DeltaOfflineLog:
        """The stage's log."""
        return DeltaOfflineLog(self.log_dir, self.store.rollout("ro"), self.registry.resolve(self.model, "2"), **limits)

    def scoring(self, batch: int = 1000, scorer: Any = None, log: Any = None, **limits: Any) -> OfflineScoring:
        """A task that scores."""
        version = self.registry.resolve(self.model, "2")
        scorer = scorer or PyfuncScorer(self.server, version, row_seconds=0.5)
        return OfflineScoring(self.service, log or self.offline_log(**limits), scorer, batch)

    def answers(self) -> list[dict[str, Any]]:
        """The challenger's rows, as the log has them."""
        path = table_path(self.log_dir, self.model, "predictions")
        now = datetime.now(UTC)
        rows: list[dict[str, Any]] = []
        for file in current_files(path, now - timedelta(days=30), now + timedelta(days=30)):
            rows += pq.ParquetFile(file).read().to_pylist()
        return [row for row in rows if row["arm"] == "challenger"]
