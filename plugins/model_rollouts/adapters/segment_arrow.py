"""JSON lines as an Arrow table without a loop over the rows, and without holding up the interpreter's other threads.

Only the usual is read here, and it comes out as `delta_schema.to_arrow` has it. Whatever is not usual (damaged lines,
values of another type, doubled keys, nested inputs, numbers beyond a double) is left to that function, which knows
what to do with it or says what is wrong.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from model_rollouts.adapters.delta_schema import (
    EARLIEST,
    FEATURE_PREFIX,
    LATEST,
    SCHEMAS,
    TableName,
    assemble,
    feature_column,
    is_required,
)
from model_rollouts.adapters.json_lines import JsonLines

_HINT_LINES = 32  # enough to see a value of most inputs; one that is not seen here is inferred by Arrow
_KINDS = {"double": pa.float64(), "string": pa.string()}


def columnar(table: TableName, rows: Sequence[Mapping[str, Any]], existing: Mapping[str, str]) -> pa.Table | None:
    """What `to_arrow` makes of the rows; None where they are no JSON lines, or unusual ones.

    Args:
        table: Which contract the rows follow.
        rows: Any rows.
        existing: Name and type ("double", "string", ...) of each column that the log's table has.
    """
    if not isinstance(rows, JsonLines):
        return None
    try:
        return _parsed(table, rows.data, existing)
    except (_UnusualError, pa.ArrowException, ValueError):
        return None


class _UnusualError(Exception):
    """Not for this way of reading."""


def _parsed(table: TableName, data: bytes, existing: Mapping[str, str]) -> pa.Table:
    lines = _checked_lines(data)
    schema = SCHEMAS[table]
    fields = [(f.name, pa.int64() if f.name == "ts" else f.type) for f in schema if f.name != "day"]
    if table == "predictions":
        fields.append(("features", pa.struct(_expected_features(data, existing).items())))
    found = pj.read_json(
        io.BytesIO(data),
        # One block, so that types are inferred once; no pool, so that one thread is all that this takes.
        read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pj.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="infer"),
    ).combine_chunks()
    _must(found.num_rows == lines and found.column_names == [name for name, _ in fields])
    columns = {field.name: _contract_column(field, found) for field in schema if field.name != "day"}
    columns["day"] = columns["ts"].cast(pa.date32())
    if table == "predictions":
        columns |= _features(_whole(found["features"]), existing)
    return assemble(table, columns, existing)


def _checked_lines(data: bytes) -> int:
    """How many objects there are, if each has a line of its own and all of it is UTF-8.

    No JSON has a brace that opens right behind one that closes, and no string a raw newline. So when each newline is
    between two such braces, and Arrow reads as many objects as there are newlines, each line is one object.
    """
    lines = data.count(b"\n")
    _must(data.startswith(b'{"') and data.endswith(b"}\n") and data.count(b'}\n{"') == lines - 1 and b"\r" not in data)
    ends = pa.array([0, len(data)], pa.int32()).buffers()[1]
    pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(data)]).cast(pa.string())  # refuses what is none
    return lines


def _expected_features(data: bytes, existing: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Type of each input that the log has or the first lines show. Arrow would take text with dates for timestamps."""
    expected = {
        name.removeprefix(FEATURE_PREFIX): _KINDS[kind]
        for name, kind in existing.items()
        if name.startswith(FEATURE_PREFIX) and kind in _KINDS
    }
    seen: dict[str, pa.DataType] = {}
    for line in islice(io.BytesIO(data), _HINT_LINES):
        features = orjson.loads(line).get("features") or {}
        _must(isinstance(features, dict))
        for name, value in features.items():
            if value is not None and name not in seen:
                seen[name] = _type_of(value)
    return expected | seen


def _type_of(value: Any) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int | float):
        return pa.float64()
    _must(isinstance(value, str))
    return pa.string()


def _contract_column(field: pa.Field, found: pa.Table) -> pa.Array:
    array = _whole(found[field.name])
    _must(not (array.null_count and is_required(field)))
    if field.name == "ts":
        span = pc.min_max(array)
        _must(span["min"].as_py() >= EARLIEST and span["max"].as_py() < LATEST)
        return array.cast(field.type)
    return _finite(array)


def _features(structs: pa.StructArray, existing: Mapping[str, str]) -> dict[str, pa.Array]:
    names = [field.name for field in structs.type]
    _must(_differ_in_more_than_case({*existing, *map(feature_column, names)}))
    columns: dict[str, pa.Array] = {}
    for name, array in zip(names, structs.flatten(), strict=True):
        if array.null_count == len(array):
            continue
        column = feature_column(name)
        values = array.cast(pa.float64(), safe=False) if array.type in (pa.int64(), pa.bool_()) else _finite(array)
        kind = next((kind for kind, of in _KINDS.items() if of == values.type), None)
        _must(kind is not None and existing.get(column, kind) == kind)
        columns[column] = values
    return columns


def _differ_in_more_than_case(names: Iterable[str]) -> bool:
    names = list(names)
    return len({name.lower() for name in names}) == len(names)


def _finite(array: pa.Array) -> pa.Array:
    """JSON has no NaN and no infinity; Arrow would read them."""
    if array.type == pa.float64():
        _must(pc.all(pc.is_finite(array), min_count=0).as_py())
    return array


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0)  # the chunks were combined, and there is at least one row


def _must(usual: bool) -> None:
    if not usual:
        raise _UnusualError
