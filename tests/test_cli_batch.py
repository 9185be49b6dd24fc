"""`rollouts compare`, `drift` and `replay --mapping` on a team's own Parquet files: no gateway, no store, no MLflow."""

import os
from pathlib import Path

import pytest
from tests.adapters.test_mapped_log import END, PREDICTIONS, START, parquet, warehouse
from typer.testing import CliRunner, Result

from model_rollouts.cli import app


@pytest.fixture
def mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("MODEL_ROLLOUTS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_REPORTS_DIR", str(tmp_path / "reports"))
    file = tmp_path / "mapping.yaml"
    file.write_text(PREDICTIONS.format(source=parquet(tmp_path, warehouse(2_000, both=True))) + "answered_by: both\n")
    return file


def run(command: str, mapping: Path, *more: str, model: str = "late flights") -> Result:
    period = ["--from", START.isoformat(), "--to", END.isoformat()]
    versions = ["--champion", "3", "--challenger", "4"]
    return CliRunner().invoke(app, [command, model, "--mapping", str(mapping), *versions, *period, *more])


def test_compare_tells_both_versions_and_the_verdict(mapping: Path, tmp_path: Path) -> None:
    done = run("compare", mapping, "--maturity-days", "2")
    assert done.exit_code == 0, done.output
    assert "fail: " in done.output
    assert done.output.count("2,000") >= 2
    assert (tmp_path / "reports" / "batch" / "comparison.html").is_file()


def test_replay_plays_a_plan_without_a_store(mapping: Path) -> None:
    plan = ["--set", "steps=[50]", "--set", "look_seconds=28800", "--set", "bake_seconds=0", "--set",
            "deadline_seconds=259200", "--set", "label_maturity_seconds=86400"]  # fmt: skip
    done = run("replay", mapping, *plan)
    assert done.exit_code == 0, done.output
    assert "ends with fail" in done.output


def test_drift_tells_what_drifted(mapping: Path, tmp_path: Path) -> None:
    done = run("drift", mapping, "--reference-days", "1")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "reports" / "batch" / "drift.json").is_file()


def test_a_wrong_mapping_is_told_in_one_line(mapping: Path) -> None:
    mapping.write_text(mapping.read_text().replace("prediction: late", "prediction: later"))
    failed = run("compare", mapping)
    assert failed.exit_code == 2
    assert "error: predictions.columns.prediction is 'later', which parquet" in failed.output
    other = run("compare", mapping, model="other")
    assert "is of model 'late flights', not of 'other'" in other.output


def test_a_mapping_belongs_to_a_period(mapping: Path) -> None:
    failed = CliRunner().invoke(app, ["replay", "late flights", "--mapping", str(mapping)])
    assert failed.exit_code == 2
    assert "--mapping belong to a period" in failed.output
