"""The Open Inference Protocol: what its clients send reaches the model, and what does not fit is refused."""

import base64
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models.model import Model
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, TensorSpec
from tests.gateway.open_inference_bodies import ALL, CLIENTS, MATRIX, metadata, one

from model_rollouts.gateway.errors import BadRequestError, TooLargeError, UnsupportedMediaError
from model_rollouts.gateway.loading import reader_of
from model_rollouts.gateway.open_inference import InferHeader, decode
from model_rollouts.gateway.open_inference_model import Interface, Tensor, interface
from model_rollouts.gateway.scoring_protocol import Document

FLIGHTS = [
    ColSpec("double", "delay"),
    ColSpec("long", "seats"),
    ColSpec("string", "carrier"),
    ColSpec("boolean", "late"),
]
ROWS = 100


def taken(request: Any, model: Interface, **more: Any) -> tuple[Document, InferHeader]:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    options = {"content_type": "application/json", "header_length": None, "max_rows": ROWS, "max_bytes": 100_000} | more
    return decode(body, options["content_type"], options["header_length"], model, ROWS, options["max_bytes"])


def read(request: Any, meta: Model) -> Any:
    """What `predict` of a model would get."""
    document, _ = taken(request, interface(meta))
    return reader_of(meta).read(document, None, ROWS).payload.data()


# --- bodies as the clients' own encoders wrote them


@pytest.mark.parametrize("client", CLIENTS)
def test_columns_of_a_real_client_reach_the_model_as_the_table_that_they_were(client: str) -> None:
    frame = pd.DataFrame(
        {"delay": [1.5, -2.0], "seats": [100, 7], "carrier": ["UA", "Zoë"], "late": [True, False]},
    )
    pd.testing.assert_frame_equal(read(CLIENTS[client], metadata(Schema(FLIGHTS))), frame)


@pytest.mark.parametrize("client", MATRIX)
def test_one_tensor_of_a_real_client_is_the_models_columns_by_position(client: str) -> None:
    frame = read(MATRIX[client], metadata(Schema([ColSpec("double", "b"), ColSpec("double", "a")])))
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"b": [1.0, 3.0], "a": [2.0, 4.0]}))


@pytest.mark.parametrize("client", MATRIX)
def test_one_tensor_of_a_real_client_is_the_models_array(client: str) -> None:
    for meta in (metadata(Schema([TensorSpec(np.dtype("float64"), (-1, 2))])), Model()):
        np.testing.assert_array_equal(read(MATRIX[client], meta), np.array([[1.0, 2.0], [3.0, 4.0]]))


def test_only_parameters_that_the_model_knows_reach_it() -> None:
    params = ParamSchema([ParamSpec("threshold", "double", 0.5)])
    document, header = taken(
        MATRIX["tritonclient"], interface(metadata(Schema([ColSpec("double", "a")] * 2), None, params))
    )
    assert document.params == {"threshold": 0.25}
    assert header == InferHeader(None, None)


def test_every_column_type_reaches_the_model_as_by_mlflows_protocol() -> None:
    meta = metadata(Schema(ALL))
    frame = read(
        {
            "inputs": [
                one("late", [2], "BOOL", [True, False]),
                one("seats", [2, 1], "INT8", [1, -2]),
                one("id", [2], "UINT64", [2**62, 0]),
                one("share", [2], "FP16", [0.5, None]),
                one("delay", [2], "FP64", [0.1, 2]),
                one("carrier", [2, 1], "BYTES", [["UA"], [None]]),
                one("raw", [2], "BYTES", ["AP8=", ""], "base64"),
                one("day", [2], "BYTES", ["2013-01-01T05:30:00", None], "datetime"),
            ]
        },
        meta,
    )
    records = [
        {"late": True, "seats": 1, "id": 2**62, "share": 0.5, "delay": 0.1, "carrier": "UA", "raw": "AP8="},
        {"late": False, "seats": -2, "id": 0, "share": None, "delay": 2, "carrier": None, "raw": ""},
    ]
    records[0]["day"], records[1]["day"] = "2013-01-01T05:30:00", None
    theirs = reader_of(meta).read(Document("dataframe_records", records), None, ROWS).payload.data()
    pd.testing.assert_frame_equal(frame, theirs)
    assert list(frame["raw"]) == [b"\x00\xff", b""]


