"""Requests for predictions, by either protocol: read, or refused in words; nothing else."""

import io
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import event, example, given
from hypothesis import strategies as st
from tests.fuzz.budget import check_said, tries
from tests.fuzz.shapes import bodies, changed, damaged, documents, encoded

from model_rollouts.gateway import open_inference
from model_rollouts.gateway.errors import GatewayError
from model_rollouts.gateway.open_inference_model import Interface, Tensor
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.reading import SignatureReader
from model_rollouts.gateway.scoring_protocol import CSV, JSON, PARQUET, decode
from model_rollouts.gateway.signature import Signature

MAX_ROWS, MAX_BYTES = 50, 65_536
COLUMNS = tuple(
    Column(name, kind, required)
    for name, kind, required in (
        ("d", "double", True),
        ("f", "float", False),
        ("i", "integer", False),
        ("l", "long", False),
        ("b", "boolean", False),
        ("s", "string", False),
        ("y", "binary", False),
        ("t", "datetime", False),
    )
)
READER = SignatureReader(Signature(COLUMNS))
ROW = {"d": 1.5, "f": 2.5, "i": 3, "l": 4, "b": True, "s": "text", "y": "aGk=", "t": "2026-01-01T00:00:00"}
NAMES = ("dataframe_split", "dataframe_records", "instances", "inputs", "columns", "data", "index", "params", *ROW)
GOOD = [
    {"dataframe_records": [ROW, {"d": 1}]},
    {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())], "index": [0]}},
    {"instances": [ROW]},
    {"inputs": {name: [value, value] for name, value in ROW.items()}, "params": {"p": 1}},
]


def read(body: bytes, content_type: str | None, unit: str | None = None) -> None:
    """Read a request to its end, as the gateway does: to what the model is called with, and to what is logged."""
    try:
        document = decode(body, content_type, MAX_ROWS, MAX_BYTES)
        reading = READER.read(document, unit, MAX_ROWS)
    except GatewayError as error:
        event("refused")
        check_said(error)
        return
    event("read")
    payload = reading.payload
    assert 1 <= payload.rows <= MAX_ROWS
    assert len(reading.units) == payload.rows
    frame = payload.data()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == payload.rows
    assert "d" in frame
    numbers = frame.select_dtypes("number").to_numpy(dtype=np.float64)
    assert not np.isinf(numbers).any()
    for index in range(payload.rows):
        logged = payload.features(index)
        assert all(
            value is None or isinstance(value, bool | int | float | str | np.generic) for value in logged.values()
        )
        orjson.dumps(logged, option=orjson.OPT_SERIALIZE_NUMPY)


@tries(150)
@given(
    st.sampled_from(GOOD).flatmap(lambda good: changed(good, documents(*NAMES))),
    st.sampled_from([None, "s", "l", "d", "u"]),
)
@example({"dataframe_records": [{"d": 10**400}]}, None)
@example({"dataframe_split": {"columns": [["d"]], "data": [[1]]}}, None)
@example({"inputs": {"d": [1], "s": ["\ud800"]}}, "s")
def test_json_that_is_nearly_right(document: Any, unit: str | None) -> None:
    read(encoded(document), JSON, unit)


@tries(100)
@given(
    bodies,
    st.one_of(st.sampled_from([JSON, CSV, PARQUET, None, "application/json; charset=utf-8"]), st.text(max_size=40)),
)
def test_any_bytes_of_any_type(body: bytes, content_type: str | None) -> None:
    read(body, content_type)


_CSV = ",".join(ROW) + "\n" + ",".join(map(str, ROW.values())) + "\n2,,,,,,,\n"


@tries(100)
@given(
    st.one_of(
        damaged(_CSV.encode()),
        st.text(alphabet='d,f"\n\r;0 1nae', max_size=60).map(lambda text: f"d,f\n{text}".encode()),
    )
)
def test_csv(body: bytes) -> None:
    read(body, CSV)


def _parquet() -> bytes:
    table = pa.table(
        {
            "d": [1.0, 2.0],
            "f": pa.array([1.0, None], pa.float32()),
            "i": pa.array([1, 2], pa.int32()),
            "l": [1, 2],
            "b": [True, False],
            "s": ["a", "b"],
            "y": [b"a", b"b"],
            "t": pd.to_datetime(["2026-01-01", "2026-01-02"]),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


@tries(60)
@given(damaged(_parquet()))
def test_parquet_that_was_right_before(body: bytes) -> None:
    read(body, PARQUET)


INTERFACES = [
    Interface("columns", tuple(Tensor(c.name, "FP64", (-1, 1), None, c.required) for c in COLUMNS)),
    Interface("tensor", (Tensor("x", "FP32", (-1, 2, 2)),)),
    Interface("tensors", (Tensor("x", "FP32", (-1, 2)), Tensor("y", "INT64", (-1,)))),
    Interface("items", (Tensor("x", "BYTES", (-1,), "pd_json"),)),
    Interface("any"),
]
TENSOR = {"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1, 2]}
INFER = [
    {"id": "a", "inputs": [TENSOR], "outputs": [{"name": "y"}], "parameters": {"content_type": "np"}},
    {"inputs": [TENSOR | {"name": "d"}, TENSOR | {"name": "s", "datatype": "BYTES", "data": ["a", "b"]}]},
    {"inputs": [TENSOR | {"shape": [1, 2, 2], "datatype": "FP32", "data": [[[1, 2], [3, 4]]]}]},
    {"inputs": [TENSOR | {"datatype": "BYTES", "data": ["aGk=", "x"], "parameters": {"content_type": "base64"}}]},
]
_INFER_NAMES = (
    "id",
    "inputs",
    "outputs",
    "parameters",
    "name",
    "shape",
    "datatype",
    "data",
    "content_type",
    "binary_data",
)


@tries(150)
@given(
    st.sampled_from(INFER).flatmap(lambda good: changed(good, documents(*_INFER_NAMES))), st.sampled_from(INTERFACES)
)
def test_the_open_protocol(request: Any, interface: Interface) -> None:
    try:
        document, header = open_inference.decode(encoded(request), JSON, None, interface, MAX_ROWS, MAX_BYTES)
        assert header.id is None or isinstance(header.id, str)
        if interface.kind == "columns":
            READER.read(document, None, MAX_ROWS)
    except GatewayError as error:
        event("refused")
        check_said(error)
    else:
        event("read")
