"""Databases and registered models for the adapters' tests."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.ports import free_port

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.postgres_log import PostgresLog
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as core
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, Change, Rollout
from model_rollouts.core.traffic import Traffic

_numbers = count()


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    return free_port()


@pytest.fixture(scope="session")
def new_postgres(postgres_server: str) -> Callable[[str], str]:
    """Makes an empty database, or a copy of a named one, and gives its URL."""
    server = sa.make_url(postgres_server)

    def make(template: str = "template1") -> str:
        name = f"store_{next(_numbers)}"
        engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return server.set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture(scope="session")
def migrated_postgres(new_postgres: Callable[..., str]) -> str:
    """Name of a database with the tables, to be copied."""
    url = new_postgres()
    store = SqlStore(url)
    store.migrate()
    store.close()
    return str(sa.make_url(url).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without tables, on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'store.db'}"
    url: str = request.getfixturevalue("new_postgres")()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store that is ready for use, on each engine."""
    if request.param == "postgresql":
        template = request.getfixturevalue("migrated_postgres")
        url: str = request.getfixturevalue("new_postgres")(template)
        return url
    url = f"sqlite:///{tmp_path / 'store.db'}"
    SqlStore(url).migrate()
    return url


@pytest.fixture(params=["delta", "postgresql"])
def log_root(request: pytest.FixtureRequest, tmp_path: Path) -> LogRoot:
    """An empty prediction log, of each kind."""
    if request.param == "delta":
        (tmp_path / "log").mkdir()
        return tmp_path / "log"
    return PostgresLog(request.getfixturevalue("postgres_server"), schema=f'log "{next(_numbers)}"')


@pytest.fixture
def store(store_url: str) -> Iterator[SqlStore]:
    """A store that is ready for use, on each engine."""
    made = SqlStore(store_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def logged_models(mlflow_server: str) -> list[tuple[str, str]]:
    """Source and id of logged models: two with the same signature, one without any."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import PythonModel
    from mlflow.types import ColSpec, DataType, Schema

    class Late(PythonModel):  # type: ignore[misc]  # mlflow is untyped here
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return [1] * len(model_input)

    columns = [
        ColSpec(DataType.double, "distance"),
        ColSpec(DataType.string, "carrier"),
        ColSpec(DataType.long, "hour", required=False),
    ]
    signature = ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec(DataType.long)]))
    made = []
    with mlflow_at(mlflow_server):
        for each in (signature, signature, None):
            with mlflow.start_run():
                info = mlflow.pyfunc.log_model(
                    name="model", python_model=Late(), signature=each, pip_requirements=["mlflow"]
                )
            made.append((info.model_uri, info.model_id))
    return made


@pytest.fixture
def registered_model(mlflow_server: str, logged_models: list[tuple[str, str]]) -> str:
    """A registered model of its own, with versions 1 and 2 (same signature) and 3 (none), without aliases."""
    client = make_client(mlflow_server)
    name = f"flights-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    for source, model_id in logged_models:
        client.create_model_version(name, source=source, model_id=model_id)
    return name


@dataclass(frozen=True)
class Steps:
    """Drives one model's rollout through a store, as the service does: read, change, apply."""

    store: SqlStore
    model: str = "flights"
    at: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def cause(self, reason: str = "because", **evidence: Any) -> Cause:
        return Cause("test", self.at, reason, evidence)

    def now(self, rollout_id: str) -> tuple[Rollout, Traffic]:
        traffic = self.store.traffic(self.model)
        assert traffic is not None
        return self.store.rollout(rollout_id), traffic

    def adopt(self) -> None:
        self.store.apply(core.adopt(self.model, "1", self.cause("first seen")))

    def starting(self, rollout_id: str, challenger: str = "2") -> Change:
        traffic = self.store.traffic(self.model)
        assert traffic is not None
        plan = plan_canary(CanaryParameters(steps=(5, 100)))
        return core.start(rollout_id, plan, challenger, "salt", traffic, self.cause("started"))

    def start(self, rollout_id: str = "r1") -> None:
        self.store.apply(self.starting(rollout_id))

    def opening(self, rollout_id: str = "r1", stage: int = 0) -> Change:
        change = core.open_stage(*self.now(rollout_id), stage, self.cause("opened"))
        assert change is not None
        return change

    def rolling_back(self, rollout_id: str = "r1", **evidence: Any) -> Change:
        change = core.roll_back(*self.now(rollout_id), self.cause("worse", **evidence))
        assert change is not None
        return change


@pytest.fixture
def steps(store: SqlStore) -> Steps:
    """A store with an adopted model, on each engine."""
    made = Steps(store)
    made.adopt()
    return made


@pytest.fixture
def one_look() -> Look:
    """A closed look with labels."""
    counts, labels = RequestCounts(10, 1, {3: 9}), LabelCounts(9, 9, 1)
    return Look(0, 0, counts, counts, labels, labels)
