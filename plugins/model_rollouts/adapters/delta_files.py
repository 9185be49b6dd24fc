"""Queries over a Delta table's current files with DuckDB, without DuckDB's own Delta extension."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from model_rollouts.core.errors import RolloutError

if TYPE_CHECKING:
    import duckdb

_TRIES = 3
_STATS_SLACK = timedelta(seconds=1)  # engines may cut the statistics' timestamps to milliseconds
_NO_ROWS = {
    "outcomes": "NULL::VARCHAR AS request_id, NULL::TIMESTAMPTZ AS ts, NULL::VARCHAR AS label, NULL::DOUBLE AS value",
}
_CONFIG = {"autoinstall_known_extensions": "false", "TimeZone": "UTC"}


class LogReadError(RolloutError):
    """The log is there and can't be read. Never to be taken for an empty log."""


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
    sql: str, tables: Mapping[str, tuple[Path, datetime, datetime]], parameters: Mapping[str, Any]
) -> "duckdb.DuckDBPyConnection | None":
    """Run a query over tables of the log.

    Args:
        sql: The query; a table is read with `{name}`, and a parameter is `$parameter`.
        tables: Folder and time range of each table, by its name in the query. The first one is the leading one.
        parameters: Values of the query's parameters.

    Returns:
        The executed query; None when the first table has no file in its range.

    Raises:
        LogReadError: A table or one of its files can't be read.
    """
    import duckdb

    for attempt in range(_TRIES):
        files = {name: current_files(*where) for name, where in tables.items()}
        leading = next(iter(files.values()))
        if not leading:
            return None
        connection = duckdb.connect(config={**_CONFIG, "temp_directory": tempfile.gettempdir()})
        sources = {name: _source(name, found) for name, found in files.items()}
        given = {**parameters, **{f"files_{name}": found for name, found in files.items() if found}}
        try:
            return connection.execute(sql.format(**sources), given)
        except duckdb.IOException as error:  # vacuumed between the listing and the reading: list again
            if attempt == _TRIES - 1:
                raise LogReadError(f"files of {', '.join(str(w[0]) for w in tables.values())}: {error}") from error
        except duckdb.Error as error:
            raise LogReadError(f"query over {', '.join(str(w[0]) for w in tables.values())}: {error}") from error
    raise AssertionError("unreachable")


def _source(name: str, files: Sequence[str]) -> str:
    """A FROM clause; columns that an older file lacks are null."""
    if files:
        return f"read_parquet($files_{name}, union_by_name = true, hive_partitioning = false)"
    return f"(SELECT {_NO_ROWS[name]} WHERE false)"
