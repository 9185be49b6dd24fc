"""Stage runs against a real MLflow server."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.adapters.mlflow_runs import MlflowStageRuns
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Rollout, State


@pytest.fixture
def rollout(registered_model: str) -> Rollout:
    return Rollout(
        id=f"{registered_model}-to-2",
        model=registered_model,
        champion="1",
        challenger="2",
        plan=plan_canary(CanaryParameters(steps=(5, 100))),
        state=State.BAKING,
        stage=0,
        salt="salt",
        revision=2,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_by="test",
    )


@pytest.fixture
def runs(mlflow_server: str) -> MlflowStageRuns:
    return MlflowStageRuns(mlflow_server)


def _artifact(client: Any, run_id: str, name: str, folder: Path) -> str:
    return Path(client.download_artifacts(run_id, name, str(folder))).read_text()


def test_a_stage_run_tells_what_it_is_about_and_leads_to_the_version(
    runs: MlflowStageRuns, rollout: Rollout, mlflow_server: str
) -> None:
    run_id = runs.open(rollout, 0)

    client = make_client(mlflow_server)
    run = client.get_run(run_id)
    version = MlflowRegistry(mlflow_server).resolve(rollout.model, "2")
    assert run.info.run_name == f"{rollout.id} stage 0 at 5 %"
    assert client.get_experiment(run.info.experiment_id).name == f"rollouts/{rollout.model}"
    assert {key: run.data.tags[f"rollout.{key}"] for key in ("id", "stage", "challenger", "champion", "share")} == {
        "id": rollout.id,
        "stage": "0",
        "challenger": "2",
        "champion": "1",
        "share": "5",
    }
    assert run.data.params["error_rate.pass_odds"] == "4.0"
    assert run.data.params["bake_seconds"] == "3600.0"
    assert [model.model_id for model in run.inputs.model_inputs] == [version.model_id]
    assert version.tags["rollout.stage_0.run_id"] == run_id


def test_opening_again_gives_the_same_run_and_completes_it(
    runs: MlflowStageRuns, rollout: Rollout, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(runs._client, "log_batch", killed)
    with pytest.raises(ConnectionError):
        runs.open(rollout, 0)
    monkeypatch.undo()

    first = runs.open(rollout, 0)
    again = MlflowStageRuns(mlflow_server).open(rollout, 0)

    run = make_client(mlflow_server).get_run(first)
    assert again == first
    assert run.data.params["bake_seconds"] == "3600.0"
    assert len(run.inputs.model_inputs) == 1
    assert len(make_client(mlflow_server).search_runs([run.info.experiment_id])) == 1


def test_stages_and_rollouts_have_runs_of_their_own(runs: MlflowStageRuns, rollout: Rollout) -> None:
    other = replace(rollout, id=f"{rollout.id}'s second")  # a quote must not end the search's text

    ids = {runs.open(rollout, 0), runs.open(rollout, 1), runs.open(other, 0)}

    assert len(ids) == 3
    assert runs.open(other, 0) in ids


def test_files_metrics_and_tags_are_kept(
    runs: MlflowStageRuns, rollout: Rollout, mlflow_server: str, tmp_path: Path
) -> None:
    report = tmp_path / "drift.html"
    report.write_text("<p>no drift</p>")
    run_id = runs.open(rollout, 0)

    runs.log(run_id, [report], {"drift_share": 0.25}, {"report.drift": "ok"})

    client = make_client(mlflow_server)
    run = client.get_run(run_id)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert _artifact(client, run_id, "drift.html", tmp_path) == "<p>no drift</p>"
    assert (run.data.metrics["drift_share"], run.data.tags["report.drift"]) == (0.25, "ok")


def test_a_missing_file_logs_nothing_at_all(
    runs: MlflowStageRuns, rollout: Rollout, mlflow_server: str, tmp_path: Path
) -> None:
    run_id = runs.open(rollout, 0)
    there = tmp_path / "there.json"
    there.write_text("{}")

    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such file"):
        runs.log(run_id, [there, tmp_path / "absent.json"], {"share": 1.0}, {})

    client = make_client(mlflow_server)
    assert client.list_artifacts(run_id) == []
    assert client.get_run(run_id).data.metrics == {}


def test_closing_keeps_the_decision_and_can_be_repeated(
    runs: MlflowStageRuns, rollout: Rollout, mlflow_server: str, tmp_path: Path
) -> None:
    run_id = runs.open(rollout, 0)
    verdict = {"verdict": "fail", "action": "roll_back", "reason": "worse", "log_e": float("inf"), "n": 3}

    runs.close(run_id, verdict)
    client = make_client(mlflow_server)
    ended = client.get_run(run_id).info.end_time
    runs.close(run_id, verdict)

    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", ended)
    assert run.data.tags["rollout.action"] == "roll_back"
    assert json.loads(_artifact(client, run_id, "decision.json", tmp_path)) == verdict | {"log_e": "inf"}
