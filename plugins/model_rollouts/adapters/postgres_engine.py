"""Runs the log's queries inside PostgreSQL: nothing leaves it but the result. See docs/adr/0018-engines.md."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from model_rollouts.adapters.delta_files import NO_ROWS
from model_rollouts.adapters.delta_schema import SCHEMAS
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import LogPlace, QueryResult
from model_rollouts.adapters.postgres_log import PostgresColumn, PostgresTable, limit_reading
from model_rollouts.adapters.postgres_log_reader import KINDS, SLACK
from model_rollouts.adapters.query_rows import Rows
from model_rollouts.adapters.sql_dialects import PLACE, translated

if TYPE_CHECKING:
    import pyarrow as pa

OLDEST = 16  # pg_input_is_valid
_DUCKDB_TYPES = {"double": "DOUBLE", "string": "VARCHAR"}
# The queries are long chains of common tables, whose sizes the planner guesses at a few rows: joins of two of them row
# by row take hours where it is wrong. Compiling such a query takes longer than most of them run.
_SETTINGS = "SET LOCAL enable_nestloop = off; SET LOCAL jit = off; SET LOCAL TimeZone = 'UTC'"


class PostgresEngine:
    """Implements `QueryEngine` for logs in PostgreSQL."""

    def run(
        self, sql: str, tables: Mapping[str, tuple[LogPlace, datetime, datetime]], parameters: Mapping[str, Any]
    ) -> QueryResult | None:
        """See `delta_files.run`."""
        first = next(iter(tables.values()))[0]
        with _Reading(_table(first)) as reading:
            sources: dict[str, str] = {}
            stored: dict[str, str] = {}
            for name, (place, start, end) in tables.items():
                table = _table(place)
                columns = reading.columns(table)
                there = bool(columns) and reading.any(table, start, end)
                if not sources and not there:
                    return None
                sources[name] = reading.source(table, columns, start, end) if columns else _nothing(name)
                stored |= {column.name: column.stored for column in columns if column.name != column.stored}
            query = translated(sql, "postgres", parameters, stored)
            text = query.text
            for name, source in sources.items():
                text = text.replace(PLACE.format(name), source)
            return reading.rows(text, [parameters[name] for name in query.parameters], stored)

    def columns(self, place: LogPlace, start: datetime, end: datetime) -> list[tuple[str, str]] | None:
        """See `delta_files.columns_of`."""
        table = _table(place)
        with _Reading(table) as reading:
            columns = reading.columns(table)
            if not columns or not reading.any(table, start, end):
                return None
            contract = {field.name: str(field.type) for field in SCHEMAS[table.table]}
            return [(each.name, _DUCKDB_TYPES.get(each.kind) or contract[each.name]) for each in columns]


class _Reading:
    """One transaction that sees the log as it is at its beginning.

    Args:
        table: One of the tables that are read.
    """

    def __init__(self, table: PostgresTable) -> None:
        self._log, self._told = table.log, str(table)

    def __enter__(self) -> "_Reading":
        try:
            self._connection = self._log.connect()
        except psycopg.Error as error:
            raise LogReadError(f"{self._told} can't be read: {error}") from error
        try:
            self._begin()
        except BaseException:
            self._connection.close()
            raise
        return self

    def _begin(self) -> None:
        version = self._connection.info.server_version // 10_000
        if version < OLDEST:
            raise LogReadError(
                f"the server of the log is PostgreSQL {version}, must be {OLDEST} or newer to run queries; "
                "set MODEL_ROLLOUTS_ENGINE=duckdb, which copies the rows out"
            )
        self._connection.read_only = True
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._connection.execute(_SETTINGS)
        limit_reading(self._connection)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._connection.close()
        if isinstance(error, psycopg.Error | UnicodeError):
            raise LogReadError(f"query over {self._told}: {error}") from error

    def columns(self, table: PostgresTable) -> list[PostgresColumn]:
        """The table's columns that belong to the log; none where there is no table."""
        found = table.columns(self._connection)
        contract = {field.name for field in SCHEMAS[table.table]} - {"day"}
        if found and (missing := contract - {column.name for column in found}):
            raise LogReadError(f"{table} has no column {', '.join(sorted(missing))}; it is no table of this log")
        return [column for column in found if column.name in contract or column.kind in KINDS]

    def any(self, table: PostgresTable, start: datetime, end: datetime) -> bool:
        """Whether there is a row in the time range."""
        query = sql.SQL("SELECT EXISTS (SELECT 1 FROM {} WHERE {})").format(table.identifier, _range(start, end))
        return self._connection.execute(query).fetchone() == (True,)

    def source(self, table: PostgresTable, columns: Sequence[PostgresColumn], start: datetime, end: datetime) -> str:
        """What stands in a query for the rows of a time range.

        Texts are compared by their bytes, whatever the database's collation is: as the other engines do it.
        """
        query = sql.SQL("(SELECT {} FROM {} WHERE {})").format(
            sql.SQL(", ").join(map(_selected, columns)), table.identifier, _range(start, end)
        )
        return query.as_string(self._connection)

    def rows(self, text: str, parameters: Sequence[Any], stored: Mapping[str, str]) -> Rows:
        """The result of a query."""
        import pyarrow as pa

        names = {short: name for name, short in stored.items()}
        with psycopg.RawCursor(self._connection) as cursor:
            cursor.execute(text, parameters)
            schema = pa.schema(
                [(names.get(each.name, each.name), _arrow(each.type_code)) for each in cursor.description or ()]
            )
            return Rows(schema, cursor.fetchall())


def _table(place: LogPlace) -> PostgresTable:
    if not isinstance(place, PostgresTable):
        raise LogReadError(f"{place} is no table in PostgreSQL; set MODEL_ROLLOUTS_ENGINE=duckdb or spark to read it")
    return place


def _nothing(name: str) -> str:
    from sqlglot import transpile

    return f"({transpile(f'SELECT {NO_ROWS[name]} WHERE false', read='duckdb', write='postgres')[0]})"


def _range(start: datetime, end: datetime) -> sql.Composable:
    for moment in (start, end):
        if moment.tzinfo is None:
            raise ValueError(f"time is {moment.isoformat()} without a zone; give UTC")
    return sql.SQL("ts >= {} AND ts < {}").format(sql.Literal(start - SLACK), sql.Literal(end + SLACK))


def _selected(column: PostgresColumn) -> sql.Composable:
    name = sql.Identifier(column.stored)
    return sql.SQL('{} COLLATE "C" AS {}').format(name, name) if column.kind == "string" else name


def _arrow(kind: int) -> "pa.DataType":
    import pyarrow as pa

    known = {
        "bool": pa.bool_(),
        "int2": pa.int16(),
        "int4": pa.int32(),
        "int8": pa.int64(),
        "float8": pa.float64(),
        "numeric": pa.decimal128(38, 0),
        "timestamptz": pa.timestamp("us", tz="UTC"),
    }
    found = psycopg.adapters.types.get(kind)
    return known.get(found.name, pa.string()) if found else pa.string()
