"""Answers of both versions to the same logged requests, seen as a prediction log: rows of a file, outcomes of a log."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from model_rollouts.adapters.delta_schema import FEATURE_PREFIX, SCHEMAS, LogContractError, TableName
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import EngineTable, LogAppender, LogPlace, LogRoot, LogTable, log_table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_SLACK = timedelta(seconds=1)
_BATCH = 50_000


@dataclass(frozen=True, slots=True)
class PairedLog:
    """Implements `LogStore`, for reading with DuckDB.

    Attributes:
        file: Parquet with the contract's columns, `day` left out.
        outcomes: The log that has the outcomes.
    """

    file: Path
    outcomes: LogRoot

    def table(self, model: str, table: TableName) -> LogTable:
        """A model's table."""
        if table == "predictions":
            return FileRows(self.file)
        place: LogPlace = log_table(self.outcomes, model, table)
        return place.place if isinstance(place, EngineTable) else place  # type: ignore[return-value]

    def appender(self, app_id: str) -> LogAppender:
        """Nobody writes to it.

        Raises:
            LogContractError: Always.
        """
        raise LogContractError(f"{app_id} can't write to {self.file}, which is only read")


@dataclass(frozen=True, slots=True)
class FileRows:
    """Implements `LogTable` on a Parquet file."""

    file: Path

    @contextmanager
    def fetched(
        self, start: datetime, end: datetime, wanted: Callable[[str], bool], limit: int | None = None
    ) -> "Iterator[pa.RecordBatchReader | None]":
        """See `LogTable`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.file) as parquet:
                fields = [field for field in parquet.schema_arrow if field.name == "ts" or wanted(field.name)]
                found = _between(parquet, [field.name for field in fields], start - _SLACK, end + _SLACK)
                rows = found if limit is None else islice((batch.slice(0, limit) for batch in found), 1)
                first = next(rows, None)
                yield (
                    None
                    if first is None
                    else pa.RecordBatchReader.from_batches(pa.schema(fields), chain([first], rows))
                )
        except (OSError, pa.ArrowException) as error:
            raise LogReadError(f"{self.file} can't be read: {error}") from error

    def __str__(self) -> str:
        return str(self.file)


def _between(
    parquet: "pq.ParquetFile", columns: Sequence[str], start: datetime, end: datetime
) -> "Iterator[pa.RecordBatch]":
    """Rows with `ts` in [start, end); no batch is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    low, high = (pa.scalar(moment, pa.timestamp("us", tz="UTC")) for moment in (start, end))
    for batch in parquet.iter_batches(_BATCH, columns=list(columns)):
        ts = batch.column("ts")
        found = batch.filter(pc.and_(pc.greater_equal(ts, low), pc.less(ts, high)))
        if found.num_rows:
            yield found.select(list(columns))


class PairedRows:
    """Writes the file of a `PairedLog`. Close it.

    Args:
        file: Is made.
        features: Type of each input's column in the log, by its name.
        fixed: Values that all rows have.
    """

    def __init__(self, file: Path, features: Mapping[str, "pa.DataType"], fixed: Mapping[str, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        own = [field for field in SCHEMAS["predictions"] if field.name != "day"]
        self._schema = pa.schema([*own, *(pa.field(name, kind) for name, kind in features.items())])
        self._fixed = dict(fixed)
        self._writer: pq.ParquetWriter = pq.ParquetWriter(file, self._schema)

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._writer.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; a column that a row does not name is null."""
        import pyarrow as pa

        names = self._schema.names
        made = [{**self._fixed, **row} for row in rows]
        columns = {name: [row.get(name) for row in made] for name in names}
        self._writer.write_table(pa.table(columns, schema=self._schema))


def input_types(schema: "pa.Schema") -> dict[str, "pa.DataType"]:
    """The inputs' columns of a schema, with their types."""
    return {field.name: field.type for field in schema if field.name.startswith(FEATURE_PREFIX)}
