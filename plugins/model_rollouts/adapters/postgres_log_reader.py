"""Rows of the prediction log from PostgreSQL, as Arrow batches for DuckDB."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import IO, Any

import psycopg
import pyarrow as pa
import pyarrow.csv as pacsv
from psycopg import sql

from model_rollouts.adapters.delta_schema import SCHEMAS
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.postgres_log import PostgresColumn, PostgresTable, limit_reading

SLACK = timedelta(seconds=1)  # as the files of a Delta table have some: the queries choose for themselves
_BLOCK = 8 << 20
KINDS = {"double": pa.float64(), "string": pa.string()}


@contextmanager
def fetched(
    table: PostgresTable, start: datetime, end: datetime, wanted: Callable[[str], bool], limit: int | None
) -> Iterator[pa.RecordBatchReader | None]:
    """See `LogTable.fetched`. The rows wait in a file, so that memory does not grow with them."""
    for moment in (start, end):
        if moment.tzinfo is None:
            raise ValueError(f"time is {moment.isoformat()} without a zone; give UTC")
    with tempfile.TemporaryFile(prefix="rollouts-log-") as file:
        try:
            schema = _copy_out(table, start - SLACK, end + SLACK, wanted, limit, file)
        except (psycopg.Error, UnicodeError) as error:
            raise LogReadError(f"{table} can't be read: {error}") from error
        if not file.tell():
            yield None
            return
        file.seek(0)
        yield _reader(file, schema)


def _copy_out(
    table: PostgresTable,
    start: datetime,
    end: datetime,
    wanted: Callable[[str], bool],
    limit: int | None,
    file: IO[bytes],
) -> pa.Schema:
    types = {field.name: field.type for field in SCHEMAS[table.table] if field.name != "day"}
    with table.log.connect() as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        limit_reading(connection)
        found = table.columns(connection)
        if not found:
            return pa.schema([])
        if missing := types.keys() - {column.name for column in found}:
            raise LogReadError(f"{table} has no column {', '.join(sorted(missing))}; it is no table of this log")
        columns = [column for column in found if column.name == "ts" or wanted(column.name)]
        columns = [column for column in columns if column.name in types or column.kind in KINDS]
        query = sql.SQL("SELECT {} FROM {} WHERE ts >= {} AND ts < {}{}").format(
            sql.SQL(", ").join(map(_selected, columns)),
            table.identifier,
            sql.Literal(start),
            sql.Literal(end),
            sql.SQL("") if limit is None else sql.SQL(" LIMIT {}").format(sql.Literal(limit)),
        )
        with (
            connection.cursor() as cursor,
            cursor.copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)) as copy,
        ):
            for block in copy:
                file.write(block)
    return pa.schema([(column.name, types.get(column.name) or KINDS[column.kind]) for column in columns])


def _selected(column: PostgresColumn) -> sql.Composable:
    if column.name == "ts":
        return sql.SQL("(extract(epoch FROM ts) * 1000000)::bigint")
    return sql.Identifier(column.stored)


def _reader(file: IO[bytes], schema: pa.Schema) -> pa.RecordBatchReader:
    parsed = {field.name: pa.int64() if field.name == "ts" else field.type for field in schema}
    batches = pacsv.open_csv(
        file,
        read_options=pacsv.ReadOptions(column_names=schema.names, block_size=_BLOCK, use_threads=False),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=parsed,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )

    def cast() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch.cast(schema)

    return pa.RecordBatchReader.from_batches(schema, cast())


def wanted_by(query: str, name: str) -> Callable[[str], bool]:
    """Whether a query over `{name}` names a column, or takes all of them with a star."""
    if re.search(rf"\*(\s*,[^*]*?|\s*)FROM\s+\{{{name}\}}", query):
        return lambda _: True
    text: Any = query.replace("{{", "{").replace("}}", "}")
    return lambda column: column in text or column.replace('"', '""') in text
