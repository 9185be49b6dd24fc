"""Where a team's own table is: Parquet files, a Delta table, or a table in PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from model_rollouts.adapters.batch_mapping import MappingError, Source
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.query_memory import explained

if TYPE_CHECKING:
    import duckdb
    import psycopg
    import pyarrow as pa

_BATCH = 50_000
_SCHEMES = ("postgresql://", "postgresql+psycopg://", "postgres://")
_HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}  # data files say all there is to know

_WHOLE = ("tinyint", "smallint", "integer", "bigint", "hugeint")
_KINDS = {  # of types, without their length and precision, as DuckDB and PostgreSQL call them
    **dict.fromkeys(("float", "double", "real", "double precision"), "number"),
    **dict.fromkeys(("decimal", "numeric"), "decimal number"),
    **dict.fromkeys((*_WHOLE, *(f"u{name}" for name in _WHOLE)), "whole number"),
    **dict.fromkeys(("varchar", "enum", "text", "character", "character varying", "uuid"), "text"),
    "boolean": "truth",
    "date": "time",
}

SourceColumns: TypeAlias = Mapping[str, str]
"""Column -> "whole number", "decimal number", "number" (a float), "truth", "time", "text" or another type's name."""


class OpenSource(Protocol):
    """A table that can be asked."""

    def columns(self) -> SourceColumns:
        """Its columns, in order.

        Raises:
            LogReadError: It can't be read, or is not there.
        """

    def rows(self, query: str, limit: int | None) -> Iterator[Sequence[Any]]:
        """Rows of a query over `{source}`."""

    def batches(self, query: str, schema: "pa.Schema", limit: int | None) -> "Iterator[pa.RecordBatch]":
        """The same as Arrow batches of a schema."""


def opened(source: Source, url: str) -> OpenSource:
    """A source to ask.

    Args:
        source: Which.
        url: Of the database, for one in PostgreSQL.

    Raises:
        MappingError: It needs a database and there is no URL, or one of something else.
    """
    if source.kind != "postgresql":
        return FileSource(source)
    if not url:
        raise MappingError(f"{source} needs a database: set MODEL_ROLLOUTS_BATCH_URL to postgresql://...")
    if not url.startswith(_SCHEMES):  # what is wrong with it is not quoted: there may be a password in it
        raise MappingError(f"{source} needs a database and the URL is of another scheme, must be postgresql://...")
    return PostgresSource(source, url)


class FileSource:
    """Implements `OpenSource` with DuckDB."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def columns(self) -> SourceColumns:
        """See `OpenSource`."""
        return {str(name): _kind(str(kind)) for name, kind, *_ in self.rows("DESCRIBE SELECT * FROM {source}", None)}

    def rows(self, query: str, limit: int | None) -> Iterator[Sequence[Any]]:
        """See `OpenSource`."""
        with self._asked(query, limit) as result:
            yield from result.fetchall()

    def batches(self, query: str, schema: "pa.Schema", limit: int | None) -> "Iterator[pa.RecordBatch]":
        """See `OpenSource`."""
        with self._asked(query, limit) as result:
            reader: pa.RecordBatchReader = result.to_arrow_reader(_BATCH)
            for batch in reader:
                yield batch.cast(schema)

    @contextmanager
    def _asked(self, query: str, limit: int | None) -> "Iterator[duckdb.DuckDBPyRelation]":
        import duckdb

        from model_rollouts.adapters.delta_files import connect

        text = query.format(source="read_parquet($files, union_by_name = true, hive_partitioning = true)")
        try:
            with connect() as connection:
                limited = text if limit is None else f"{text} LIMIT {int(limit)}"
                yield connection.sql(limited, params={"files": self._files()})
        except duckdb.Error as error:
            raise LogReadError(f"{self._source} can't be read: {explained(error)}") from error

    def _files(self) -> list[str]:
        if self._source.kind == "parquet":
            return [self._source.place]
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            delta = DeltaTable(self._source.place)
        except DeltaError as error:
            raise LogReadError(f"{self._source} can't be read as a Delta table: {error}") from error
        if features := set(delta.protocol().reader_features or ()) - _HARMLESS:
            # Deleted rows and renamed columns live outside the data files, which are all that is read here.
            raise LogReadError(f"{self._source} uses Delta features {', '.join(sorted(features))}; rewrite it without")
        if files := delta.file_uris():
            return files
        raise LogReadError(f"{self._source} has no file; nothing was written to it yet")


class PostgresSource:
    """Implements `OpenSource` with psycopg; rows are streamed."""

    def __init__(self, source: Source, url: str) -> None:
        self._source = source
        self._url = url.replace("postgresql+psycopg://", "postgresql://", 1)

    def columns(self) -> SourceColumns:
        """See `OpenSource`."""
        from psycopg import sql

        name = sql.Literal(self._name().as_string(None))
        query = sql.SQL(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ).format(name)
        with self._connection() as connection:
            found = connection.execute(query).fetchall()
        if not found:
            raise LogReadError(f"{self._source} is not there, or has no column")
        return {str(column): _kind(str(kind)) for column, kind in found}

    def rows(self, query: str, limit: int | None) -> Iterator[Sequence[Any]]:
        """See `OpenSource`."""
        text = query.format(source=self._name().as_string(None))
        with self._connection() as connection, connection.cursor(name="rollouts") as cursor:
            cursor.itersize = _BATCH
            limited = text if limit is None else f"{text} LIMIT {int(limit)}"
            yield from cursor.execute(limited)

    def batches(self, query: str, schema: "pa.Schema", limit: int | None) -> "Iterator[pa.RecordBatch]":
        """See `OpenSource`."""
        import pyarrow as pa

        kept: list[Sequence[Any]] = []

        def made() -> "pa.RecordBatch":
            columns = zip(*kept, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            return pa.RecordBatch.from_arrays(arrays, schema=schema)

        for row in self.rows(query, limit):
            kept.append(row)
            if len(kept) == _BATCH:
                yield made()
                kept.clear()
        if kept:
            yield made()

    def _name(self) -> Any:
        from psycopg import sql

        return sql.Identifier(*self._source.place.split("."))

    @contextmanager
    def _connection(self) -> "Iterator[psycopg.Connection[tuple[Any, ...]]]":
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = conninfo_to_dict(self._url)
        except psycopg.Error:  # it quotes the URL, and so does whoever shows what it came from
            given = None
        if given is None:
            raise LogReadError(
                f"{self._source} can't be read: the URL of its database can't be taken apart, must be "
                "postgresql://user:password@host:port/database with %-escapes for what is special in it"
            )
        try:
            with psycopg.connect(self._url, connect_timeout=10, options="-c TimeZone=UTC") as connection:
                connection.read_only = True
                yield connection
        except psycopg.Error as error:
            raise LogReadError(f"{self._source} can't be read: {error}") from error


def _kind(name: str) -> str:
    """What a column of a type holds; the type's own name where that is nothing known, as for lists."""
    if name.endswith("]"):
        return name
    plain = name.partition("(")[0].strip().lower()
    return "time" if plain.startswith("timestamp") else _KINDS.get(plain, name)
