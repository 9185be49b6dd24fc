"""What goes to a version's own server and what comes back, as JSON: MLflow's protocol and the Open Inference Protocol.

Answers are read by the rules that hold in process (`adapters/answers.py`). JSON forgets some types, so one thing is
taken to be the usual one: rows that are lists of numbers come from an array, and a table whose only column is called
"0" from a series without a name.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import orjson

from model_rollouts.gateway.answers import Answer, Failure, OutputError, split
from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.payload import Payload, Table
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.scoring_protocol import parse_json

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_HOLE = Failure("error", "not a number: the server answered null")

# Type of a signature's column -> the protocol's datatype, and how MLServer is told what the bytes are.
_COLUMNS: dict[str, tuple[str, str | None]] = {
    "boolean": ("BOOL", None),
    "integer": ("INT32", None),
    "long": ("INT64", None),
    "float": ("FP32", None),
    "double": ("FP64", None),
    "string": ("BYTES", "str"),
    "binary": ("BYTES", "base64"),
    "datetime": ("BYTES", "datetime"),
}


class WireProtocol(Protocol):
    """How to talk to one kind of server."""

    score_path: str
    ready_path: str

    def encode(self, payload: Payload, params: Mapping[str, Any]) -> bytes:
        """A request's body.

        Raises:
            OutputError: The rows can't be said in this protocol.
        """

    def decode(self, body: bytes, rows: int, version: str) -> Results:
        """One result a row.

        Args:
            body: Of an answer with status 200.
            rows: How many were sent.
            version: That the answer has to name; "": any.

        Raises:
            OutputError: It can't be read as one answer a row.
        """


class MlflowProtocol:
    """`POST /invocations` of `mlflow models serve`."""

    score_path, ready_path = "/invocations", "/ping"

    def encode(self, payload: Payload, params: Mapping[str, Any]) -> bytes:
        """See `WireProtocol`."""
        content: dict[str, Any]
        if isinstance(payload, Table):
            values = [_plain(c.type, v) for c, v in zip(payload.columns, payload.by_column(), strict=True)]
            data = list(zip(*values, strict=True))
            content = {"dataframe_split": {"columns": [c.name for c in payload.columns], "data": data}}
        elif hasattr(frame := payload.data(), "iloc"):
            content = {"dataframe_split": frame.to_dict(orient="split", index=False)}
        else:
            content = {"inputs": frame}
        if params:
            content["params"] = params
        return _dumps(content)

    def decode(self, body: bytes, rows: int, version: str) -> Results:
        """See `WireProtocol`; this protocol's answers do not name a version."""
        answer = _loads(body)
        if "predictions" not in answer:
            raise OutputError(f"the server answered an object with {_keys(answer)}, must have 'predictions'")
        return _results(answer["predictions"], rows)


class OpenInferenceProtocol:
    """`POST .../infer` of the Open Inference Protocol (v2); the base address is the model's or version's path."""

    score_path, ready_path = "/infer", "/ready"

    def encode(self, payload: Payload, params: Mapping[str, Any]) -> bytes:
        """See `WireProtocol`. Each column is one input of shape [rows, 1], as MLServer's `pd` codec has it."""
        parameters = dict(params)
        if isinstance(payload, Table):
            parameters.setdefault("content_type", "pd")
            inputs = [_column(c.name, c.type, v) for c, v in zip(payload.columns, payload.by_column(), strict=True)]
        else:
            content = payload.data()
            named = content if isinstance(content, Mapping) else {"input-0": content}
            inputs = [_tensor(str(name), array) for name, array in named.items()]
        return _dumps({"inputs": inputs} | ({"parameters": parameters} if parameters else {}))

    def decode(self, body: bytes, rows: int, version: str) -> Results:
        """See `WireProtocol`. One output is the answers; several are the columns of a table."""
        answer = _loads(body)
        named = answer.get("model_version")
        if version and named not in (None, "", version):
            raise OutputError(f"the server answered as version {named}, must be {version}; look at its address")
        outputs = answer.get("outputs")
        if not isinstance(outputs, list) or not outputs or not all(isinstance(o, dict) for o in outputs):
            raise OutputError(f"the server answered an object with {_keys(answer)}, must have 'outputs', a list")
        columns = {str(output.get("name")): _output(output, rows) for output in outputs}
        if len(columns) != len(outputs):
            raise OutputError("the server answered several outputs of one name")
        if len(columns) == 1:
            (only,) = columns.values()
            return _results(only, rows)
        flat = [[v[0] if isinstance(v, list) and len(v) == 1 else v for v in column] for column in columns.values()]
        return _results([dict(zip(columns, row, strict=True)) for row in zip(*flat, strict=True)], rows)


def _plain(kind: str, values: Sequence[Any]) -> Sequence[Any]:
    """A column's values as JSON has them; NaN is written as null."""
    if kind == "datetime":
        return [None if np.isnat(v) else _iso(v) for v in values]
    if kind == "binary":
        return [base64.b64encode(v).decode() for v in values]
    return values


def _iso(moment: np.datetime64) -> str:
    whole = moment == moment.astype("datetime64[us]")  # older readers of ISO 8601 know no nanoseconds
    return str(np.datetime_as_string(moment, unit="us" if whole else "ns"))