def test_a_text_for_a_binary_column_is_its_bytes_and_base64_for_a_text_column_is_refused() -> None:
    raw, carrier = metadata(Schema([ColSpec("binary", "raw")])), metadata(Schema([ColSpec("string", "carrier")]))
    assert list(read({"inputs": [one("raw", [1], "BYTES", ["é"], "str")]}, raw)["raw"]) == ["é".encode()]
    with pytest.raises(BadRequestError, match=r"base64, and the model's is str"):
        read({"inputs": [one("carrier", [1], "BYTES", ["AP8="], "base64")]}, carrier)


def test_a_number_of_fp32_is_what_fp32_holds() -> None:
    frame = read({"inputs": [one("delay", [1], "FP32", [0.1])]}, metadata(Schema([ColSpec("double", "delay")])))
    assert frame["delay"][0] == np.float64(np.float32(0.1))


def test_columns_of_lists_reach_the_model() -> None:
    meta = metadata(Schema([ColSpec("double", "x"), ColSpec(Array("string"), "tags")]))
    mlserver = (
        b'{"parameters":{"content_type":"pd"},"inputs":[{"name":"x","shape":[2,1],"datatype":"FP64","data":[1.0,2.0]},'
        b'{"name":"tags","shape":[2,1],"datatype":"BYTES","parameters":{"content_type":"pd_json"},'
        b'"data":["[\\"a\\",\\"b\\"]","[\\"c\\"]"]}]}'
    )
    frame = read(mlserver, meta)
    assert [list(tags) for tags in frame["tags"]] == [["a", "b"], ["c"]]
    nested = {"inputs": [one("x", [2], "FP64", [1, 2]), one("tags", [2, 2], "BYTES", ["a", "b", "c", "d"])]}
    assert [list(tags) for tags in read(nested, meta)["tags"]] == [["a", "b"], ["c", "d"]]


def test_named_tensors_reach_the_model_by_name() -> None:
    meta = metadata(
        Schema([TensorSpec(np.dtype("float32"), (-1, 2), "a"), TensorSpec(np.dtype("int64"), (-1, 1, 2), "b")])
    )
    found = read({"inputs": [one("b", [1, 1, 2], "INT64", [1, 2]), one("a", [1, 2], "FP32", [[0.5, 1]])]}, meta)
    np.testing.assert_array_equal(found["a"], np.array([[0.5, 1]], np.float32))
    np.testing.assert_array_equal(found["b"], np.array([[[1, 2]]]))


def test_what_the_model_does_not_know_may_name_the_unit_and_is_no_array() -> None:
    extra = one("customer", [2, 1], "BYTES", ["a", "b"])
    columns = Interface("columns", (Tensor("x", "FP64", (-1, 1)),))
    document, _ = taken({"inputs": [one("x", [2], "FP64", [1, 2]), extra]}, columns)
    assert document.content == {"columns": ["x", "customer"], "data": [[1, "a"], [2, "b"]]}
    tensors = Interface("tensors", (Tensor("x", "FP64", (-1, 2)),))
    x = one("x", [2, 2], "FP64", [1, 2, 3, 4])
    assert taken({"inputs": [x, extra]}, tensors)[0].content == {"x": [[1, 2], [3, 4]], "customer": ["a", "b"]}
    with pytest.raises(BadRequestError, match="the model has no such input"):
        taken({"inputs": [x, one("z", [2, 2], "FP64", [1, 2, 3, 4])]}, tensors)


