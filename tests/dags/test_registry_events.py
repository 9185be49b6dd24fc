"""The registry starts rollouts: by the DAG, by a webhook that MLflow itself delivers, and by both at once.

Real: MLflow server with its webhooks, rollout store, Airflow's metadata database, the plugin as Airflow loads it, HTTP.
Airflow's scheduler is not there: what is looked at are the rows of the DAG runs that it would take up.
"""

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.ports import free_port

from demo.processes import Processes, answers
from model_rollouts.core.registry_events import RunRefusedError, UnknownDagError
from model_rollouts.registry_watch import look_and_carry_out

SECRET = "a secret of thirty-two characters"
HOOKED = "model_version_alias.created model_version_tag.set"
REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mlflow_with_hooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server that delivers to this machine without TLS, as its documentation allows for tests."""
    home, port = tmp_path_factory.mktemp("mlflow-hooks"), free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    }
    with Processes(home / "logs") as processes:
        server = processes.start(
            "mlflow",
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
            ],
            env=environment,
            cwd=home,
        )
        server.wait_until(lambda: answers(f"{url}/health"), "answer", 180)
        yield url


@pytest.fixture(scope="module")
def dags(airflow_db: None) -> Any:
    """The DAGs, in the metadata database as Airflow's DAG processor puts them there, and none paused."""
    import sqlalchemy as sa
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    (bundle,) = manager.get_all_dag_bundles()
    bundle.initialize()
    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    sync_bag_to_db(bag, bundle.name, bundle.version)
    with create_session() as session:
        session.execute(sa.update(DagModel).values(is_paused=False))
    sync_bag_to_db(bag, bundle.name, bundle.version)  # watchers of paused DAGs are none
    for task in bag.dags["registry_events"].tasks:
        task.retries = 0  # waiting for a retry is Airflow's own business
    return bag.dags


