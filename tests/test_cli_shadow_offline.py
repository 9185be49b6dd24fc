"""`rollouts shadow-offline`: a version in a real MLflow is asked for the requests of a team's own table."""

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.offline_past import logged_model, register
from typer.testing import CliRunner, Result

from model_rollouts.cli import app

START = datetime(2026, 5, 1, tzinfo=UTC)
ROWS = 1_500
MAPPING = """
model: {model}
predictions:
  parquet: table.parquet
  columns: {{request_id: id, ts: at, version: version, prediction: answer}}
  features: {{x: x, n: n, carrier: carrier}}
"""


@pytest.fixture
def name(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered model; version 2 answers as the table's champion did, version 3 for every sixth otherwise."""
    for variable in [each for each in os.environ if each.startswith(("MODEL_ROLLOUTS_", "MLFLOW_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setenv("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", mlflow_server)
    good, other = logged_model(mlflow_server), logged_model(mlflow_server, flip_every=6)
    model = register(mlflow_server, good, good, other)
    dice = random.Random(3)
    rows = [{"id": at, "at": START + timedelta(minutes=at), "version": "1", "x": dice.gauss(0, 1), "n": at + 1,
             "carrier": "UA"} for at in range(ROWS)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row | {"answer": row["x"] > 0} for row in rows]), tmp_path / "table.parquet")
    (tmp_path / "mapping.yaml").write_text(MAPPING.format(model=model))
    return model


def run(name: str, folder: Path, challenger: str) -> Result:
    period = ["--from", START.isoformat(), "--to", (START + timedelta(minutes=ROWS)).isoformat()]
    versions = ["--champion", "1", "--challenger", challenger]
    return CliRunner().invoke(
        app, ["shadow-offline", name, "--mapping", str(folder / "mapping.yaml"), *versions, *period]
    )


def test_versions_are_asked_for_what_the_champion_was(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path, "2")
    assert done.exit_code == 0, done.output
    assert "1,500 requests were scored" in done.output
    assert "pass: " in done.output
    assert (tmp_path / "reports" / "batch" / "comparison.html").is_file()
    other = run(name, tmp_path, "3")
    assert other.exit_code == 0, other.output
    assert "inconclusive: " in other.output
    assert "the objective is missed" in other.output


def test_a_version_that_is_not_registered_is_told(name: str, tmp_path: Path) -> None:
    failed = run(name, tmp_path, "9")
    assert failed.exit_code != 0
    assert "error: " in failed.output
