"""Reports of a rollout's stages, from a real MLflow."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters import mlflow_reports
from model_rollouts.adapters.mlflow_reports import MlflowReports
from model_rollouts.core.errors import NotFoundError, RolloutError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Rollout, State

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def rollout(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Rollout:
    """Two stages with files, one of them opened twice, and a run of another rollout."""
    import mlflow

    folder = tmp_path_factory.mktemp("docs") / "data_docs_live"
    (folder / "static").mkdir(parents=True)
    (folder / "index.html").write_text("<p>docs")
    (folder / "static" / "style.css").write_text("p {}")
    (folder.parent / "data_docs_empty").mkdir()
    (folder.parent / "data_docs_empty" / "a.txt").write_text("a")
    with mlflow_at(mlflow_server):
        mlflow.set_experiment("rollouts/reported")
        for name, stage in (("r1", "0"), ("r1", "1"), ("r1", "0"), ("r2", "0")):
            with mlflow.start_run(tags={"rollout.id": name, "rollout.stage": stage}):
                mlflow.log_text(f"<p>{name} {stage}", "drift.html")
                if stage == "1":
                    mlflow.log_artifacts(str(folder), folder.name)
                    mlflow.log_artifacts(str(folder.parent / "data_docs_empty"), "data_docs_empty")
    plan = plan_canary(CanaryParameters())
    return Rollout("r1", "reported", "1", "2", plan, State.BAKING, 1, "s", 3, NOW, "anna")


@pytest.fixture
def reports(mlflow_server: str) -> MlflowReports:
    return MlflowReports(mlflow_server)


def test_each_stage_has_its_eldest_run_with_its_files(reports: MlflowReports, rollout: Rollout) -> None:
    first, second = reports.stages(rollout)

    assert (first.stage, second.stage) == (0, 1)
    assert first.files == {"drift.html": len("<p>r1 0")}
    assert set(second.files) == {"drift.html", "data_docs_live/index.html"}
    assert reports.stages(replace(rollout, id="r3")) == reports.stages(replace(rollout, model="other")) == []


def test_a_file_is_read_where_the_run_is_the_rollouts(reports: MlflowReports, rollout: Rollout) -> None:
    _, second = reports.stages(rollout)
    (other,) = reports.stages(replace(rollout, id="r2"))

    assert reports.read(rollout, second.run_id, "drift.html") == b"<p>r1 1"
    assert reports.read(rollout, second.run_id, "data_docs_live/static/style.css") == b"p {}"
    with pytest.raises(NotFoundError, match="is none of r1"):
        reports.read(rollout, other.run_id, "drift.html")
    with pytest.raises(NotFoundError, match="has no run"):
        reports.read(rollout, "0" * 32, "drift.html")


OUTSIDE = ["../drift.html", "/etc/passwd", "a/../drift.html", "..\\x", "a\0b", "./drift.html"]


@pytest.mark.parametrize("path", ["nothing.html", "data_docs_live", "", *OUTSIDE])
def test_what_is_not_among_the_runs_files_is_not_read(reports: MlflowReports, rollout: Rollout, path: str) -> None:
    first = reports.stages(rollout)[0]

    with pytest.raises(NotFoundError):
        reports.read(rollout, first.run_id, path)


def test_a_file_that_is_too_large_is_left_to_mlflow(
    reports: MlflowReports, rollout: Rollout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mlflow_reports, "MOST_BYTES", 5)

    with pytest.raises(RolloutError, match="7 bytes, at most 5"):
        reports.read(rollout, reports.stages(rollout)[0].run_id, "drift.html")