def _column(name: str, kind: str, values: Sequence[Any]) -> dict[str, Any]:
    datatype, content_type = _COLUMNS[kind]
    column = {"name": name, "shape": [len(values), 1], "datatype": datatype, "data": _plain(kind, values)}
    return column | ({"parameters": {"content_type": content_type}} if content_type else {})


def _tensor(name: str, array: Any) -> dict[str, Any]:
    kinds = {"f": "FP", "i": "INT", "u": "UINT", "b": "BOOL"}
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        what = getattr(array, "dtype", type(array).__name__)
        raise OutputError(f"input {name} is {what}, which the Open Inference Protocol can't say; use mlflow+http")
    datatype = kinds[array.dtype.kind] + ("" if array.dtype.kind == "b" else str(array.dtype.itemsize * 8))
    _check_finite(array)
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def _check_finite(array: "np.ndarray[Any, Any]") -> None:
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise OutputError("an input is infinite, which JSON can't say")


def _dumps(content: Any) -> bytes:
    def other(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, np.ndarray):  # of text, or not in one piece
            return value.tolist()
        if hasattr(value, "isoformat"):
            return value.isoformat()
        if hasattr(value, "model_dump"):  # what type hints made of a dictionary
            return value.model_dump()
        raise TypeError(f"a {type(value).__name__} can't be sent as JSON")

    if isinstance(inputs := content.get("inputs"), np.ndarray):
        _check_finite(inputs)
    try:
        return orjson.dumps(content, default=other, option=_OPTIONS)
    except TypeError as error:
        raise OutputError(f"the input can't be sent: {error}") from error


def _loads(body: bytes) -> dict[str, Any]:
    try:
        answer = parse_json(body)
    except BadRequestError as error:
        raise OutputError(f"the server's answer is no JSON: {body[:100].decode(errors='replace')!r}") from error
    if not isinstance(answer, dict):
        raise OutputError(f"the server answered a {type(answer).__name__}, must be an object")
    return answer


def _keys(answer: Mapping[str, Any]) -> str:
    return ", ".join(repr(key)[:40] for key in list(answer)[:10]) or "nothing"


def _results(values: Any, rows: int) -> Results:
    """One result a row, null being an answer for nobody."""
    if isinstance(values, list) and values and all(isinstance(v, dict) and v.keys() == {"0"} for v in values):
        values = [value["0"] for value in values]
    results: Results = split(_as_array(values), rows)
    return [_HOLE if isinstance(r, Answer) and _has_hole(v) else r for r, v in zip(results, values, strict=True)]


def _as_array(values: Any) -> Any:
    """Lists of numbers as the array that they were, so that one number a row, and probabilities, are read as such."""
    if not isinstance(values, list) or not values or not all(isinstance(row, list) for row in values):
        return values
    if len({len(row) for row in values}) != 1:
        return values
    kinds = {type(item) for row in values for item in row}
    if float in kinds and kinds <= {int, float}:
        return np.array(values, dtype=np.float64)
    one_each = len(values[0]) == 1 and not kinds & {list, dict}
    return np.array(values, dtype=object) if one_each else values


def _has_hole(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, list):
        return any(_has_hole(item) for item in value)
    if not isinstance(value, dict):
        return False
    if "prediction" not in value:
        return any(_has_hole(item) for item in value.values())
    return _has_hole(value["prediction"]) or any(value.get(key, 0) is None for key in ("score", "probability"))


def _output(output: Mapping[str, Any], rows: int) -> list[Any]:
    """The values of one output, one item a row."""
    name, shape, datatype, data = (output.get(key) for key in ("name", "shape", "datatype", "data"))
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise OutputError(f"output {name!r} has the shape {shape!r}, must be a list of sizes")
    if shape[0] != rows:
        raise OutputError(f"output {name!r} has {shape[0]} answers, must be {rows}, one for each row")
    flat = _flat(data)
    if len(flat) != prod(shape):
        raise OutputError(f"output {name!r} has {len(flat)} values, must be {prod(shape)} for its shape {shape}")
    read = _reader(name, str(datatype), output.get("parameters"))
    width = prod(shape[1:])
    values = [read(item) for item in flat]
    if len(shape) == 1:
        return values
    return [values[start : start + width] for start in range(0, len(values), width)] if width else []


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    return [item for part in data for item in _flat(part)] if any(isinstance(p, list) for p in data) else data


def _reader(name: Any, datatype: str, parameters: Any) -> Callable[[Any], Any]:
    types: tuple[type, ...]
    if datatype.startswith("FP") or datatype == "BF16":
        types = (float, int)
    elif datatype.startswith(("INT", "UINT")):
        types = (int,)
    else:
        types = {"BOOL": (bool,), "BYTES": (str,)}.get(datatype, ())
    as_json = isinstance(parameters, dict) and parameters.get("content_type") == "pd_json"

    def read(item: Any) -> Any:
        if item is None:
            return None
        if type(item) not in types:
            raise OutputError(f"output {name!r} holds {str(item)[:80]!r}, which is no {datatype}")
        if as_json:
            try:
                return json.loads(item)
            except ValueError as error:
                raise OutputError(f"output {name!r} holds {item[:80]!r}, must be JSON") from error
        return float(item) if float in types else item

    return read
