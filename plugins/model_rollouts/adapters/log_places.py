"""Where the prediction log is: a folder of Delta tables, or PostgreSQL. What differs between the two, and no more.

The queries are DuckDB's in either case, so that both logs give the same numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
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


LogRoot: TypeAlias = Path | LogStore
LogPlace: TypeAlias = Path | LogTable


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
