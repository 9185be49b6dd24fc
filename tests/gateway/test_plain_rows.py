"""The short way reads what it reads exactly as the long way does."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.payload import Column, Table
from model_rollouts.gateway.plain_rows import PlainRows
from model_rollouts.gateway.scoring_protocol import decode, records
from model_rollouts.gateway.signature import Signature

_KINDS = ("double", "long", "integer", "string", "boolean", "float", "datetime", "binary")
COLUMNS = tuple(Column(kind[0] + str(at), kind) for at, kind in enumerate(_KINDS[:5]))
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**65), 2**65),
    st.integers(-5, 5),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.sampled_from(["1", "1.5", "true", "é", "NaN"]),
    st.lists(st.integers(), max_size=2),
)


def fitting(column: Column) -> Any:
    """Mostly what the column is for."""
    own = {
        "double": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9)),
        "long": st.integers(-9, 9),
        "integer": st.integers(-9, 9),
        "string": st.text("abcé", max_size=3),
        "boolean": st.booleans(),
    }
    return st.one_of(own[column.type], own[column.type], own[column.type], VALUES)


def long_way(document: Any) -> Any:
    rows = records(document, tuple(column.name for column in COLUMNS))
    return Signature(COLUMNS).cast(rows)


@given(st.lists(st.tuples(*map(fitting, COLUMNS)), min_size=1, max_size=3), st.booleans())
def test_it_reads_as_the_long_way_does_or_not_at_all(rows: list[tuple[Any, ...]], split: bool) -> None:
    names = [column.name for column in COLUMNS]
    content: dict[str, Any] = (
        {"dataframe_split": {"columns": names, "data": rows}}
        if split
        else {"dataframe_records": [dict(zip(names, row, strict=True)) for row in rows]}
    )
    document = decode(json.dumps(content).encode(), "application/json", 10, 10**6)
    short = PlainRows(COLUMNS).read(document)
    if short is None:
        return
    table = long_way(document)
    assert short.columns == table.columns
    assert repr([*map(tuple, short.values)]) == repr([*map(tuple, table.values)]), "values and their types"
    assert [short.features(i) for i in range(short.rows)] == [table.features(i) for i in range(table.rows)]
    assert short.data().equals(table.data())


@pytest.mark.parametrize(
    "content",
    [
        {"columns": ["a", "b"], "data": [[1.5, 2.5]]},
        {"columns": ["a", "b"], "data": [[1, 2], [3.5, 4]]},
    ],
)
def test_the_usual_request_goes_the_short_way(content: Any) -> None:
    columns = (Column("a", "double"), Column("b", "double"))
    body = json.dumps({"dataframe_split": content}).encode()
    found = PlainRows(columns).read(decode(body, "application/json", 10, 10**6))
    assert isinstance(found, Table)
    assert found.matrix().tolist() == content["data"]


@pytest.mark.parametrize(
    "row",
    [
        *([1e308, 1e308], [10**400, 1.0], [None, 1.0], [True, 1.0], ["1", 1.0], [1.0], [1.0, 2.0, 3.0]),
        *(7, "ab", {"a": 1.0, "b": 2.0}),
    ],
)
def test_the_unusual_goes_the_long_way(row: Any) -> None:
    columns = (Column("a", "double"), Column("b", "double"))
    body = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [row]}}).encode()
    assert PlainRows(columns).read(decode(body, "application/json", 10, 10**6)) is None


@pytest.mark.parametrize(
    "content",
    [
        {"columns": ["b", "a"], "data": [[1.0, 2.0]]},
        {"columns": ["a", "b"], "data": [[1.0, 2.0]], "index": [0]},
        {"columns": ["a", "b", "c"], "data": [[1.0, 2.0, 3.0]]},
        {"columns": ["a", "b"], "data": []},
        {"columns": ["a", "b"]},
        [1.0, 2.0],
    ],
)
def test_other_shapes_go_the_long_way(content: Any) -> None:
    columns = (Column("a", "double"), Column("b", "double"))
    body = json.dumps({"dataframe_split": content}).encode()
    assert PlainRows(columns).read(decode(body, "application/json", 10, 10**6)) is None


def test_a_float_that_overflows_is_refused_by_the_long_way() -> None:
    columns = (Column("a", "double"), Column("b", "double"))
    document = decode(
        b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1e999, 1.0]]}}', "application/json", 9, 99
    )
    assert PlainRows(columns).read(document) is None
    with pytest.raises(BadRequestError, match="finite"):
        Signature(columns).cast(records(document, ("a", "b")))
