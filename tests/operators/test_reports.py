"""The drift report's task: what it leaves in the stage's run, and what it says to the decision."""

import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.operators.report_world import Row, World, make_world
from tests.ports import free_port

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.delta_log import LogReadError, table_path
from model_rollouts.adapters.evidently_workspace import keep_snapshot
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.core.drift_plan import DriftPlan, DriftRole
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.profile import ProfileError
from model_rollouts.operators.reports import DriftReportOperator, drift_plan_of
from model_rollouts.training_profile import FILE_NAME, log_training_profile

STAGE = Stage(share=50.0, gates=(Gate(Metric.ERROR_RATE),), bake_seconds=0.0, deadline_seconds=7200.0)
HOLD: dict[str, Any] = {"role": "hold"}


@dataclass
class DriftWorld(World):
    """With a logged model behind each version, which can keep a profile."""

    def make_versions(self, client: Any) -> None:
        import mlflow

        self.model_ids = []
        with mlflow_at(self.wiring.settings.mlflow_tracking_uri), mlflow.start_run() as run:
            for _ in range(2):
                made = mlflow.create_external_model(name="model", source_run_id=run.info.run_id)
                source, model_id = made.artifact_location, made.model_id
                client.create_model_version(self.model, source=source, run_id=run.info.run_id, model_id=model_id)
                self.model_ids.append(model_id)

    def rows(
        self, arm: str, count: int, seed: int, shift: float = 0.0, start: float = 0.0, **changes: Any
    ) -> list[Row]:
        rng = np.random.default_rng(seed)
        xs, texts = rng.normal(shift, 1, count), rng.choice(["UA", "AA", "DL"], count)
        return [
            self.row(
                f"{arm}-{seed}-{at}",
                start + at * 0.01,
                arm,
                features={"x": float(x), "carrier": str(text)},
                prediction=str(int(x > 1)),
                score=float(x) / 10,
                **changes,
            )
            for at, (x, text) in enumerate(zip(xs, texts, strict=True))
        ]

    def drift(self) -> dict[str, Any]:
        result: dict[str, Any] = self.report(DriftReportOperator(task_id="drift_report"))
        return result

    def told(self) -> dict[str, Any]:
        from mlflow.artifacts import load_dict

        where = f"{self.run().info.artifact_uri}/drift.json"
        with mlflow_at(self.wiring.settings.mlflow_tracking_uri):
            told: dict[str, Any] = load_dict(where)
        return told


OFFLINE = Stage(share=0.0, gates=(Gate(Metric.ERROR_RATE),), bake_seconds=0.0, deadline_seconds=7200.0, offline=True)


