"""The data checks' task: all rows of the stage are looked at, and Data Docs are in the stage's run."""

from pathlib import Path

import pytest
from tests.operators.report_world import World, make_world
from tests.operators.test_reports import DriftWorld

from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.operators.reports import ValidateDataOperator

STAGE = Stage(share=50.0, gates=(Gate(Metric.ERROR_RATE),), bake_seconds=0.0, deadline_seconds=7200.0)
ROWS = 300


@pytest.fixture
def world(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("MODEL_ROLLOUTS_EXPECTATIONS_DIR", str(Path(__file__).parents[2] / "expectations"))
    return make_world(Plan(Pattern.CANARY, (STAGE,)), mlflow_server, tmp_path, monkeypatch, DriftWorld)


def test_every_row_is_looked_at_and_data_docs_are_kept(world: World) -> None:
    rows = [world.row(f"r{i}", i / 10, ("champion", "challenger")[i % 2]) for i in range(ROWS)]
    world.log("predictions", rows)
    done = world.report(ValidateDataOperator(task_id="validate_data"))
    assert done["state"] == "ok", done
    world.log("predictions", [world.row("one bad row", 31, "challenger", latency_ms=-1.0)])
    again = world.report(ValidateDataOperator(task_id="validate_data"))
    assert again["state"] == "failed"
    assert f"latency_ms (1 of {ROWS + 1} rows)" in again["detail"]
    assert {
        "data_checks_predictions.html",
        "data_checks_predictions.json",
        "data_docs_predictions",
    } <= world.artifacts()


def test_a_stage_without_rows_is_missing(world: World) -> None:
    assert world.report(ValidateDataOperator(task_id="validate_data"))["state"] == "missing"
