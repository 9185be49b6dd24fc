"""A team's own tables, seen as a prediction log: rows of one rollout, `ROLLOUT`, with one stage. Nothing is copied.

Its queries are DuckDB's, as those of any log; a PostgreSQL source is asked for the columns that a query names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.batch_mapping import STATUSES, BatchMapping, MappingError, TableMapping
from model_rollouts.adapters.delta_schema import SCHEMAS, LogContractError, TableName
from model_rollouts.adapters.log_places import LogAppender
from model_rollouts.adapters.mapped_sources import SourceColumns, opened

if TYPE_CHECKING:
    import pyarrow as pa

ROLLOUT, STAGE = "batch", 0
_SLACK = timedelta(seconds=1)
_CONSTANT = {"cohort": None, "rollout_id": ROLLOUT, "stage": STAGE, "gateway_id": "mapped", "traffic_revision": 1}
_NULLS = "SELECT {} FROM {{source}}"
_NUMBERS = ("number", "whole number", "decimal number", "truth")
_STATUSES = (
    "SELECT {status}, count(*) FROM {{source}} WHERE {condition} AND ({status} IS NULL OR {status} NOT IN ({known})) "
    "GROUP BY {status} ORDER BY count(*) DESC LIMIT 5"
)
_VERSIONS = "SELECT {version}, count(*) FROM {{source}} GROUP BY {version} ORDER BY count(*) DESC LIMIT 10"


class MappedLog:
    """Implements `LogStore`, for reading.

    Args:
        mapping: Whose tables.
        champion: Version that plays the champion.
        challenger: Version that plays the challenger. Rows of other versions are left out.
        url: Database of a PostgreSQL source.
        answered: Whether the challenger has rows; without, it is to be asked.

    Raises:
        MappingError: A table has no such column or one of another type, or lacks a value that each row must have.
        LogReadError: A table can't be read.
    """

    def __init__(
        self, mapping: BatchMapping, champion: str, challenger: str, url: str = "", *, answered: bool = True
    ) -> None:
        if champion == challenger:
            raise MappingError(f"version {champion} is champion and challenger, must be two versions")
        self.mapping = mapping
        versions = {"champion": champion, "challenger": challenger}
        self._tables = {"predictions": MappedTable(mapping.predictions, mapping, versions, url)}
        if mapping.outcomes is not None:
            self._tables["outcomes"] = MappedTable(mapping.outcomes, mapping, versions, url)
        for table in self._tables.values():
            table.check(("champion", "challenger") if answered else ("champion",))

    def table(self, model: str, table: TableName) -> "MappedTable | NoTable":
        """A model's table.

        Raises:
            LogContractError: The mapping is of another model.
        """
        if model != self.mapping.model:
            raise LogContractError(f"the mapping is of model {self.mapping.model!r}, not of {model!r}; name that one")
        return self._tables.get(table, NoTable())

    def appender(self, app_id: str) -> LogAppender:
        """Nobody writes to a team's own table.

        Raises:
            LogContractError: Always.
        """
        raise LogContractError(f"{app_id} can't write to a mapped table; it is only read")


class NoTable:
    """Implements `LogTable` where there is none."""

    @contextmanager
    def fetched(
        self, start: datetime, end: datetime, wanted: Callable[[str], bool], limit: int | None = None
    ) -> "Iterator[pa.RecordBatchReader | None]":
        """See `LogTable`."""
        yield None

    def __str__(self) -> str:
        return "no table"


class MappedTable:
    """Implements `LogTable`.

    Args:
        mapping: The table's.
        whole: Of both tables.
        versions: Arm -> version.
        url: Database of a PostgreSQL source.
    """

    def __init__(self, mapping: TableMapping, whole: BatchMapping, versions: Mapping[str, str], url: str) -> None:
        self._mapping, self._versions = mapping, versions
        self._source = opened(mapping.source, url)
        self._given = self._source.columns()
        self._expressions = _Expressions(mapping, whole, versions, self._given)

    def check(self, arms: Sequence[str]) -> None:
        """Refuse a table in which rows lack what every row must have.

        Args:
            arms: Whose versions must have rows.

        Raises:
            MappingError: Names the column, and how many rows.
            LogReadError: The table can't be read.
        """
        made = self._expressions.made
        needed = [name for name in ("request_id", "ts", "version") if name in made and self._mapping.columns.get(name)]
        if self._mapping.table == "outcomes":
            needed = [name for name in needed if name != "ts"]  # an outcome without a time is not known yet
        counts = ", ".join(["count(*)", *(f"count(*) - count({made[name]})" for name in needed)])
        row = next(iter(self._source.rows(_NULLS.format(counts), None)), None)
        if row is None or not row[0]:
            raise MappingError(f"{self._mapping.source} has no row; nothing can be compared")
        for name, missing in zip(needed, row[1:], strict=True):
            if missing:
                raise MappingError(
                    f"{self._mapping.table}.columns.{name}: column {self._mapping.columns[name]!r} of "
                    f"{self._mapping.source} is empty in {missing:,} of {row[0]:,} rows; each row needs a value"
                )
        if self._mapping.table == "predictions" and "version" in self._mapping.columns:
            self._require_versions(made["version"], arms)
        if "status" in self._mapping.columns:
            self._require_statuses(made["status"])

    def _require_versions(self, version: str, arms: Sequence[str]) -> None:
        found = {str(value): int(n) for value, n in self._source.rows(_VERSIONS.format(version=version), None)}
        for arm in arms:
            wanted = self._versions[arm]
            if wanted not in found and len(found) < 10:  # noqa: PLR2004 - the query's limit: there may be more
                told = ", ".join(f"{value} ({n:,} rows)" for value, n in found.items())
                raise MappingError(f"{self._mapping.source} has no row of version {wanted}, the {arm}; it has {told}")

    def _require_statuses(self, status: str) -> None:
        """Whatever is not "ok" counts as a failure, so another word for it would make one of every row."""
        known = ", ".join(map(_literal, STATUSES))
        query = _STATUSES.format(status=status, condition=self._expressions.condition, known=known)
        if found := list(self._source.rows(query, None)):
            told = ", ".join(f"{'nothing' if value is None else repr(value)} ({n:,} rows)" for value, n in found)
            raise MappingError(
                f"{self._mapping.table}.columns.status: column {self._mapping.columns['status']!r} of "
                f"{self._mapping.source} has {told}, must be {', '.join(STATUSES[:-1])} or {STATUSES[-1]}; "
                "map a view that says so, or leave status out: then a row without a prediction is an error"
            )

    @contextmanager
    def fetched(
        self, start: datetime, end: datetime, wanted: Callable[[str], bool], limit: int | None = None
    ) -> "Iterator[pa.RecordBatchReader | None]":
        """See `LogTable`."""
        import pyarrow as pa

        for moment in (start, end):
            if moment.tzinfo is None:
                raise ValueError(f"time is {moment.isoformat()} without a zone; give UTC")
        made = self._expressions.made
        fields = [field for field in self._expressions.schema if field.name == "ts" or wanted(field.name)]
        names = ", ".join(f"{made[field.name]} AS {_quoted(field.name)}" for field in fields)
        low, high = (start - _SLACK).isoformat(), (end + _SLACK).isoformat()
        query = (
            f"SELECT {names} FROM {{source}} WHERE {made['ts']} >= CAST('{low}' AS TIMESTAMPTZ) "  # noqa: S608
            f"AND {made['ts']} < CAST('{high}' AS TIMESTAMPTZ) AND {self._expressions.condition}"
        )
        batches = self._source.batches(query, pa.schema(fields), limit)
        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            yield None
        else:
            yield pa.RecordBatchReader.from_batches(pa.schema(fields), chain([first], batches))

    def __str__(self) -> str:
        return str(self._mapping.source)


class _Expressions:
    """SQL for each column of the contract, which both DuckDB and PostgreSQL take."""

    def __init__(
        self, mapping: TableMapping, whole: BatchMapping, versions: Mapping[str, str], given: SourceColumns
    ) -> None:
        import pyarrow as pa

        self._mapping, self._given, self._versions = mapping, given, versions
        self.made: dict[str, str] = {}
        self.condition = "true"
        types = {field.name: field.type for field in SCHEMAS[mapping.table] if field.name != "day"}
        self._contract(whole, types)
        for name, column in mapping.features.items():
            kind = self._kind(("features", name), column)
            types[name] = pa.float64() if kind in _NUMBERS else pa.string()
            self.made[name] = self._number(column, kind) if types[name] == pa.float64() else self._text(column, kind)
        self.schema = [pa.field(name, kind) for name, kind in types.items()]

    def _contract(self, whole: BatchMapping, types: Mapping[str, Any]) -> None:
        mapping = self._mapping
        for name, kind in types.items():
            if name in mapping.columns:
                self.made[name] = self._column(name, mapping.columns[name], str(kind))
            elif name in mapping.constants:
                self.made[name] = _typed(mapping.constants[name], str(kind))
            elif name in _CONSTANT:
                self.made[name] = _typed(_CONSTANT[name], str(kind))
            else:
                self.made[name] = _typed(None, str(kind))
        if mapping.table == "outcomes":
            if "ts" not in mapping.columns:  # of the predictions' own table: known with the prediction
                column = whole.predictions.columns["ts"]
                self.made["ts"] = self._column("ts", column, "timestamp[us, tz=UTC]")
            names = [self.made[name] for name in ("label", "value") if name in (*mapping.columns, *mapping.constants)]
            self.condition = f"({' OR '.join(f'{name} IS NOT NULL' for name in names)})"
            return
        self.made["model"] = _typed(whole.model, "string")
        if "arm" in mapping.columns:
            self.made["arm"] = _case(self.made["arm"], mapping.arms)
            self.made["version"] = _case(self.made["arm"], self._versions)
        else:
            self.made["arm"] = _case(self.made["version"], {version: arm for arm, version in self._versions.items()})
        self.made["cohort"] = self.made["arm"]
        self.condition = f"({self.made['arm']}) IS NOT NULL"
        known = {*mapping.columns, *mapping.constants}
        if "status" not in known:  # a row without an answer is a failure
            self.made["status"] = f"CASE WHEN ({self.made['prediction']}) IS NULL THEN 'error' ELSE 'ok' END"
        if "latency_ms" not in known:  # the same for both versions, so that nothing is found in it
            self.made["latency_ms"] = _typed(1.0, "double")
        if "served" not in known:
            self.made["served"] = "true"

    def _column(self, name: str, column: str, kind: str) -> str:
        found = self._kind(("columns", name), column)
        if kind.startswith("timestamp"):
            if found not in ("time", "text"):
                raise self._wrong(("columns", name), column, "a time, or text in ISO 8601")
            return f"CAST({_quoted(column)} AS TIMESTAMPTZ)"
        if kind == "double":
            if found not in _NUMBERS:
                raise self._wrong(("columns", name), column, "a number")
            return self._number(column, found)
        if kind == "bool":
            if found != "truth":
                raise self._wrong(("columns", name), column, "true or false")
            return _quoted(column)
        return self._text(column, found)

    def _kind(self, at: tuple[str, str], column: str) -> str:
        if column not in self._given:
            raise MappingError(
                f"{self._mapping.table}.{at[0]}.{at[1].removeprefix('f_')} is {column!r}, which {self._mapping.source} "
                f"does not have; it has {', '.join(self._given)}"
            )
        return self._given[column]

    def _wrong(self, at: tuple[str, str], column: str, must: str) -> MappingError:
        return MappingError(
            f"{self._mapping.table}.{at[0]}.{at[1]}: column {column!r} of {self._mapping.source} is "
            f"{self._given[column]}, must be {must}"
        )

    def _number(self, column: str, kind: str) -> str:
        if kind == "truth":
            return f"CASE WHEN {_quoted(column)} THEN 1.0 WHEN NOT {_quoted(column)} THEN 0.0 END"
        return f"CAST({_quoted(column)} AS DOUBLE PRECISION)"

    def _text(self, column: str, kind: str) -> str:
        """The canonical text of docs/contracts.md: whole numbers without a fraction, 1 and 0 for true and false."""
        name = _quoted(column)
        if kind == "truth":
            return f"CASE WHEN {name} THEN '1' WHEN NOT {name} THEN '0' END"
        if kind not in ("number", "decimal number"):
            return f"CAST({name} AS VARCHAR)"  # of whole numbers too: ids beyond 9e15 would be alike as doubles
        number = f"CAST({name} AS DOUBLE PRECISION)"
        if kind == "number":
            condition, whole = f"abs({number}) < 9e15 AND {number} = floor({number})", f"CAST({number} AS BIGINT)"
        else:
            condition, whole = f"abs({name}) < 1e37 AND {name} = floor({name})", f"CAST({name} AS DECIMAL(38, 0))"
        return (
            f"CASE WHEN lower(CAST({name} AS VARCHAR)) = 'nan' THEN NULL "
            f"WHEN {condition} THEN CAST({whole} AS VARCHAR) ELSE CAST({number} AS VARCHAR) END"
        )


_SQL_TYPES = {"string": "VARCHAR", "double": "DOUBLE PRECISION", "bool": "BOOLEAN", "int32": "INTEGER",
              "int64": "BIGINT"}  # fmt: skip


def _typed(value: Any, kind: str) -> str:
    name = "TIMESTAMPTZ" if kind.startswith("timestamp") else _SQL_TYPES[kind]
    return f"CAST({_literal(value)} AS {name})"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return "'" + str(value).replace("'", "''").replace("{", "{{").replace("}", "}}") + "'"


def _case(value: str, choices: Mapping[str, str]) -> str:
    cases = " ".join(f"WHEN {_literal(one)} THEN {_literal(other)}" for one, other in choices.items())
    return f"CASE ({value}) {cases} END"


def _quoted(column: str) -> str:
    """A column's name in a query that is still to be filled in."""
    return '"' + column.replace('"', '""').replace("{", "{{").replace("}", "}}") + '"'
