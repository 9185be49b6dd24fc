"""Bodies of the Open Inference Protocol, as its clients' own encoders wrote them (tritonclient 2.73, MLServer 1.7.1,
KServe 0.21), and models and tensors for tests that write their own.
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from mlflow.models.model import Model
from mlflow.types import ColSpec

ALL = [
    ColSpec("boolean", "late"),
    ColSpec("integer", "seats"),
    ColSpec("long", "id"),
    ColSpec("float", "share"),
    ColSpec("double", "delay"),
    ColSpec("string", "carrier"),
    ColSpec("binary", "raw"),
    ColSpec("datetime", "day"),
    ColSpec("string", "note", required=False),
]


def metadata(inputs: Any, outputs: Any = None, params: Any = None) -> Model:
    signature = infer_signature(pd.DataFrame({"x": [1.0]}), np.array([1.0]))
    signature.inputs, signature.outputs, signature.params = inputs, outputs, params
    return Model(signature=signature, flavors={"python_function": {"loader_module": "x"}})


def one(name: str, shape: list[int], datatype: str, data: Any, content_type: str | None = None) -> dict[str, Any]:
    parameters = {} if content_type is None else {"parameters": {"content_type": content_type}}
    return {"name": name, "shape": shape, "datatype": datatype, "data": data} | parameters


CLIENTS = {
    "tritonclient, a tensor a column": (
        b'{"id":"t-1","inputs":[{"name":"delay","shape":[2,1],"datatype":"FP64","data":[1.5,-2.0]},'
        b'{"name":"seats","shape":[2],"datatype":"INT64","data":[100,7]},'
        b'{"name":"carrier","shape":[2],"datatype":"BYTES","data":["UA","Zo\\u00EB"]},'
        b'{"name":"late","shape":[2],"datatype":"BOOL","data":[true,false]}],'
        b'"outputs":[{"name":"output-0","parameters":{"binary_data":true}}]}'
    ),
    "MLServer, pandas": (
        b'{"parameters":{"content_type":"pd"},"inputs":[{"name":"delay","shape":[2,1],"datatype":"FP64",'
        b'"data":[1.5,-2.0]},{"name":"seats","shape":[2,1],"datatype":"INT64","data":[100,7]},'
        b'{"name":"carrier","shape":[2,1],"datatype":"BYTES","parameters":{"content_type":"str"},'
        b'"data":["UA","Zo\xc3\xab"]},{"name":"late","shape":[2,1],"datatype":"BOOL","data":[true,false]}]}'
    ),
    "KServe, pandas": (
        b'{"id": "k-2", "model_name": "m", "inputs": [{"name": "delay", "shape": [2], "datatype": "FP32", '
        b'"data": [1.5, -2.0]}, {"name": "seats", "shape": [2], "datatype": "INT32", "data": [100, 7]}, '
        b'{"name": "carrier", "shape": [2], "datatype": "BYTES", "data": ["UA", "Zo\\u00eb"]}, '
        b'{"name": "late", "shape": [2], "datatype": "BOOL", "data": [true, false]}], '
        b'"parameters": {"content_type": "pd"}}'
    ),
}

MATRIX = {
    "tritonclient": (
        b'{"inputs":[{"name":"input-0","shape":[2,2],"datatype":"FP64","data":[1.0,2.0,3.0,4.0]}],"parameters":'
        b'{"sequence_id":5,"sequence_start":false,"sequence_end":false,"priority":2,"timeout":100,'
        b'"binary_data_output":true,"threshold":0.25}}'
    ),
    "MLServer": (
        b'{"parameters":{"content_type":"np"},"inputs":[{"name":"input-1","shape":[2,2],"datatype":"FP64",'
        b'"parameters":{"content_type":"np"},"data":[1.0,2.0,3.0,4.0]}]}'
    ),
    "KServe": (
        b'{"id": "k-1", "model_name": "m", "inputs": [{"name": "input-0", "shape": [2, 2], "datatype": "FP64", '
        b'"data": [1.0, 2.0, 3.0, 4.0]}]}'
    ),
    "nested": b'{"inputs":[{"name":"all","shape":[2,2],"datatype":"FP64","data":[[1,2.0],[3,4]]}]}',
}
