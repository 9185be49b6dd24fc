"""Appends to the prediction log in PostgreSQL, each batch exactly once."""

import threading
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from psycopg import sql

from model_rollouts.adapters.delta_schema import SCHEMAS, LogContractError, TableName, to_arrow
from model_rollouts.adapters.postgres_log import COMMITS, PostgresColumn, PostgresLog, PostgresTable, stored_name
from model_rollouts.adapters.postgres_log_watch import answering
from model_rollouts.adapters.segment_arrow import columnar

_TYPES = {
    pa.date32(): "date",
    pa.string(): "text",
    pa.timestamp("us", tz="UTC"): "timestamptz",
    pa.bool_(): "boolean",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float64(): "double precision",
}
_LOCK = 7_304_117_200_411  # of whoever makes or changes tables
_LOCK_SECONDS = 2  # a new column waits for readers of the table, and all others wait behind it
_BLOCK = 1 << 20
_CLAIM = """
INSERT INTO {} AS known (app_id, model, tbl, version) VALUES ({}, {}, {}, {})
ON CONFLICT (app_id, model, tbl) DO UPDATE SET version = excluded.version WHERE known.version < excluded.version
RETURNING version
"""


class PostgresLogWriter:
    """Writes one process's rows. Safe to use from several threads; several processes may write to one table.

    A batch and its number, in the table `commits`, are one transaction. A text's NUL, which PostgreSQL can't hold,
    becomes U+FFFD.

    Args:
        log: Where to.
        app_id: Who writes. Stays the same over restarts, and no two living writers share it.
    """

    def __init__(self, log: PostgresLog, app_id: str) -> None:
        if not app_id or "\x00" in app_id:
            raise ValueError(f"app_id is {app_id!r}; give the gateway's id")
        self.log = log
        self.app_id = app_id
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._made: set[str] = set()

    def append(self, model: str, table: TableName, rows: Sequence[Mapping[str, Any]], version: int) -> bool:
        """Write a batch in one transaction, unless it is there already.

        Arguments and result as for `DeltaLogWriter.append`.

        Raises:
            LogContractError: A row breaks the contract or an existing column's type, or is too wide for PostgreSQL.
                Nothing is written; writing the same rows again would fail again.
            psycopg.Error: The database can't be reached or written to, or is not done in `no_answer_seconds`. Nothing
                is written that is not known to `commits`; try again.
        """
        target = self.log.table(model, table)
        if isinstance(version, bool) or not isinstance(version, int) or version < 0:
            raise ValueError(f"version is {version!r}, must be a whole number from 0")
        if not rows:
            return False
        with self._lock:
            try:
                connection = self._connected()
                with answering(connection, self.log.no_answer_seconds):
                    return self._append(connection, target, model, rows, version)
            except (psycopg.errors.ProgramLimitExceeded, psycopg.errors.TooManyColumns) as error:
                raise LogContractError(f"{target} can't hold the rows: {error}; log fewer inputs") from error
            except BaseException:  # the connection may be in any state, and the table may be gone
                self._made.clear()
                self.close()
                raise

    def close(self) -> None:
        """Let go of the connection; the next batch makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _append(
        self,
        connection: "psycopg.Connection[tuple[object, ...]]",
        target: PostgresTable,
        model: str,
        rows: Sequence[Mapping[str, Any]],
        version: int,
    ) -> bool:
        if target.relation not in self._made:
            self._make(connection, target)
        written = False
        with connection.transaction() as transaction:
            self._wait_at_most(connection)
            claim = sql.SQL(_CLAIM).format(
                sql.Identifier(self.log.schema, COMMITS),
                *map(sql.Literal, (self.app_id, model, target.table, version)),
            )
            if connection.execute(claim).fetchone() is None:
                return False
            columns = target.columns(connection)
            data = _converted(target.table, rows, columns)
            if data is None:
                raise psycopg.Rollback(transaction)
            if _new_names(data, columns):
                _wait_for_lock(connection)
                columns = target.columns(connection)  # as a rival may have left them by now
                data = _converted(target.table, rows, columns)
                columns += _added(connection, target, data, _new_names(data, columns))
            _copy(connection, target, data, columns)
            written = True
        return written

    def _connected(self) -> "psycopg.Connection[tuple[object, ...]]":
        if self._connection is not None:
            try:
                with answering(self._connection, self.log.no_answer_seconds):
                    self._connection.execute("SELECT 1")  # the server may have ended it since the last batch
            except psycopg.OperationalError:
                self.close()
        if self._connection is None:
            self._connection = self.log.connect()
            self._connection.autocommit = True
        return self._connection

    def _make(self, connection: "psycopg.Connection[tuple[object, ...]]", target: PostgresTable) -> None:
        """The schema, the table of commits and the target, where they are missing."""
        schema = sql.Identifier(self.log.schema)
        with connection.transaction():
            self._wait_at_most(connection)
            _wait_for_lock(connection)
            name = sql.Literal(schema.as_string(connection))
            if connection.execute(sql.SQL("SELECT to_regnamespace({})").format(name)).fetchone() == (None,):
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            connection.execute(
                sql.SQL(
                    "CREATE TABLE IF NOT EXISTS {} (app_id text, model text, tbl text, version bigint NOT NULL, "
                    "PRIMARY KEY (app_id, model, tbl))"
                ).format(sql.Identifier(self.log.schema, COMMITS))
            )
            if not target.columns(connection):
                columns = sql.SQL(", ").join(
                    sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(_TYPES[field.type]))
                    for field in SCHEMAS[target.table]
                )
                connection.execute(sql.SQL("CREATE TABLE {} ({})").format(target.identifier, columns))
                # Rows come about in the order of time and are asked for by time: a summary of each block is enough.
                connection.execute(
                    sql.SQL(
                        "CREATE INDEX ON {} USING brin (ts) WITH (pages_per_range = 16, autosummarize = on)"
                    ).format(target.identifier)
                )
        self._made.add(target.relation)

    def _wait_at_most(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        times = {"lock_timeout": _LOCK_SECONDS, "statement_timeout": self.log.no_answer_seconds}
        for name, seconds in times.items():
            value = sql.Literal(f"{max(1, round(seconds * 1000))}ms")
            connection.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), value))


def _wait_for_lock(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    connection.execute(sql.SQL("SELECT pg_advisory_xact_lock({})").format(sql.Literal(_LOCK)))


def _converted(
    table: TableName, rows: Sequence[Mapping[str, Any]], columns: Sequence[PostgresColumn]
) -> pa.Table | None:
    """The rows as columns; None where all of them are damaged."""
    existing = {column.name: column.kind for column in columns}
    data = columnar(table, rows, existing)
    if data is None:
        decoded = list(rows)
        data = to_arrow(table, decoded, existing) if decoded else None
    return data


def _new_names(data: pa.Table, columns: Sequence[PostgresColumn]) -> list[str]:
    known = {column.name for column in columns}
    return [name for name in data.column_names if name not in known]


def _added(
    connection: "psycopg.Connection[tuple[object, ...]]", target: PostgresTable, data: pa.Table, names: Sequence[str]
) -> list[PostgresColumn]:
    """Add columns to the table."""
    added = []
    for name in names:
        if "\x00" in name:
            raise LogContractError(f"column {name!r} has a NUL in its name, which PostgreSQL can't hold; rename it")
        stored, kind = stored_name(name), _TYPES[data.schema.field(name).type]
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(target.identifier, sql.Identifier(stored), sql.SQL(kind))
        )
        if stored != name:
            connection.execute(
                sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(
                    target.identifier, sql.Identifier(stored), sql.Literal(name)
                )
            )
        added.append(PostgresColumn(name, stored, kind))
    return added


def _copy(
    connection: "psycopg.Connection[tuple[object, ...]]",
    target: PostgresTable,
    data: pa.Table,
    columns: Sequence[PostgresColumn],
) -> None:
    """Put the rows in as CSV, which Arrow writes and PostgreSQL reads without a loop in Python."""
    stored = {column.name: column.stored for column in columns}
    names = sql.SQL(", ").join(sql.Identifier(stored[name]) for name in data.column_names)
    text = BytesIO()
    pacsv.write_csv(_without_nul(data), text, pacsv.WriteOptions(include_header=False, quoting_style="needed"))
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(target.identifier, names)) as copy,
    ):
        view = text.getbuffer()
        for at in range(0, len(view), _BLOCK):
            copy.write(view[at : at + _BLOCK])


def _without_nul(data: pa.Table) -> pa.Table:
    for at, field in enumerate(data.schema):
        if field.type == pa.string() and pc.any(pc.match_substring(data.column(at), "\x00")).as_py():
            data = data.set_column(at, field, pc.replace_substring(data.column(at), "\x00", "\ufffd"))
    return data