@pytest.fixture(scope="module")
def api_server(dags: Any) -> Iterator[str]:
    """What Airflow's API server serves of its plugins, loaded as it loads them."""
    import uvicorn
    from airflow.api_fastapi.app import init_plugins
    from fastapi import FastAPI

    from model_rollouts.wiring import shared

    root = FastAPI()
    init_plugins(root)
    server = uvicorn.Server(uvicorn.Config(root, host="127.0.0.1", port=free_port(), log_level="warning"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_ROLLOUTS_WEBHOOK_SECRET", SECRET)
        shared.cache_clear()
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_for(lambda: server.started, "API server")
        for warming in [each for each in threading.enumerate() if each.name == "webhook-warming"]:
            warming.join(60)
    shared.cache_clear()
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


def wait_for(found: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait for something to become true; gives it."""
    until = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > until:
            raise AssertionError(f"no {what} after {seconds:g} s")
        time.sleep(0.005)  # another process writes it, and tells nobody
    return value


@dataclass
class Place:
    """One model of its own, with champion 1, a store of its own, and Airflow."""

    model: str
    client: Any
    watch: Any
    store: Any
    dag: Any

    def alias(self, version: str = "2") -> None:
        self.client.set_registered_model_alias(self.model, "challenger", version)

    def tag(self, key: str, value: str, version: str = "2") -> None:
        self.client.set_model_version_tag(self.model, version, key, value)

    def run(self) -> Any:
        """The DAG registry_events, in this process."""
        return self.dag.test()

    def runs(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(DAG, run id, conf) of the rows in Airflow's database that are about the model."""
        import sqlalchemy as sa
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session

        with create_session() as session:
            found = session.scalars(sa.select(DagRun).where(DagRun.run_id.contains(self.model))).all()
            return [(run.dag_id, run.run_id, dict(run.conf)) for run in found]

    def outcomes(self) -> list[str]:
        import sqlalchemy as sa

        from model_rollouts.adapters.sql_engine import Database
        from model_rollouts.adapters.sql_tables import registry_changes

        with Database(str(self.store._database.url)).read() as connection:
            return [str(each) for each in connection.scalars(sa.select(registry_changes.c.outcome))]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_with_hooks: str, dags: Any) -> Iterator[Place]:
    from mlflow import MlflowClient

    from model_rollouts.web import app
    from model_rollouts.wiring import shared

    model = f"m-{uuid.uuid4().hex[:8]}"
    client = MlflowClient(mlflow_with_hooks, mlflow_with_hooks)
    client.create_registered_model(model)
    for _ in range(2):
        client.create_model_version(model, source="s3://nowhere/model")
    client.set_registered_model_alias(model, "champion", "1")
    for name, value in {
        "STORE_URL": f"sqlite:///{tmp_path / 'rollouts.db'}",
        "MLFLOW_TRACKING_URI": mlflow_with_hooks,
        "WATCHED_MODELS": model,
        "WEBHOOK_SECRET": SECRET,
    }.items():
        monkeypatch.setenv(f"MODEL_ROLLOUTS_{name}", value)
    shared.cache_clear()
    app.shared_app.cache_clear()
    shared().store.migrate()
    shared().registry_watch.look()
    yield Place(model, client, shared().registry_watch, shared().store, dags["registry_events"])
    shared.cache_clear()
    app.shared_app.cache_clear()


@pytest.fixture
def hooked(api_server: str, place: Place) -> Iterator[Place]:
    """The place, with a webhook of MLflow's that leads to the plugin."""
    address = f"{api_server}/model-rollouts/registry-events"
    made = place.client.create_webhook(place.model, address, HOOKED.split(), secret=SECRET)
    time.sleep(1.1)  # MLflow keeps the list of webhooks for the second that the fixture allows
    yield place
    place.client.delete_webhook(made.webhook_id)


def post(api_server: str, model: str) -> requests.Response:
    """A delivery, signed by MLflow's own code."""
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": model}})
    delivery, at = str(uuid.uuid4()), str(int(time.time()))
    headers = {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": at,
        "X-MLflow-Signature": _generate_hmac_signature(SECRET, delivery, at, body),
    }
    return requests.post(f"{api_server}/model-rollouts/registry-events", data=body, headers=headers, timeout=10)


def test_airflow_has_the_trigger_that_watches_for_the_dag(dags: Any) -> None:
    import sqlalchemy as sa
    from airflow.models.asset import AssetModel
    from airflow.utils.session import create_session

    with create_session() as session:
        asset = session.scalars(sa.select(AssetModel).where(AssetModel.name == "mlflow_registry")).one()
        triggers = [(trigger.classpath, trigger.kwargs) for trigger in asset.triggers]
        waiting = [reference.dag_id for reference in asset.scheduled_dags]

    assert triggers == [("model_rollouts.triggers.registry.RegistryTrigger", {"poll_seconds": None})]
    assert waiting == ["registry_events"]


def test_the_dag_starts_the_right_dag_with_the_right_version_once(place: Place) -> None:
    place.tag("rollout.params", json.dumps({"steps": [5, 100]}))
    place.tag("rollout.request", "canary")
    place.alias()

    states = [str(place.run().state) for _ in range(2)]

    ((dag_id, run_id, conf),) = place.runs()
    assert states == ["success", "success"]
    assert dag_id == "canary"
    assert run_id.startswith(f"registry-{place.model}-2-")
    assert conf == {"model": place.model, "challenger": "2", "requested_by": "registry", "steps": [5, 100]}
    assert place.watch.changes.pending() == []


def test_values_that_the_form_refuses_make_the_dag_red_once_and_start_nothing(place: Place) -> None:
    place.tag("rollout.params", json.dumps({"alpha": 5}))
    place.tag("rollout.request", "canary")

    states = [str(place.run().state) for _ in range(2)]

    assert states == ["failed", "success"]
    assert place.runs() == []
    (outcome,) = place.outcomes()
    assert outcome.startswith("refused: ")
    assert "alpha" in outcome


@pytest.fixture
def paused(dags: Any) -> Iterator[Callable[[str], None]]:
    """Pauses a DAG until the test's end."""
    import sqlalchemy as sa
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    def pause(dag_id: str, on: bool = True) -> None:
        with create_session() as session:
            session.execute(sa.update(DagModel).where(DagModel.dag_id == dag_id).values(is_paused=on))

    yield pause
    for dag_id in ("canary", "registry_events"):
        pause(dag_id, on=False)


def test_a_paused_dag_takes_no_run_that_would_begin_when_nobody_expects_it(
    place: Place, paused: Callable[[str], None]
) -> None:
    paused("canary")
    place.alias()

    assert str(place.run().state) == "failed"

    assert place.runs() == []
    assert "DAG canary is paused" in place.outcomes()[0]


def test_a_delivery_leads_to_a_run_in_less_than_two_seconds(
    api_server: str, place: Place, record_property: Callable[[str, object], None]
) -> None:
    place.alias()

    began = time.monotonic()
    answer = post(api_server, place.model)
    answered = time.monotonic() - began
    wait_for(place.runs, "DAG run")
    took = time.monotonic() - began

    record_property("webhook_answer_seconds", round(answered, 3))
    record_property("webhook_run_seconds", round(took, 3))
    print(f"answered after {answered * 1000:.0f} ms, DAG run after {took * 1000:.0f} ms")
    assert answer.status_code == 202
    assert took < 2
    ((dag_id, _, conf),) = place.runs()
    assert (dag_id, conf["challenger"]) == ("canary", "2")


def test_mlflow_itself_delivers_and_the_dag_that_comes_later_finds_it_done(hooked: Place) -> None:
    hooked.tag("rollout.request", "gradual")
    began = time.monotonic()
    wait_for(hooked.runs, "DAG run")
    print(f"DAG run {1000 * (time.monotonic() - began):.0f} ms after the tag was set")

    state = str(hooked.run().state)

    ((dag_id, _, conf),) = hooked.runs()
    assert state == "success"
    assert (dag_id, conf) == ("gradual", {"model": hooked.model, "challenger": "2", "requested_by": "registry"})


def test_both_ways_at_once_make_one_row(api_server: str, place: Place) -> None:
    from model_rollouts.web.dag_runs import ApiServerRuns

    place.alias()
    start = threading.Barrier(3)

    def by_hint() -> None:
        start.wait(timeout=10)
        assert post(api_server, place.model).status_code == 202

    def by_poller() -> None:
        start.wait(timeout=10)
        look_and_carry_out(place.watch, ApiServerRuns())

    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(by_hint), pool.submit(by_hint), pool.submit(by_poller)]:
            each.result()
    wait_for(lambda: not place.watch.changes.pending(), "handled change")
    state = str(place.run().state)

    assert len(place.runs()) == 1
    assert state == "success"


def test_making_a_run_twice_at_once_makes_one(place: Place) -> None:
    from model_rollouts.web.dag_runs import ApiServerRuns

    runs, start = ApiServerRuns(), threading.Barrier(4)
    conf = {"model": place.model, "challenger": "2"}

    def make(_: int) -> bool:
        start.wait(timeout=10)
        return runs.trigger("canary", f"registry-{place.model}-x", conf)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(4)))

    assert sorted(made) == [False, False, False, True]
    assert runs.unfinished("canary", f"registry-{place.model}-x")
    assert not runs.unfinished("canary", f"registry-{place.model}-y")


