"""Upkeep of a log in PostgreSQL: old days deleted one by one, then VACUUM and ANALYZE."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import psycopg
from psycopg import sql

from model_rollouts.adapters.delta_schema import TableName
from model_rollouts.adapters.log_upkeep import Care, TableUpkeep
from model_rollouts.adapters.postgres_log import COMMITS, PostgresLog, PostgresTable

_LOCK_SECONDS = 30
_DAY = timedelta(days=1)


class PostgresCaretaker:
    """Implements `Caretaker`.

    The table `commits` is never shortened: it tells batches that are sent again from new ones.

    Args:
        log: The log.
    """

    def __init__(self, log: PostgresLog) -> None:
        self.log = log

    def models(self) -> list[str]:
        """Models that the log has tables of."""
        commits = sql.Identifier(self.log.schema, COMMITS)
        with self.log.connect() as connection:
            name = sql.Literal(commits.as_string(connection))
            if connection.execute(sql.SQL("SELECT to_regclass({})").format(name)).fetchone() == (None,):
                return []
            found = connection.execute(sql.SQL("SELECT DISTINCT model FROM {} ORDER BY model").format(commits))
            return [str(model) for (model,) in found.fetchall()]

    def care(self, model: str, table: TableName, care: Care) -> TableUpkeep | None:
        """Delete old days, one transaction a day, and have PostgreSQL reuse their room.

        Raises:
            psycopg.Error: The database can't be reached, or a lock is not had in time; what was done before is whole.
        """
        target = self.log.table(model, table)
        with self.log.connect() as connection:
            connection.autocommit = True  # VACUUM is no part of a transaction
            if not target.columns(connection):
                return None
            connection.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
            before = _size(connection, target)
            days, rows = self._drop(connection, target, care)
            if not care.dry_run:
                # Without TRUNCATE nobody is ever locked out: it would want the table for itself.
                connection.execute(sql.SQL("VACUUM (ANALYZE, TRUNCATE false) {}").format(target.identifier))
            return TableUpkeep(
                model,
                table,
                kept_since=care.since,
                days_dropped=days,
                rows_dropped=rows,
                bytes_before=before,
                bytes_after=_size(connection, target),
                note="PostgreSQL uses the room of deleted rows again; the file stays as large" if rows else "",
            )

    def _drop(self, connection: "psycopg.Connection[Any]", target: PostgresTable, care: Care) -> tuple[int, int]:
        if care.since is None:
            return 0, 0
        end = datetime.combine(care.since, time(), UTC)
        days = rows = 0
        while first := _first(connection, target, end):
            start = datetime.combine(first.astimezone(UTC).date(), time(), UTC)
            if care.dry_run:
                return _counted(connection, target, end)
            query = sql.SQL("DELETE FROM {} WHERE ts >= {} AND ts < {}")
            done = connection.execute(query.format(target.identifier, *map(sql.Literal, (start, start + _DAY))))
            days, rows = days + 1, rows + done.rowcount
        return days, rows


def _first(connection: "psycopg.Connection[Any]", target: PostgresTable, end: datetime) -> datetime | None:
    query = sql.SQL("SELECT min(ts) FROM {} WHERE ts < {}").format(target.identifier, sql.Literal(end))
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def _counted(connection: "psycopg.Connection[Any]", target: PostgresTable, end: datetime) -> tuple[int, int]:
    query = sql.SQL("SELECT count(DISTINCT (ts AT TIME ZONE 'UTC')::date), count(*) FROM {} WHERE ts < {}")
    row = connection.execute(query.format(target.identifier, sql.Literal(end))).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _size(connection: "psycopg.Connection[Any]", target: PostgresTable) -> int:
    name = sql.Literal(target.identifier.as_string(connection))
    row = connection.execute(sql.SQL("SELECT pg_total_relation_size(to_regclass({}))").format(name)).fetchone()
    return 0 if row is None else int(row[0] or 0)
