"""A read of the log in a real PostgreSQL ends: one that waits for a lock, or never comes to its end, is an error."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from model_rollouts.adapters import postgres_log
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.postgres_engine import PostgresEngine
from model_rollouts.adapters.postgres_log import PostgresLog

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = {
    "request_id": "a", "ts": START, "model": "m", "version": "3", "arm": "champion", "served": True, "status": "ok",
    "latency_ms": 3.5, "prediction": "1", "gateway_id": "g1", "traffic_revision": 2, "features": {},
}  # fmt: skip
SPAN = (START - timedelta(hours=1), START + timedelta(hours=1))


@pytest.fixture
def log(postgres_server: str, request: pytest.FixtureRequest) -> PostgresLog:
    made = PostgresLog(postgres_server, schema=f"limits {id(request)}")
    made.appender("g1").append("m", "predictions", [ROW], 1)
    return made


def copied(log: PostgresLog) -> Any:
    with log.table("m", "predictions").fetched(*SPAN, lambda _: True) as rows:
        assert rows is not None
        return rows.read_all().num_rows


def asked(log: PostgresLog) -> Any:
    places: Any = {"predictions": (log.table("m", "predictions"), *SPAN)}
    found = PostgresEngine().run("SELECT count(*) AS n FROM {predictions}", places, {})
    assert found is not None
    return found.fetchall()[0][0]


def described(log: PostgresLog) -> Any:
    columns: Any = PostgresEngine().columns(log.table("m", "predictions"), *SPAN)  # type: ignore[arg-type]
    return int(bool(columns))


def locked(log: PostgresLog, holder: "psycopg.Connection[Any]") -> None:
    """Hold the table as nobody may read it; not for ever, so that a read without a limit would be seen to wait."""
    holder.execute("SET LOCAL idle_in_transaction_session_timeout = '3s'")
    table = log.table("m", "predictions").identifier
    holder.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))


READS = pytest.mark.parametrize("read", [copied, asked, described])


@READS
def test_a_read_that_waits_for_a_lock_gives_up_and_reads_again_afterwards(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch, read: Callable[[PostgresLog], Any]
) -> None:
    monkeypatch.setattr(postgres_log, "_READ_LOCK_SECONDS", 0.05)
    with log.connect() as holder:
        locked(log, holder)
        with pytest.raises(LogReadError, match="lock timeout"):
            read(log)
    assert read(log) == 1


@READS
def test_a_read_that_takes_too_long_is_ended_by_the_server(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch, read: Callable[[PostgresLog], Any]
) -> None:
    monkeypatch.setattr(postgres_log, "_READ_SECONDS", 0.05)
    with log.connect() as holder:
        locked(log, holder)
        with pytest.raises(LogReadError, match="statement timeout"):
            read(log)
    assert read(log) == 1
