"""Queries over the log's tables: in the log's own engine, or else with DuckDB.

DuckDB reads a Delta table's current files, without its own extension for it, or rows that a `LogTable` fetches.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import EngineTable, LogPlace, LogTable, QueryResult
from model_rollouts.adapters.query_memory import explained, memory_limit

if TYPE_CHECKING:
    import duckdb

__all__ = ["LogReadError", "columns_of", "connect", "current_files", "run", "run_local"]

_TRIES = 3
_STATS_SLACK = timedelta(seconds=1)  # engines may cut the statistics' timestamps to milliseconds
_DESCRIBE = "DESCRIBE SELECT * FROM {rows}"
NO_ROWS = {
    "outcomes": "NULL::VARCHAR AS request_id, NULL::TIMESTAMPTZ AS ts, NULL::VARCHAR AS label, NULL::DOUBLE AS value",
}
_CONFIG = {"autoinstall_known_extensions": "false", "TimeZone": "UTC"}


def current_files(path: Path, start: datetime, end: datetime) -> list[str]:
    """The files of a table that may hold rows with `ts` in [start, end); none only where there is no table yet.

    Args:
        path: The table's folder.
        start: UTC; naive times are refused.
        end: UTC.

    Raises:
        LogReadError: The folder exists and holds no readable Delta table.
    """
    for moment in (start, end):
        if moment.tzinfo is None:
            raise ValueError(f"time is {moment.isoformat()} without a zone; give UTC")
    if not path.exists():
        return []
    delta = _open(path)
    if features := delta.protocol().reader_features:
        # Deleted rows and renamed columns live outside the data files, which are all that is read here.
        raise LogReadError(f"{path} uses Delta features {', '.join(sorted(features))}; rewrite it without them")
    low, high = (start - _STATS_SLACK).astimezone(UTC), (end + _STATS_SLACK).astimezone(UTC)
    predicate = (
        f"day >= '{low.date()}' AND day <= '{high.date()}' AND ts >= '{low.isoformat()}' AND ts < '{high.isoformat()}'"
    )
    return delta.file_uris(file_pruning_predicate=predicate)


def _open(path: Path) -> DeltaTable:
    for attempt in range(_TRIES):
        try:
            return DeltaTable(str(path))
        except TableNotFoundError as error:  # the first writer may be between the folder and the first commit
            if attempt == _TRIES - 1:
                raise LogReadError(f"{path} exists and is no Delta table: {error}") from error
            time.sleep(0.1)
        except Exception as error:
            raise LogReadError(f"{path} can't be read as a Delta table: {error}") from error
    raise AssertionError("unreachable")


def run(
    sql: str, tables: Mapping[str, tuple[LogPlace, datetime, datetime]], parameters: Mapping[str, Any]
) -> QueryResult | None:
    """Run a query over tables of the log, in the engine that the log is asked by.

    Args:
        sql: The query; a table is read with `{name}`, and a parameter is `$parameter`. It names the columns that it
            needs, or takes all with `SELECT * FROM {name}`.
        tables: Place and time range of each table, by its name in the query. The first one is the leading one.
        parameters: Values of the query's parameters.

    Returns:
        The executed query; None when the first table has no file, or no row, in its range.

    Raises:
        LogReadError: A table or one of its files can't be read.
    """
    for place, _, _ in tables.values():
        if isinstance(place, EngineTable):
            return place.engine.run(sql, _plain(tables), parameters)
    return run_local(sql, tables, parameters)


def columns_of(place: LogPlace, start: datetime, end: datetime) -> list[tuple[str, str]] | None:
    """Name and DuckDB type of a table's columns, as rows with `ts` in [start, end) have them.

    Returns:
        None when the table has no file, or no row, in the range.

    Raises:
        LogReadError: The table can't be read.
    """
    if isinstance(place, EngineTable):
        return place.engine.columns(place.place, start, end)
    described = run_local(_DESCRIBE, {"rows": (place, start, end)}, {})
    return None if described is None else [(str(name), str(kind)) for name, kind, *_ in described.fetchall()]


def _plain(
    tables: Mapping[str, tuple[LogPlace, datetime, datetime]],
) -> dict[str, tuple[LogPlace, datetime, datetime]]:
    return {
        name: (place.place if isinstance(place, EngineTable) else place, start, end)
        for name, (place, start, end) in tables.items()
    }


def run_local(
    sql: str,
    tables: Mapping[str, tuple[LogPlace, datetime, datetime]],
    parameters: Mapping[str, Any],
    database: "duckdb.DuckDBPyConnection | None" = None,
    narrow: Callable[[list[str]], list[str]] | None = None,
) -> "duckdb.DuckDBPyConnection | None":
    """Run a query with DuckDB, whichever engine the log is asked by: for queries that leave tables or files behind.

    Arguments, result and errors as for `run`; the result is a connection, which has what the query made.

    Args:
        sql: As for `run`.
        tables: As for `run`.
        parameters: As for `run`.
        database: Where it is run; None: in an empty database of its own.
        narrow: Given files of a table, those that have what is asked for. The result is never None then.
    """
    import duckdb

    tables, chosen_by = _plain(tables), narrow
    places = ", ".join(str(where[0]) for where in tables.values())
    for attempt in range(_TRIES):
        connection = database
        sources: dict[str, str] = {}
        given = dict(parameters)
        for name, (place, start, end) in tables.items():
            if isinstance(place, Path):
                files = current_files(place, start, end)
                if chosen_by:
                    with suppress(FileNotFoundError):  # vacuumed: reading says so below
                        files = chosen_by(files)
                found = f"read_parquet($files_{name}, union_by_name = true, hive_partitioning = false)" if files else ""
                given |= {f"files_{name}": files} if files else {}
            else:
                assert not isinstance(place, EngineTable)  # noqa: S101 - for the type checker: they are plain
                connection = connection or connect()
                found = _loaded(connection, name, place, start, end, sql)
            if not sources and not found and not narrow:
                return None
            sources[name] = found or f"(SELECT {NO_ROWS[name]} WHERE false)"
        try:
            return (connection or connect()).execute(sql.format(**sources), given)
        except duckdb.IOException as error:  # vacuumed between the listing and the reading: list again
            if attempt == _TRIES - 1:
                raise LogReadError(f"files of {places}: {error}") from error
        except duckdb.Error as error:
            if not chosen_by or not isinstance(error, duckdb.BinderException):
                raise LogReadError(f"query over {places}: {explained(error)}") from error
            chosen_by = None  # a column that only files have that were left out: all of them then
    raise AssertionError("unreachable")


def connect() -> "duckdb.DuckDBPyConnection":
    """An empty database, with times in UTC and bounded memory: a log of any size is read beside a machine's tasks."""
    import duckdb

    return duckdb.connect(config={**_CONFIG, "memory_limit": memory_limit(), "temp_directory": tempfile.gettempdir()})


def _loaded(
    connection: "duckdb.DuckDBPyConnection", name: str, table: LogTable, start: datetime, end: datetime, sql: str
) -> str:
    """A FROM clause for the rows of a table, which are the query's own now; empty when there are none."""
    from model_rollouts.adapters.postgres_log_reader import wanted_by

    # A query that only asks for the columns, or whether there is anything, needs no more than one row.
    limit = 1 if f"{{{name}}}" not in sql or sql.startswith("DESCRIBE") or sql.endswith("LIMIT 0") else None
    with table.fetched(start, end, wanted_by(sql, name), limit) as reader:
        if reader is None:
            return ""
        connection.from_arrow(reader).create(f"log_{name}")
    return f"log_{name}"
