"""What callers may send, held against MLflow's own server for the same model."""

import asyncio
import io
import json
import math
import threading
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import infer_signature
from mlflow.models.model import Model
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import invocations
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from model_rollouts.gateway.answers import Answer, body, split
from model_rollouts.gateway.errors import BadRequestError, UnsupportedMediaError
from model_rollouts.gateway.inputs import off_loop, weight
from model_rollouts.gateway.loading import params_check_of, reader_of
from model_rollouts.gateway.scoring_protocol import PARQUET, decode, records

FRAME = pd.DataFrame(
    {
        "delay": [1.5, -2.0, 0.0],
        "seats": [100, 200, 3],
        "carrier": ["UA", "AA", None],
        "late": [True, False, True],
        "day": pd.to_datetime(["2013-01-01", "2013-06-01", "2013-12-31"]),
    }
)
JSON = "application/json"


class Echo:
    """Returns what reached the model, so that two servers can be compared to the last value."""

    def __init__(self, shape: str) -> None:
        self.shape = shape

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        if self.shape == "frame":
            return data
        if self.shape == "array":
            return np.asarray(data["delay"] * 2)
        if self.shape == "table":
            return np.asarray(data[["delay", "seats"]], dtype=float)
        if self.shape == "series":
            return data["seats"]
        return [str(value) for value in data["carrier"]]


def model(shape: str = "frame", schema: Schema | None = None, params: ParamSchema | None = None) -> PyFuncModel:
    signature = infer_signature(FRAME, np.array([1.0]), None)
    signature.inputs = schema or Schema([*signature.inputs.inputs[:-1], ColSpec("datetime", "day", required=False)])
    signature.params = params
    meta = Model(signature=signature, flavors={"python_function": {"loader_module": "x"}})
    return PyFuncModel(meta, Echo(shape))


def ours(pyfunc: PyFuncModel, content: bytes, kind: str = JSON) -> Any:
    document = decode(content, kind, 1000, 1_000_000)
    params_check_of(pyfunc.metadata)(document.params)
    payload = reader_of(pyfunc.metadata).read(document, None, 1000).payload
    answers = split(pyfunc.predict(payload.data()), payload.rows)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return body([a for a in answers if isinstance(a, Answer)]).decode()


def theirs(pyfunc: PyFuncModel, content: bytes, kind: str = JSON) -> str:
    return str(invocations(content, kind, pyfunc, pyfunc.metadata.get_input_schema()).response)


def split_json(frame: pd.DataFrame) -> dict[str, Any]:
    return json.loads(frame.to_json(orient="split", date_format="iso"))


