"""Where the prediction log is, a folder of Delta tables or PostgreSQL, and which engine is asked. No more differs.

The queries are DuckDB's in any case, so that all logs and engines give the same numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from model_rollouts.adapters.delta_schema import TableName, table_path

if TYPE_CHECKING:
    import pyarrow as pa


class LogTable(Protocol):
    """A model's table that is no folder."""

    def fetched(
        self, start: datetime, end: datetime, wanted: Callable[[str], bool], limit: int | None = None
    ) -> "AbstractContextManager[pa.RecordBatchReader | None]":
        """The rows with `ts` in [start, end), with the columns that are wanted; None where there are none.

        Raises:
            LogReadError: The table is there and can't be read.
        """


class LogAppender(Protocol):
    """Writes one process's rows, each batch exactly once."""

    def append(self, model: str, table: TableName, rows: Sequence[Mapping[str, Any]], version: int) -> bool:
        """See `DeltaLogWriter.append`."""


class LogStore(Protocol):
    """A log that is no folder."""

    def table(self, model: str, table: TableName) -> LogTable:
        """A model's table, whether it is there yet or not."""

    def appender(self, app_id: str) -> LogAppender:
        """A writer of this log."""


class QueryResult(Protocol):
    """What a query gave. DuckDB's connection is one."""

    @property
    def description(self) -> Any:
        """Name and more of each column, as the database API for Python has it."""

    def fetchall(self) -> list[Any]:
        """The rows, as tuples."""

    def df(self) -> Any:
        """The rows, as a frame of pandas."""


class QueryEngine(Protocol):
    """Runs the log's queries where the log is."""

    def run(
        self, sql: str, tables: "Mapping[str, tuple[LogPlace, datetime, datetime]]", parameters: Mapping[str, Any]
    ) -> QueryResult | None:
        """See `delta_files.run`."""

    def columns(self, place: "LogPlace", start: datetime, end: datetime) -> list[tuple[str, str]] | None:
        """See `delta_files.columns_of`."""


@dataclass(frozen=True, slots=True)
class EngineTable:
    """A model's table that is asked by an engine of its own.

    Attributes:
        place: Where it is.
        engine: Who is asked.
    """

    place: "LogPlace"
    engine: QueryEngine

    def __str__(self) -> str:
        return str(self.place)


@dataclass(frozen=True, slots=True)
class EngineLog:
    """A log that is asked by another engine than DuckDB, and written as it is.

    Attributes:
        root: The log.
        engine: Who is asked.
    """

    root: "Path | LogStore"
    engine: QueryEngine

    def table(self, model: str, table: TableName) -> EngineTable:
        """A model's table, whether it is there yet or not."""
        return EngineTable(log_table(self.root, model, table), self.engine)

    def appender(self, app_id: str) -> LogAppender:
        """A writer of this log."""
        return log_appender(self.root, app_id)


LogRoot: TypeAlias = Path | LogStore | EngineLog
LogPlace: TypeAlias = Path | LogTable | EngineTable


def log_table(root: LogRoot, model: str, table: TableName) -> LogPlace:
    """A model's table in a log.

    Raises:
        LogContractError: The name is empty, the table unknown, or the root can't hold it.
    """
    return table_path(root, model, table) if isinstance(root, Path) else root.table(model, table)


def log_appender(root: LogRoot, app_id: str) -> LogAppender:
    """A writer for an application id, which no two living writers may share."""
    if not isinstance(root, Path):
        return root.appender(app_id)
    from model_rollouts.adapters.delta_writer import DeltaLogWriter

    return DeltaLogWriter(root.absolute(), app_id)
