"""The MLproject, run by MLflow against a real server."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.mlflow_at import mlflow_at

PROJECT = Path(__file__).resolve().parents[2] / "mlflow" / "flights"


@pytest.fixture(scope="module")
def registered(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client, after `champion` and `raises` were trained and registered in this order."""
    from mlflow import MlflowClient

    command = [
        *(sys.executable, "-m", "mlflow", "run", str(PROJECT), "--env-manager", "local", "-e", "all"),
        *("-P", "variants=champion,raises", "-P", "name=demo-flights"),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_server, "MLFLOW_REGISTRY_URI": mlflow_server, "PATH": path}
    env["MLFLOW_DISABLE_TELEMETRY"] = "true"
    done = subprocess.run(
        command, env=env, cwd=tmp_path_factory.mktemp("run"), capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return MlflowClient(mlflow_server, mlflow_server)


def test_variants_become_versions_in_the_given_order_and_the_champion_gets_its_alias(registered: Any) -> None:
    versions = {v.version: v for v in registered.search_model_versions("name='demo-flights'")}
    assert {number: v.tags["variant"] for number, v in versions.items()} == {"1": "champion", "2": "raises"}
    assert registered.get_model_version_by_alias("demo-flights", "champion").version == "1"
    assert all(v.description for v in versions.values())
    assert "15 minutes late" in registered.get_registered_model("demo-flights").description
    metrics = registered.get_run(versions["1"].run_id).data.metrics
    assert {f"month_{m:02d}.{k}" for m in range(4, 13) for k in ("accuracy", "auc", "brier")} <= set(metrics)
    assert 0.8 < metrics["month_04.accuracy"] < 1


def test_a_registered_version_loads_without_pickle_and_answers_by_its_signature(
    registered: Any, mlflow_server: str, flights: Any
) -> None:
    import mlflow

    with mlflow_at(mlflow_server):
        folder = Path(mlflow.artifacts.download_artifacts("models:/demo-flights/2"))
    assert not list(folder.rglob("*.pkl"))
    model = mlflow.pyfunc.load_model(str(folder))
    schema = model.metadata.get_input_schema()
    required = {column.name: column.required for column in schema.inputs}
    assert required["dep_delay"]
    assert not required["seats"]
    rows = flights[(flights["month"] == 4) & flights["seats"].notna()][schema.input_names()].head(5)
    answer = model.predict(rows)
    assert answer["prediction"].dtype == "int64"
    assert list(answer.columns) == ["prediction", "score"]
    with pytest.raises(KeyError):
        model.predict(flights[flights["seats"].isna()][schema.input_names()].head(1))


def test_every_version_has_the_profile_of_its_training_data(registered: Any, mlflow_server: str) -> None:
    from model_rollouts.adapters.mlflow_profiles import MlflowProfiles
    from model_rollouts.adapters.mlflow_registry import MlflowRegistry

    for number in ("1", "2"):
        version = MlflowRegistry(mlflow_server).resolve("demo-flights", number)
        profile = MlflowProfiles(mlflow_server).training_profile(version)
        assert profile is not None
        rows = registered.get_run(version.run_id).data.params["training_rows"]
        assert (str(profile.rows), list(profile.columns)) == (rows, [name for name, _ in version.inputs or ()])
        assert profile.columns["month"].high == 3