RECORDS = [
    {"delay": 1.5, "seats": 10, "carrier": "UA", "late": True},
    {"delay": 2, "seats": 7, "carrier": "B", "late": False},
]
COLUMNS = {key: [row[key] for row in RECORDS] for key in RECORDS[0]}
SAME = {
    "dataframe_split": {"dataframe_split": split_json(FRAME)},
    "split without index": {"dataframe_split": {"columns": list(COLUMNS), "data": [list(r.values()) for r in RECORDS]}},
    "dataframe_records": {"dataframe_records": RECORDS},
    "an extra column": {"dataframe_records": [row | {"tailnum": "N1"} for row in RECORDS]},
    "columns in another order": {"dataframe_records": [dict(reversed(row.items())) for row in RECORDS]},
    "instances of dictionaries": {"instances": RECORDS},
    "inputs of columns": {"inputs": COLUMNS},
    "inputs of scalars": {"inputs": RECORDS[0]},
    "inputs of records": {"inputs": RECORDS},
    "numbers as text": {"dataframe_records": [RECORDS[0] | {"delay": "2.5", "seats": "12"}]},
    "a whole float for an integer": {"dataframe_records": [RECORDS[0] | {"seats": 12.0}]},
    "null for a float and a text": {"dataframe_records": [RECORDS[0] | {"delay": 1.0, "carrier": None}]},
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("shape", ["array", "table", "series", "list"])
def test_a_request_is_answered_as_mlflows_server_answers_it(name: str, shape: str) -> None:
    content, pyfunc = json.dumps(SAME[name]).encode(), model(shape)
    assert ours(pyfunc, content) == theirs(pyfunc, content)


@pytest.mark.parametrize("name", [name for name in SAME if name != "null for a float and a text"])
def test_every_value_reaches_the_model_as_it_does_in_mlflows_server(name: str) -> None:
    content, pyfunc = json.dumps(SAME[name]).encode(), model("frame")
    assert json.loads(ours(pyfunc, content)) == json.loads(theirs(pyfunc, content))


def test_csv_is_answered_as_mlflows_server_answers_it() -> None:
    content, pyfunc = FRAME.drop(columns="day").to_csv().encode(), model("list")
    assert ours(pyfunc, content, "text/csv; charset=utf-8") == theirs(pyfunc, content, "text/csv; charset=utf-8")


def test_parquet_is_answered_as_mlflows_server_answers_it() -> None:
    buffer, pyfunc = io.BytesIO(), model("table")
    FRAME.to_parquet(buffer)
    kind = "application/vnd.apache.parquet"
    assert ours(pyfunc, buffer.getvalue(), kind) == theirs(pyfunc, buffer.getvalue(), kind)


def test_a_list_of_values_fits_a_model_with_one_input() -> None:
    pyfunc, content = model("array", Schema([ColSpec("double", "delay")])), b'{"instances": [1.5, 2]}'
    assert ours(pyfunc, content) == theirs(pyfunc, content) == '{"predictions": [3.0, 4.0]}'


def test_the_nan_that_pythons_clients_write_is_a_missing_value() -> None:
    content = json.dumps({"dataframe_records": [RECORDS[0] | {"delay": math.nan}]}).encode()
    payload = reader_of(model().metadata).read(decode(content, JSON, 10, 10_000), None, 10).payload
    assert math.isnan(payload.data()["delay"][0])


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("seats", 3.7, "whole number"),
        ("seats", None, "null"),
        ("seats", 2**63, "between"),
        ("seats", "many", "must be a number"),
        ("seats", [1], "must be a number"),
        ("delay", "soon", "must be a number"),
        ("delay", "1_000", "must be a number"),
        ("delay", math.inf, "finite"),
        ("delay", 10**400, "finite"),
        ("delay", {}, "must be a number"),
        ("late", "no", "true or false"),
        ("late", None, "true or false"),
        ("late", 2, "true or false"),
        ("carrier", 5, "must be text"),
        ("carrier", "\ud800", "UTF-8"),
        ("day", "yesterday-ish", "ISO 8601"),
        ("day", "2013-01-01T00:00:00Z", "offset"),
        ("day", "99999-01-01", "ISO 8601"),
        ("day", "9999-01-01", "ISO 8601"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_row_column_and_value(column: str, value: Any, says: str) -> None:
    rows = [RECORDS[0], RECORDS[1] | {column: value}]
    with pytest.raises(BadRequestError, match=f"column {column}. Row 1 has .*{says}"):
        ours(model(), json.dumps({"dataframe_records": rows}).encode())


def test_who_names_thousands_of_columns_twice_is_refused_at_once() -> None:
    names = [f"{number:04x}" for number in range(9_000)]
    document = decode(json.dumps({"dataframe_split": {"columns": [*names, "0000"], "data": []}}).encode(), JSON, 10, 10)
    began = time.process_time()
    with pytest.raises(BadRequestError, match="'columns' names 0000 more than once"):
        records(document, ("x",))
    assert time.process_time() - began < 1, "not for each column all of them"


BAD = {
    "no JSON": (b"{", "valid JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', "valid JSON"),
    "nested without end": (b"[" * 100_000, "valid JSON"),
    "a list": (b"[1]", "Received a list"),
    "no format": (b'{"columns": []}', "exactly one"),
    "two formats": (b'{"inputs": [1], "instances": [1]}', "exactly one"),
    "params that are a list": (b'{"inputs": [1], "params": [1]}', "must be a dictionary"),
    "no rows": (b'{"dataframe_records": []}', "0 rows"),
    "no rows in split": (b'{"dataframe_split": {"columns": ["delay"], "data": []}}', "0 rows"),
    "a row that is too short": (b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1]]}}', "row 0"),
    "a column twice": (b'{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}', "more than once"),
    "split without names": (b'{"dataframe_split": {"data": [[1, 2]]}}', "columns"),
    "another key in split": (b'{"dataframe_split": {"data": [], "rows": 1}}', "must have 'data'"),
    "a record that is a list": (b'{"dataframe_records": [[1]]}', "row 0"),
    "lists without names": (b'{"instances": [[1, 2]]}', "without column names"),
    "columns of unequal length": (b'{"inputs": {"delay": [1, 2], "seats": [1]}}', "not the same"),
    "a scalar beside a list": (b'{"inputs": {"delay": [1, 2], "seats": 1}}', "not the same"),
    "a missing column": (b'{"dataframe_records": [{"delay": 1}]}', "missing inputs .'seats'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_the_protocol_is_refused(name: str) -> None:
    content, says = BAD[name]
    with pytest.raises(BadRequestError, match=says):
        ours(model(), content)


def test_a_required_column_that_one_row_lacks_is_refused_with_the_row() -> None:
    rows = [RECORDS[0], {k: v for k, v in RECORDS[1].items() if k != "delay"}]
    with pytest.raises(BadRequestError, match=r"'delay'.: row 1"):
        ours(model(), json.dumps({"dataframe_records": rows}).encode())


@pytest.mark.parametrize("content", [b"", b"delay,seats\n1", b"delay,delay\n1,2", b'delay\n"1', b"delay\n\xff"])
def test_csv_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequestError, match="CSV"):
        ours(model(), content, "text/csv")


def test_a_parquet_file_with_too_many_rows_is_refused_before_it_is_unpacked() -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"delay": np.zeros(1001)}).to_parquet(buffer)
    with pytest.raises(BadRequestError, match="1001 rows"):
        decode(buffer.getvalue(), "application/vnd.apache.parquet", 1000, 1_000_000)
    with pytest.raises(BadRequestError, match="Parquet"):
        decode(b"PAR1 not", "application/vnd.apache.parquet", 1000, 1_000_000)


