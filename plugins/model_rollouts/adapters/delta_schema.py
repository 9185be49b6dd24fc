"""The log's contract as Arrow: where the tables are, what their columns are, and how rows become columns.

docs/contracts.md says what the columns mean. Everything that a table could not hold is refused here, before
anything is written.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa

from model_rollouts.core.errors import RolloutError

TableName = Literal["predictions", "outcomes"]

FEATURE_PREFIX = "f_"
EARLIEST = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
LATEST = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
# Delta's kernel treats a table's path as a URL and decodes it, so that a "%" or a blank in it names another folder.
_SAFE_PATH = re.compile(r"[A-Za-z0-9._~/+@=,:!-]*")

_TIMESTAMP = pa.timestamp("us", tz="UTC")


def _column(name: str, kind: pa.DataType, *, required: bool = True) -> pa.Field:
    # Delta columns stay nullable, so that another engine's rows can be read and then be found wanting by the data
    # checks; this writer refuses nulls by itself.
    return pa.field(name, kind, nullable=True, metadata={"required": str(required)})


SCHEMAS: Mapping[TableName, pa.Schema] = {
    "predictions": pa.schema(
        [
            _column("day", pa.date32()),
            _column("request_id", pa.string()),
            _column("ts", _TIMESTAMP),
            _column("model", pa.string()),
            _column("version", pa.string()),
            _column("arm", pa.string()),
            _column("cohort", pa.string(), required=False),
            _column("served", pa.bool_()),
            _column("rollout_id", pa.string(), required=False),
            _column("stage", pa.int32(), required=False),
            _column("unit_id", pa.string(), required=False),
            _column("status", pa.string()),
            _column("error", pa.string(), required=False),
            _column("latency_ms", pa.float64()),
            _column("prediction", pa.string(), required=False),
            _column("score", pa.float64(), required=False),
            _column("gateway_id", pa.string()),
            _column("traffic_revision", pa.int64()),
        ]
    ),
    "outcomes": pa.schema(
        [
            _column("day", pa.date32()),
            _column("request_id", pa.string()),
            _column("ts", _TIMESTAMP),
            _column("label", pa.string(), required=False),
            _column("value", pa.float64(), required=False),
        ]
    ),
}


class LogContractError(RolloutError, ValueError):
    """Rows that the log can't hold as they are; writing them again would fail again."""


def table_path(root: Path, model: str, table: TableName) -> Path:
    """The folder of a model's table: `<root>/<model, quoted>/<table>`.

    The name is URL-quoted with "~" in the place of "%", which Delta's kernel would decode.

    Raises:
        LogContractError: The name is empty, the table unknown, or the root has characters Delta can't keep.
    """
    if not model:
        raise LogContractError("the model name is empty; give the registered model's name")
    if table not in SCHEMAS:
        raise LogContractError(f"table is {table!r}, must be one of {', '.join(SCHEMAS)}")
    if not _SAFE_PATH.fullmatch(str(root)):
        raise LogContractError(
            f"log folder is {str(root)!r}; Delta paths can't hold blanks, %, #, ?, brackets or letters beyond ASCII: "
            "choose another folder"
        )
    quoted = quote(model, safe="").replace("~", "%7E").replace("%", "~")
    return root / (f"~2E{quoted[1:]}" if quoted.startswith(".") else quoted) / table


def feature_column(name: str) -> str:
    """The log's column of a model input."""
    return f"{FEATURE_PREFIX}{name}"


def to_arrow(table: TableName, rows: Sequence[Mapping[str, Any]], existing: Mapping[str, str]) -> pa.Table:
    """Rows as one Arrow table, with every column that the Delta table has.

    Args:
        table: Which contract the rows follow.
        rows: At least one; `day` is made from `ts`, and `features` (a mapping) becomes one column a feature.
        existing: Name and Delta type ("double", "string", ...) of each column that the Delta table has.

    Raises:
        LogContractError: A row breaks the contract; the message names the column and the value.
    """
    schema = SCHEMAS[table]
    _refuse_unknown(table, rows)
    columns: dict[str, pa.Array] = {}
    for field in schema:
        if field.name == "day":
            continue
        values = [row.get(field.name) for row in rows]
        if field.name == "ts":
            values = [None if value is None else _microseconds(value) for value in values]
        columns[field.name] = _array(field, values)
    columns["day"] = columns["ts"].cast(pa.date32())
    if table == "predictions":
        columns |= _features(rows, existing)
    return assemble(table, columns, existing)