def test_images_of_one_channel_are_taken() -> None:
    only = Interface("tensor", (Tensor("input-0", "FP32", (-1, 28, 28, 1)),))
    image = one("input-0", [ROWS, 4, 4, 1], "FP32", [0.5] * 16 * ROWS)
    assert np.array(taken({"inputs": [image]}, only)[0].content).shape == (ROWS, 4, 4, 1)


def test_a_model_without_a_signature_gets_a_table_where_the_client_says_so() -> None:
    frame = read(CLIENTS["MLServer, pandas"], Model())
    assert frame.to_dict("list")["carrier"] == ["UA", "Zoë"]
    arrays = read(CLIENTS["KServe, pandas"].replace(b'"pd"', b'"dict"'), Model())
    assert sorted(arrays) == ["carrier", "delay", "late", "seats"]


def test_a_model_with_type_hints_gets_a_list() -> None:
    strings = (
        b'{"parameters":{"content_type":"str"},"inputs":[{"name":"input-1","shape":[2,1],"datatype":"BYTES",'
        b'"parameters":{"content_type":"str"},"data":["one","two"]}]}'
    )
    hints = Interface("items", (Tensor("input-0", "BYTES", (-1, 1), "str"),))
    assert taken(strings, hints)[0] == Document("inputs", ["one", "two"])
    objects = Interface("items", (Tensor("input-0", "BYTES", (-1, 1), "pd_json"),))
    assert taken(CLIENTS["KServe, pandas"], objects)[0].content[1] == {
        "delay": -2.0,
        "seats": 7,
        "carrier": "Zoë",
        "late": False,
    }
    assert taken({"inputs": [one("x", [2, 2], "INT8", [1, 2, 3, 4])]}, objects)[0].content == [[1, 2], [3, 4]]


# --- what is refused

