"""The task that scores an offline stage, with the process's own adapters."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from tests.offline_past import Past, logged_model, register, request

from model_rollouts.core.decision import Decision
from model_rollouts.core.rollout import State
from model_rollouts.operators.offline import ScoreOfflineOperator
from model_rollouts.operators.reports import CompareOperator
from model_rollouts.wiring import shared


@pytest.fixture
def past(tmp_path: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Past]]:
    """Makes a past that the process's settings point to."""
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    shared.cache_clear()

    def make(parameters: dict[str, Any] | None = None, **config: Any) -> Past:
        model = register(mlflow_server, logged_model(mlflow_server), logged_model(mlflow_server, **config))
        return Past(tmp_path, mlflow_server, model, parameters or {})

    yield make
    shared.cache_clear()


def context(watch: Any = None) -> Any:
    """What Airflow gives a task: preflight's result, the watch's, and whose run it is."""
    left = {"preflight": {"rollout_id": "ro", "stage": 0, "mlflow_run_id": "run"}, "watch": watch}
    return {
        "ti": SimpleNamespace(xcom_pull=lambda task_ids: left[task_ids], xcom_push=lambda key, value: None),
        "params": {"requested_by": "ada"},
        "dag_run": SimpleNamespace(dag_id="shadow", run_id="r1"),
    }


def test_proof_is_returned_as_the_watch_returns_it(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(3000)
    world.start()
    event = ScoreOfflineOperator(task_id="watch", batch_requests=1000).execute(context())
    decision = Decision.from_dict(event["decision"])
    assert (decision.verdict, decision.action) == ("pass", "cut_over"), decision.reason
    opened = world.store.rollout("ro").opened_at
    assert opened is not None
    since = datetime.fromisoformat(event["requests_from"])
    # within the days of the form, and from the first request on that has the challenger's inputs
    assert opened - timedelta(days=7) < since <= world.began - timedelta(hours=39)
    again = ScoreOfflineOperator(task_id="watch", batch_requests=1000).execute(context())  # a retry scores nothing more
    assert again["requests_from"] == event["requests_from"]
    assert world.store.rollout("ro").state is State.BAKING  # to leave the stage is up to `decide`


def test_the_comparison_is_of_the_requests_that_were_scored(past: Callable[..., Past], tmp_path: Path) -> None:
    """A daily batch gives the same ids to other requests, here 40 days earlier."""
    world = past()
    earlier = [request(at, world.began - timedelta(days=40), model=world.model) for at in range(2000)]
    world.write(*(row | {"prediction": str(1 - int(row["prediction"]))} for row in earlier))
    world.requests(2000)
    world.start()
    event = ScoreOfflineOperator(task_id="watch", batch_requests=1000, days=3).execute(context())
    made = CompareOperator(task_id="compare").make(world.store.rollout("ro"), 0, context(event), tmp_path / "out")
    pairs = json.loads(made["files"][0].read_text())["all_rows"]["pairs"]
    assert pairs["agreement"]["value"] == 1.0
    assert made["metrics"]["stage_agreement"] == 1.0


def test_harm_rolls_back_at_once(past: Callable[..., Past]) -> None:
    world = past(raise_every=5)
    world.requests(2000)
    world.start()
    event = ScoreOfflineOperator(task_id="watch", batch_requests=500).execute(context())
    assert event["decision"]["verdict"] == "fail"
    assert world.store.rollout("ro").state is State.ROLLED_BACK
    traffic = world.store.traffic(world.model)
    assert traffic is not None
    assert (traffic.champion, traffic.challenger) == ("1", None)
    last = world.store.events(rollout_id="ro")[-1]
    assert (last.kind, last.actor) == ("rolled_back", "ada via shadow/r1")
    assert last.evidence["gates"]


def test_the_end_of_the_requests_moves_nothing(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(30)
    world.start()
    event = ScoreOfflineOperator(task_id="watch").execute(context())
    assert (event["decision"]["verdict"], event["decision"]["action"]) == ("inconclusive", "hold")
    assert world.store.rollout("ro").state is State.BAKING


def test_a_live_stage_is_refused_without_a_retry(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(30)
    world.start(offline=False)
    with pytest.raises(AirflowFailException, match="stage 0 of ro is not offline"):
        ScoreOfflineOperator(task_id="watch").execute(context())


def test_a_rollout_that_was_ended_is_told(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(30)
    world.start()
    world.service.roll_back("ro", "a person", "no")
    assert ScoreOfflineOperator(task_id="watch").execute(context()) == {"ended": "rolled_back", "stage": 0}
    assert world.answers() == []