def packed(table: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def numbered(texts: list[Any], rows: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([i % len(texts) for i in range(rows)], pa.int32()), pa.array(texts))


LONG = "a" * 100_000
BOMBS = {
    "a text that every row has": {"x": numbered([LONG], 1000)},
    "bytes that every row has": {"x": numbered([LONG.encode()], 1000)},
    "in a list": {"x": pa.array([[LONG] * 2] * 500)},
    "in a map": {"x": pa.array([[("k", LONG)]] * 1000, pa.map_(pa.string(), pa.string()))},
    "in a struct": {"x": pa.array([{"t": LONG}] * 1000)},
    "bytes of one length": {"x": pa.array([LONG.encode()] * 1000, pa.binary(len(LONG)))},
    "a list without end": {"x": pa.array([[1.0] * 1_000_000])},
    "columns without end": {f"x{i}": pa.nulls(1000) for i in range(1000)},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_parquet_file_that_unpacks_to_too_much_is_refused_before_it_is(name: str) -> None:
    body = packed(pa.table(BOMBS[name]), compression="zstd", store_schema=name == "bytes of one length")
    assert len(body) < 200_000
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(BadRequestError, match=r"takes \d+ bytes, must have at most 1000 and 20000000"):
            decode(body, PARQUET, 1000, 1_000_000)
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() < 20_000_000


def test_a_parquet_file_with_shared_texts_that_fit_reads_as_it_was() -> None:
    table = pa.table({"t": numbered(["a" * 10_000, "b"], 1000), "l": [["x", None], None] * 500})
    found = decode(packed(table, store_schema=False), PARQUET, 1000, 1_000_000).content
    assert found["t"].to_pylist() == table["t"].to_pylist()
    assert found["l"].to_pylist() == table["l"].to_pylist()
    assert found["t"].type == pa.string()


def test_packed_bodies_are_read_off_the_loop_however_small() -> None:
    async def run() -> list[int]:
        sizes = (weight(b"PAR1", PARQUET), weight(b"PAR1", f"{PARQUET}; charset=utf-8"), weight(b"{}", JSON))
        return [await off_loop(size, threading.get_ident) for size in sizes]

    small, also, here = asyncio.run(run())
    assert here == threading.get_ident()
    assert here not in (small, also)


def test_dates_that_python_can_not_hold_are_the_callers_mistake() -> None:
    document = decode(packed(pa.table({"t": pa.array([10**15], pa.timestamp("ms"))})), PARQUET, 10, 1000)
    with pytest.raises(BadRequestError, match="values that can't be read"):
        records(document, ("t",))


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/json; charset=latin-1", "text/csv; header=no"])
def test_another_content_type_is_refused(kind: str | None) -> None:
    with pytest.raises(UnsupportedMediaError):
        decode(b"{}", kind, 10, 100)


def test_parameters_are_checked_against_the_models() -> None:
    pyfunc = model("array", params=ParamSchema([ParamSpec("threshold", "double", 0.5)]))
    good, bad = ({"dataframe_records": RECORDS, "params": {"threshold": t}} for t in (0.2, "high"))
    assert "predictions" in ours(pyfunc, json.dumps(good).encode())
    with pytest.raises(BadRequestError, match="high"):
        ours(pyfunc, json.dumps(bad).encode())


@pytest.mark.parametrize(
    "content",
    [{"inputs": [[1.0, 2.0], [3.0, 4.0]]}, {"instances": [[1.0, 2.0]]}, {"dataframe_split": {"data": [[1.0, 2.0]]}}],
)
def test_a_model_with_tensor_inputs_is_answered_as_mlflows_server_answers_it(content: Any) -> None:
    array = np.array([[1.0, 2.0]])

    class Sum:
        def predict(self, data: Any) -> Any:
            return np.asarray(data).sum(axis=1)

    meta = Model(signature=infer_signature(array, array[:, 0]), flavors={"python_function": {"loader_module": "x"}})
    pyfunc, raw = PyFuncModel(meta, Sum()), json.dumps(content).encode()
    assert ours(pyfunc, raw) == theirs(pyfunc, raw)
    with pytest.raises(BadRequestError, match="shape"):
        ours(pyfunc, b'{"inputs": [[1.0, 2.0, 3.0]]}')


def test_a_model_without_a_signature_is_answered_as_mlflows_server_answers_it() -> None:
    pyfunc = PyFuncModel(Model(flavors={"python_function": {"loader_module": "x"}}), Echo("array"))
    for content in ({"dataframe_records": RECORDS}, {"inputs": COLUMNS}):
        raw = json.dumps(content).encode()
        assert ours(pyfunc, raw) == theirs(pyfunc, raw)