def assemble(table: TableName, columns: Mapping[str, pa.Array], existing: Mapping[str, str]) -> pa.Table:
    """The contract's columns in its order, then those of features by name; null where only the log has a column.

    Args:
        table: Which contract the columns follow; all of its own are there.
        columns: Values by name, equally many.
        existing: Name and type of each column that the log's table has.
    """
    size = len(columns["ts"])
    made = dict(columns)
    for name, kind in existing.items():
        if name not in made:
            made[name] = pa.nulls(size, pa.float64() if kind == "double" else pa.string())
    own = SCHEMAS[table].names
    return pa.table({name: made[name] for name in [*own, *sorted(set(made) - set(own))]})


def is_required(field: pa.Field) -> bool:
    """Whether a column of the contract must have a value in every row."""
    return bool(field.metadata[b"required"] == b"True")


def _refuse_unknown(table: TableName, rows: Iterable[Mapping[str, Any]]) -> None:
    """A key that has no column would be lost without a word."""
    known = set(SCHEMAS[table].names) - {"day"} | ({"features"} if table == "predictions" else set())
    for row in rows:
        if unknown := sorted(set(row) - known):
            raise LogContractError(f"{table} have no column {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _array(field: pa.Field, values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values, type=field.type)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise LogContractError(f"column {field.name} can't hold one of its values as {field.type}: {error}") from error
    if array.null_count and is_required(field):
        raise LogContractError(
            f"column {field.name} is empty in {array.null_count} of {len(values)} rows; give a value"
        )
    return array


def _microseconds(value: Any) -> int:
    """Microseconds since 1970 of an integer, an ISO 8601 text or a datetime; one without a zone is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise LogContractError(f"ts is {value!r}, must be ISO 8601, such as 2026-01-31T12:00:00Z") from error
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        since = aware - datetime(1970, 1, 1, tzinfo=UTC)
        value = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not isinstance(value, int) or isinstance(value, bool):
        raise LogContractError(f"ts is {value!r}, must be microseconds since 1970, ISO 8601 text or a datetime")
    if not EARLIEST <= value < LATEST:
        raise LogContractError(f"ts is {value} microseconds since 1970, must be in the years 2000 to 2199")
    return value


def _features(rows: Sequence[Mapping[str, Any]], existing: Mapping[str, str]) -> dict[str, pa.Array]:
    names: dict[str, None] = {}
    for row in rows:
        features = row.get("features") or {}
        if not isinstance(features, Mapping) or not all(isinstance(name, str) for name in features):
            raise LogContractError(f"features is {features!r:.200}, must be a mapping from names to values")
        names.update(dict.fromkeys(features))
    spelled = {name.lower(): name for name in existing}
    columns: dict[str, pa.Array] = {}
    for name in names:
        column = feature_column(name)
        other = spelled.setdefault(column.lower(), column)
        if other != column:
            raise LogContractError(f"columns {other} and {column} differ in case alone, which Delta can't hold; rename")
        array = _feature(column, [(row.get("features") or {}).get(name) for row in rows], existing.get(column))
        if array is not None:
            columns[column] = array
    return columns


def _feature(column: str, values: list[Any], kind: str | None) -> pa.Array | None:
    """One feature's values; None while nothing but nulls came and its type is unknown."""
    numbers = [value for value in values if isinstance(value, (Real, Decimal))]
    texts = [value for value in values if value is not None and not isinstance(value, (Real, Decimal))]
    if not numbers and not texts:
        return None
    if numbers and texts:
        raise LogContractError(f"column {column} gets numbers ({numbers[0]!r}) and text ({texts[0]!r:.80}) at once")
    found = "double" if numbers else "string"
    if kind is not None and kind != found:
        raise LogContractError(
            f"column {column} is {kind} in the log and the value {(numbers or texts)[0]!r:.80} is {found}; "
            "send it as before, or give the changed input another name"
        )
    convert: Callable[[Any], Any] = _number if numbers else logged_text
    return pa.array(
        [None if value is None else convert(value) for value in values], pa.float64() if numbers else pa.string()
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond a double: huge stays huge
        return math.inf if value > 0 else -math.inf


def logged_text(value: Any) -> str:
    """A value that is no number, as the log has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value.hex() if isinstance(value, bytes) else str(value)
