"""`rollouts log upkeep` over a real store and log."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_rollouts.adapters.delta_log import DeltaLogWriter
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.cli import app
from model_rollouts.core import rollout as core
from model_rollouts.core.rollout import Cause


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log with two commits of an old day and of a young one; the store knows its model."""
    for name in [name for name in os.environ if name.startswith(("MODEL_ROLLOUTS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_RETENTION_DAYS", "30")
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    store.apply(core.adopt("flights", "1", Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "first seen")))
    store.close()
    writer, now = DeltaLogWriter(tmp_path / "log", "g1"), datetime.now(UTC)
    for number, age in enumerate((60, 60, 2, 2)):
        outcome = {"request_id": f"r{number}", "ts": now - timedelta(days=age), "label": "1"}
        writer.append("flights", "outcomes", [outcome], number)
    return tmp_path / "log"


def test_a_dry_run_tells_and_the_real_one_does(log: Path) -> None:
    told = CliRunner().invoke(app, ["log", "upkeep", "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "nothing was changed" in told.output
    done = CliRunner().invoke(app, ["log", "upkeep", "--json"])
    assert done.exit_code == 0, done.output
    (table,) = json.loads(done.stdout)
    assert (table["days_dropped"], table["rows_dropped"], table["files_before"], table["files_after"]) == (1, 2, 4, 1)
    again = json.loads(CliRunner().invoke(app, ["log", "upkeep", "--json", "--model", "flights"]).stdout)
    assert (again[0]["rows_dropped"], again[0]["files_merged"]) == (0, 0)


def test_a_table_that_fails_is_told_and_the_exit_code_is_1(log: Path) -> None:
    path = table_path(log, "flights", "outcomes")
    for file in path.glob("day=*/*.parquet"):
        file.unlink()
    failed = CliRunner().invoke(app, ["log", "upkeep"])
    assert failed.exit_code == 1
    assert "error: outcomes of flights:" in failed.output


def test_a_model_without_a_log_is_told(log: Path) -> None:
    failed = CliRunner().invoke(app, ["log", "upkeep", "--model", "other"])
    assert failed.exit_code == 3
    assert "the log has no table of 'other'; it has: flights" in failed.output