@pytest.fixture
def make(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(stage: Stage = STAGE, **drift: Any) -> DriftWorld:
        plan = Plan(Pattern.CANARY, (stage,), drift=DriftPlan.from_dict(drift))
        world = make_world(plan, mlflow_server, tmp_path, monkeypatch, DriftWorld)
        assert isinstance(world, DriftWorld)
        return world

    return made


BEFORE = {"rollout_id": None, "stage": None, "cohort": None, "start": -900.0}  # outside of the rollout, before it


def test_all_rows_of_the_stage_are_scored_and_everything_is_an_artifact(make: Any) -> None:
    world = make(**HOLD)
    world.log("predictions", world.rows("champion", 2_000, 1) + world.rows("challenger", 1_500, 2))
    result = world.drift()
    assert result["state"] == "ok", result
    assert "challenger against champion: 0 of 4 columns drifted" in result["detail"]
    assert {"drift.json", "drift.html"} <= world.artifacts()
    assert list(world.pushed.values()) == ["drift.html"]  # what the task page links to
    told = world.told()
    assert told["rows"] == {"champion": 2_000, "challenger": 1_500}
    assert list(told["comparisons"]) == ["champion"]  # neither a profile nor a past to compare with
    assert told["sample"]["rows_reference"] == 2_000
    run = world.run()
    assert (run.data.metrics["drift_share"], run.data.tags["rollout.drift_report"]) == (0.0, "ok")


@pytest.mark.parametrize(("plan", "state"), [({}, "ok"), (HOLD, "failed"), (HOLD | {"holds": ["before"]}, "missing")])
def test_a_shift_between_the_versions_holds_where_the_plan_says_so(make: Any, plan: dict[str, Any], state: str) -> None:
    world = make(**plan)
    world.log("predictions", world.rows("champion", 2_000, 1) + world.rows("challenger", 1_500, 2, shift=1.0))
    result = world.drift()
    assert result["state"] == state
    assert "3 of 4 columns drifted: f_x (psi" in result["detail"]
    columns = world.told()["comparisons"]["champion"]["columns"]
    assert {name for name, each in columns.items() if each["drifted"]} == {"f_x", "prediction", "score"}
    assert world.run().data.metrics["drift_share"] == 0.75


@pytest.mark.parametrize(("plan", "state"), [({}, "ok"), (HOLD, "missing")])
@pytest.mark.parametrize("rows", [("champion",), ("challenger",), ()])
def test_a_stage_with_nothing_to_compare_is_missing_where_the_plan_holds(
    make: Any, plan: dict[str, Any], state: str, rows: tuple[str, ...]
) -> None:
    world = make(**plan)
    for arm in rows:
        world.log("predictions", world.rows(arm, 500, 1))
    assert world.drift()["state"] == state
    assert {"drift.json", "drift.html"} <= world.artifacts()


def test_inputs_are_compared_with_what_the_challenger_was_trained_on(make: Any, mlflow_server: str) -> None:
    world = make(**HOLD, holds=["training"])
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"x": rng.normal(1.0, 1, 5_000), "carrier": rng.choice(["UA", "AA", "DL"], 5_000)})
    with mlflow_at(mlflow_server):
        log_training_profile(world.model_ids[1], frame, "shifted flights")
    world.log("predictions", world.rows("champion", 500, 1) + world.rows("challenger", 1_500, 2))
    result = world.drift()
    assert result["state"] == "failed"
    training = world.told()["comparisons"]["training"]
    assert training["described"] == "training data, 5,000 rows: shifted flights"
    assert {name: each["drifted"] for name, each in training["columns"].items()} == {"f_x": True, "f_carrier": False}


def test_a_trained_input_that_the_log_lacks_is_missing(make: Any, mlflow_server: str) -> None:
    world = make(**HOLD, holds=["training"])
    frame = pd.DataFrame({"x": np.random.default_rng(3).normal(0, 1, 5_000), "seats": np.arange(5_000.0)})
    with mlflow_at(mlflow_server):
        log_training_profile(world.model_ids[1], frame)
    world.log("predictions", world.rows("challenger", 1_500, 2))
    result = world.drift()
    assert result["state"] == "missing"
    assert "f_seats (the current rows have no such column)" in result["detail"]


def test_without_a_profile_the_champions_time_before_the_rollout_is_the_reference(make: Any) -> None:
    world = make(**HOLD, holds=["training", "before"], reference_seconds=1_000)
    world.log("predictions", world.rows("champion", 900, 4, shift=1.0, **BEFORE))
    world.log("predictions", world.rows("champion", 300, 1) + world.rows("challenger", 1_500, 2))
    result = world.drift()
    assert result["state"] == "failed"
    told = world.told()["comparisons"]
    assert told["training"]["described"].startswith("no training profile; version 1 as champion")
    assert told["training"]["columns"]["f_x"]["drifted"] is True
    assert told["training"]["columns"]["f_carrier"]["drifted"] is False
    assert told["before"]["columns"]["prediction"]["drifted"] is True
    assert told["before"]["columns"]["prediction"]["rows"] == {"reference": 900, "current": 1_500}


@pytest.mark.parametrize(("shift", "state"), [(0.0, "ok"), (1.0, "failed")])
def test_an_offline_stage_is_compared_with_the_requests_that_were_scored_again(
    make: Any, shift: float, state: str
) -> None:
    world = make(OFFLINE, **HOLD)
    world.log("predictions", world.rows("champion", 900, 4, **BEFORE))
    world.log("predictions", world.rows("challenger", 800, 5, shift=shift, served=False))
    assert world.drift()["state"] == state
    told = world.told()
    assert told["comparisons"]["champion"]["columns"]["f_x"]["rows"] == {"reference": 900, "current": 800}
    assert told["sample"]["rows_reference"] == 900