X = Interface(
    "columns", (Tensor("x", "FP64", (-1, 1)), Tensor("y", "FP64", (-1, 1))), (Tensor("out", "FP64", (-1, 1)),)
)
BAD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "valid JSON"),
    "a list": ([1], "a list, must be an object"),
    "no inputs": ({}, "'inputs' must be a list"),
    "no tensor": ({"inputs": []}, "at least one tensor"),
    "an input that is text": ({"inputs": ["x"]}, "input 0 must be an object"),
    "an id that is a number": ({"id": 1, "inputs": []}, "'id' is a int"),
    "parameters that are a list": ({"parameters": [], "inputs": [one("x", [1], "FP64", [1])]}, "'parameters' of the"),
    "no datatype": ({"inputs": [{"name": "x", "shape": [1], "data": [1]}]}, "datatype None, must be one of BOOL"),
    "a datatype that is a list": ({"inputs": [one("x", [1], [], [1])]}, "datatype .*, must be one of"),  # type: ignore[arg-type]
    "BF16": ({"inputs": [one("x", [1], "BF16", [1])]}, "must be one of"),
    "no shape": ({"inputs": [{"name": "x", "datatype": "FP64", "data": [1]}]}, "shape None"),
    "an empty shape": ({"inputs": [one("x", [], "FP64", [1])]}, r"shape \[\]"),
    "no rows": ({"inputs": [one("x", [0], "FP64", [])]}, r"shape \[0\]"),
    "a size that is true": ({"inputs": [one("x", [True], "FP64", [1])]}, r"shape \[True\]"),
    "a size that is negative": ({"inputs": [one("x", [-1], "FP64", [1])]}, r"shape \[-1\]"),
    "a size without end": ({"inputs": [one("x", [1, 10**40], "FP64", [1])]}, "whole numbers above 0"),
    "sizes without end": ({"inputs": [one("x", [1, 2**62, 2**62], "FP64", [1])]}, "has 1 elements"),
    "too many rows": (
        {"inputs": [one("x", [ROWS + 1], "FP64", [1.0] * (ROWS + 1))]},
        "101 rows, must have at most",
    ),
    "no data": ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64"}]}, "data of type NoneType"),
    "too little data": ({"inputs": [one("x", [3], "FP64", [1, 2])]}, r"has 2 elements, must have 3 for shape \[3\]"),
    "too much data": ({"inputs": [one("x", [1], "FP64", [1, 2])]}, "has 2 elements, must have 1"),
    "data nested otherwise": ({"inputs": [one("x", [2, 2], "FP64", [[1, 2], [3]])]}, "other data than shape"),
    "data nested the other way": ({"inputs": [one("x", [2, 3], "FP64", [[1, 2]] * 3)]}, "3 rows of data, must have 2"),
    "data nested in part": ({"inputs": [one("x", [2, 2], "FP64", [[1, 2], 3, 4])]}, "must have 2|other data"),
    "data nested too deep": ({"inputs": [one("x", [1], "FP64", [[1]])]}, "which is no FP64"),
    "a text for a number": ({"inputs": [one("x", [1], "FP64", ["1"])]}, "'1' at element 0, which is no FP64"),
    "a boolean for a number": ({"inputs": [one("x", [2], "INT64", [1, True])]}, "True at element 1"),
    "a number for a boolean": ({"inputs": [one("x", [1], "BOOL", [1])]}, "no BOOL"),
    "a number for a text": ({"inputs": [one("x", [1], "BYTES", [1])]}, "no BYTES"),
    "a fraction for an integer": ({"inputs": [one("x", [1], "INT64", [3.7])]}, "3.7 at element 0"),
    "beyond INT8": ({"inputs": [one("x", [1], "INT8", [128])]}, "between -128 and 127"),
    "below UINT8": ({"inputs": [one("x", [1], "UINT8", [-1])]}, "between 0 and 255"),
    "beyond FP16": ({"inputs": [one("x", [1], "FP16", [70000])]}, "beyond FP16"),
    "beyond FP64": ({"inputs": [one("x", [1], "FP64", [10**400])]}, "beyond FP64"),
    "a tensor twice": ({"inputs": [one("x", [1], "FP64", [1])] * 2}, "more than once"),
    "rows of unequal number": ({"inputs": [one("x", [1], "FP64", [1]), one("y", [2], "FP64", [1, 2])]}, "x: 1, y: 2"),
    "a column that is a table": (
        {"inputs": [one("x", [1, 2], "FP64", [1, 2]), one("y", [1], "FP64", [1])]},
        "must be .rows. or .rows, 1.",
    ),
    "one tensor with a column too few": ({"inputs": [one("in", [2, 1], "FP64", [1, 2])]}, r"must be \[rows, 2\]"),
    "one tensor with a column too many": ({"inputs": [one("in", [1, 3], "FP64", [1, 2, 3])]}, "inputs: x, y"),
    "one tensor with a third dimension": ({"inputs": [one("in", [1, 2, 1], "FP64", [1, 2])]}, r"must be \[rows, 2\]"),
    "one tensor by the name of a column": ({"inputs": [one("x", [1, 2], "FP64", [1, 2])]}, "it is one column"),
    "a content type that nobody knows": ({"inputs": [one("x", [1], "BYTES", ["a"], "hg_jpeg")]}, "content_type of"),
    "no base64": ({"inputs": [one("z", [1], "BYTES", ["?"], "base64"), one("x", [1], "FP64", [1])]}, "is no base64"),
    "no JSON in a text": (
        {"inputs": [one("z", [1], "BYTES", ["{"], "pd_json"), one("x", [1], "FP64", [1])]},
        "is no pd_json",
    ),
    "more dimensions than anybody has": (
        {"inputs": [one("x", [1] * 9, "FP64", [1]), one("y", [1], "FP64", [1])]},
        "must be a list of 1 to 8 whole numbers",
    ),
    "a list around each element, and more around those": (
        {"inputs": [one("x", [1, 500, 1, 1, 1, 1], "FP64", [1.0] * 500), one("y", [1], "FP64", [1])]},
        "make 2001 lists, must be at most 1800 for so many elements",
    ),
    "a table that the model does not know": (
        {"inputs": [one("x", [1], "FP64", [1]), one("y", [1], "FP64", [1]), one("z", [1, 2], "FP64", [1, 2])]},
        r"'z' has shape \[1, 2\], and the model has no such input; leave it out",
    ),
    "a binary tensor": (
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}]},
        "binary_data=False",
    ),
    "an output that is not there": (
        {"inputs": [one("in", [1, 2], "FP64", [1, 2])], "outputs": [{"name": "score"}]},
        "no output 'score'; it has out",
    ),
    "an output twice": ({"inputs": [], "outputs": [{"name": "out"}] * 2}, "more than once"),
    "an output without a name": ({"inputs": [], "outputs": [{}]}, "output 0 must be an object"),
    "a classification": (
        {"inputs": [], "outputs": [{"name": "out", "parameters": {"classification": 3}}]},
        "a classification, which is not made here",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_the_protocol_is_refused(name: str) -> None:
    request, says = BAD[name]
    with pytest.raises(BadRequestError, match=says):
        taken(request, X)


def test_tensors_in_binary_form_are_refused_as_tritons_client_sends_them() -> None:
    body = (
        b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP64","parameters":{"binary_data_size":16}}],"parameters":'
        b'{"binary_data_output":true}}' + np.array([1.0, 2.0]).tobytes()
    )
    with pytest.raises(BadRequestError, match=r"Inference-Header-Content-Length is there.*binary_data=False"):
        taken(body, X, header_length="133", content_type="application/octet-stream")


@pytest.mark.parametrize("kind", ["text/csv", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaError, match="must be application/json"):
        taken(MATRIX["nested"], X, content_type=kind)


@pytest.mark.parametrize("kind", [None, "application/json; charset=utf-8", "application/octet-stream"])
def test_what_clients_say_of_json_is_taken(kind: str | None) -> None:
    assert taken(MATRIX["nested"], X, content_type=kind)[0].content["data"] == [[1.0, 2.0], [3.0, 4.0]]


def test_a_body_beyond_the_limit_is_refused() -> None:
    with pytest.raises(TooLargeError, match="must have at most 10"):
        taken(MATRIX["nested"], X, max_bytes=10)


@pytest.mark.parametrize(
    ("sent", "declared"), [("FP64", "int64"), ("BYTES", "float32"), ("INT64", "bool"), ("FP32", "bool")]
)
def test_an_array_of_a_type_that_would_lose_something_is_refused(sent: str, declared: str) -> None:
    meta = metadata(Schema([TensorSpec(np.dtype(declared), (-1, 1))]))
    with pytest.raises(BadRequestError, match=f"is {sent}, and the model's is"):
        read({"inputs": [one("x", [1, 1], sent, ["a"] if sent == "BYTES" else [3])]}, meta)


def test_a_model_of_one_array_takes_no_second_one() -> None:
    meta = metadata(Schema([TensorSpec(np.dtype("float64"), (-1,))]))
    with pytest.raises(BadRequestError, match="2 tensors, must be 1"):
        read({"inputs": [one("x", [1], "FP64", [1]), one("y", [1], "FP64", [1])]}, meta)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_whatever_stands_in_a_request_is_read_or_refused(value: Any) -> None:
    for request in (
        value,
        {"inputs": value},
        {"inputs": [one("x", value, "FP64", [1])]},
        {"inputs": [one("x", [1], "INT64", value)]},
        {"inputs": [one("x", [1], "BYTES", value)], "outputs": value},
        {"id": value, "parameters": value, "inputs": [one("x", [1], value, [1])]},
    ):
        try:
            document, _ = taken(request, Interface("columns", (Tensor("x", "FP64", (-1, 1)),)))
        except BadRequestError:
            continue
        assert len(document.content["data"]) >= 1


def test_base64_without_a_signature_is_bytes() -> None:
    request = {"inputs": [one("x", [1], "BYTES", [base64.b64encode(b"\x00").decode()], "base64")]}
    assert taken(request, Interface())[0].content == [b"\x00"]