def test_the_api_server_refuses_what_the_dag_would_refuse(place: Place, paused: Callable[[str], None]) -> None:
    from model_rollouts.web.dag_runs import ApiServerRuns

    runs = ApiServerRuns()
    with pytest.raises(UnknownDagError, match="no DAG nowhere"):
        runs.trigger("nowhere", "r", {})
    with pytest.raises(RunRefusedError, match="alpha"):
        runs.trigger("canary", f"registry-{place.model}-z", {"model": place.model, "alpha": 5})
    paused("canary")
    with pytest.raises(RunRefusedError, match="paused"):
        runs.trigger("canary", f"registry-{place.model}-z", {"model": place.model})

    assert place.runs() == []


def test_a_hint_is_left_alone_while_the_watching_dag_is_paused(
    place: Place, paused: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_rollouts.web import hints

    paused("registry_events")
    place.alias()

    hints.look_at(place.model)

    assert place.watch.changes.pending() == []
    assert place.runs() == []


def test_what_a_person_must_hear_of_is_left_to_the_dag(place: Place) -> None:
    from model_rollouts.web import hints

    place.tag("rollout.request", "cannary")
    hints.look_at(place.model)
    assert len(place.watch.changes.pending()) == 1

    assert str(place.run().state) == "failed"

    assert "must be one of" in place.outcomes()[0]