def test_a_log_or_a_profile_that_can_not_be_read_fails_the_task(make: Any, tmp_path: Path) -> None:
    world = make()
    (tmp_path / FILE_NAME).write_text("{}")
    make_client(world.wiring.settings.mlflow_tracking_uri).log_model_artifact(
        world.model_ids[1], str(tmp_path / FILE_NAME)
    )
    world.log("predictions", world.rows("champion", 100, 1))
    with pytest.raises(ProfileError, match="version 2"):
        world.drift()
    table = table_path(world.wiring.settings.log_dir, world.model, "predictions")
    for file in table.glob("day=*/*.parquet"):
        file.unlink()
    world.wiring.profiles.training_profile = lambda version: None
    with pytest.raises(LogReadError):
        world.drift()


def test_the_page_has_the_scores_of_all_rows_and_says_that_the_picture_is_a_sample(make: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("model_rollouts.adapters.drift_report._CELLS", 400)  # a sample of 100 rows of four columns
    world = make()
    world.log("predictions", world.rows("champion", 500, 1) + world.rows("challenger", 400, 2))
    world.drift()
    html = html_of(world)
    assert "Scores over all rows: champion 500, challenger 400." in html
    assert "seeded sample of 100 of the champion&#x27;s 500 rows and one of 100 of the challenger&#x27;s 400" in html
    assert "decides nothing" in html
    assert "drawDashboard" in html  # Evidently's own part


def test_ids_and_free_texts_do_not_hold_up_the_picture(make: Any) -> None:
    world = make(**HOLD)
    for arm in ("champion", "challenger"):
        rows = world.rows(arm, 3_000, 1)
        for at, each in enumerate(rows):
            each["features"]["id"] = f"{arm}-{at}"
        world.log("predictions", rows)
    result = world.drift()
    assert "f_id (it has too many different values" in result["detail"]
    assert result["state"] == "missing"
    assert "f_id" in world.told()["sample"]["evidently"]
    assert len(html_of(world)) < 8_000_000
    assert "(other values)" in html_of(world)


def test_an_old_plan_holds_by_the_forms_word(make: Any) -> None:
    world = make()
    rollout = world.wiring.store.rollout(world.id)
    assert drift_plan_of(rollout, "hold").role is DriftRole.HOLD
    assert drift_plan_of(rollout, "report") == drift_plan_of(rollout, None) == rollout.plan.drift
    held = make(**HOLD)
    assert drift_plan_of(held.wiring.store.rollout(held.id), "report").role is DriftRole.HOLD


def html_of(world: DriftWorld) -> str:
    from mlflow.artifacts import load_text

    with mlflow_at(world.wiring.settings.mlflow_tracking_uri):
        return str(load_text(f"{world.run().info.artifact_uri}/drift.html"))


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - an address of this test's own
        return json.loads(answer.read())


def test_stages_are_a_dashboard_in_evidentlys_own_ui(make: Any, tmp_path: Path) -> None:
    world = make()
    folder, port = tmp_path / "workspace", free_port()
    world.wiring.settings.evidently_workspace = str(folder)
    world.log("predictions", world.rows("champion", 300, 1) + world.rows("challenger", 300, 2))
    world.drift()
    world.drift()  # a retry replaces the stage's snapshot
    command = [
        str(Path(sys.executable).with_name("evidently")),
        "ui",
        "--workspace",
        str(folder),
        "--port",
        str(port),
    ]
    env = {"PATH": "/usr/bin", "HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            base, until = f"http://127.0.0.1:{port}/api", time.monotonic() + 60
            while True:
                try:
                    projects = get(f"{base}/projects")
                    break
                except OSError:
                    assert server.poll() is None, server.stdout.read() if server.stdout else ""
                    assert time.monotonic() < until
                    time.sleep(0.2)
            (project,) = [each for each in projects if each["name"] == world.model]
            snapshots = get(f"{base}/projects/{project['id']}/snapshots")
        finally:
            server.terminate()
    assert [each["name"] for each in snapshots] == [f"{world.id} stage 0"]


def test_a_workspace_that_can_not_be_written_fails_no_stage(make: Any, tmp_path: Path) -> None:
    world = make()
    (tmp_path / "file").write_text("")
    world.wiring.settings.evidently_workspace = str(tmp_path / "file" / "workspace")
    world.log("predictions", world.rows("champion", 100, 1) + world.rows("challenger", 100, 2))
    assert world.drift()["state"] == "ok"
    with pytest.raises(OSError, match="Not a directory"):
        keep_snapshot(tmp_path / "file" / "workspace", world.model, world.id, 0, None)
