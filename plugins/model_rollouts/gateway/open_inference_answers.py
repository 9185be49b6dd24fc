"""Open Inference Protocol v2: from the answers of a request's rows to a response, as MLServer's MLflow runtime has it.

A number, boolean or text a row is one tensor of shape [rows, 1]; lists of one shape are one tensor with that shape
behind the rows; records are one tensor a key. What is none of these becomes JSON text, one element a row.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import orjson

from model_rollouts.gateway.answers import Answer
from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.open_inference_model import ARRAY, JSON_TEXT, TABLE, TEXT, Interface
from model_rollouts.gateway.scoring_protocol import parse_json

_LOW, _HIGH, _UNSIGNED = -(2**63), 2**63 - 1, 2**64 - 1
_EXACT = 2**53
_UNNAMED = "0"  # what pandas calls the only column of a Series without a name


def encode(
    answers: Sequence[Answer],
    model_name: str,
    model_version: str,
    request_id: str,
    outputs: tuple[str, ...] | None,
    model: Interface,
) -> bytes:
    """The body of a successful inference.

    Args:
        answers: One a row, in order; at least one.
        model_name: Registered model name.
        model_version: The versions that answered, comma-separated.
        request_id: To be given back.
        outputs: Names of the outputs that are asked for, in that order; None: all.
        model: What the version says that it gives: names its only output.

    Raises:
        BadRequestError: An output that is asked for is not among those that there are.
    """
    values = parse_json(f"[{','.join(answer.json for answer in answers)}]".encode())
    unnamed = all(isinstance(value, dict) and value.keys() == {_UNNAMED} for value in values)
    content_type, tensors = _tensors(_only(values, outputs), unnamed, model)
    if outputs is not None:
        found = {tensor["name"]: tensor for tensor in tensors}
        missing = [name for name in outputs if name not in found]
        if missing:
            raise BadRequestError(
                f"the answer has no output {missing[0][:80]!r}; it has {', '.join(map(str, found))[:200]}"
            )
        tensors = [found[name] for name in outputs]
    return _dump(
        {
            "model_name": model_name,
            "model_version": model_version,
            "id": request_id,
            "parameters": {"content_type": content_type},
            "outputs": tensors,
        }
    )


def _only(values: list[Any], outputs: tuple[str, ...] | None) -> list[Any]:
    """The records with the outputs that are asked for alone: two versions may differ in others."""
    if outputs is None or not all(isinstance(value, dict) and value.keys() >= set(outputs) for value in values):
        return values
    return [{name: value[name] for name in outputs} for value in values]


def _tensors(values: list[Any], unnamed: bool, model: Interface) -> tuple[str, list[dict[str, Any]]]:
    """The response's content type, and its outputs.

    Args:
        values: The rows' answers, cut to what is asked for.
        unnamed: Whether a Series without a name is all that the model gave; one column of several has a name.
        model: Names the only output.
    """
    first = values[0]
    only = model.outputs[0].name if len(model.outputs) == 1 else "output-0"
    if isinstance(first, dict) and first and all(isinstance(v, dict) and v.keys() == first.keys() for v in values):
        columns = {key: [value[key] for value in values] for key in first}
        return TABLE, [_tensor(only if unnamed else key, column) for key, column in columns.items()]
    tensor = _tensor(only, values)
    found = tensor["parameters"]["content_type"]
    return TABLE if found == JSON_TEXT else found, [tensor]


def _tensor(name: str, values: list[Any]) -> dict[str, Any]:
    shape, flat = _unpacked(values)
    datatype = _datatype(flat)
    if datatype is None:
        shape, flat, datatype, content_type = [len(values)], [json.dumps(v) for v in values], "BYTES", JSON_TEXT
    else:
        content_type = TEXT if datatype == "BYTES" else ARRAY
    return {
        "name": name,
        "shape": shape if len(shape) > 1 else [*shape, 1],
        "datatype": datatype,
        "parameters": {"content_type": content_type},
        "data": flat,
    }


def _unpacked(values: list[Any]) -> tuple[list[int], list[Any]]:
    """The shape and the elements of lists of one length, at every depth; as they are where lengths differ."""
    shape, flat = [len(values)], values
    while flat and all(isinstance(value, list) for value in flat):
        widths = {len(value) for value in flat}
        if len(widths) != 1:
            return [len(values)], values
        shape.append(widths.pop())
        flat = [item for value in flat for item in value]
    return shape, flat


def _datatype(flat: list[Any]) -> str | None:
    """The datatype that holds every element as it is; null only among numbers with fractions, and among texts."""
    kinds = set(map(type, flat))
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        low, high = min(flat), max(flat)
        if low >= _LOW and high <= _HIGH:
            return "INT64"
        return "UINT64" if low >= 0 and high <= _UNSIGNED else None
    if str in kinds and kinds <= {str, type(None)}:
        return "BYTES"
    if float in kinds and kinds <= {float, int, type(None)} and all(map(_is_double, flat)):
        return "FP64"
    return None


def _is_double(value: float | None) -> bool:
    """Whether a double holds it and JSON can say it; NaN is written as null, as MLServer does."""
    return value is None or (not math.isinf(value) if isinstance(value, float) else abs(value) <= _EXACT)


def _dump(content: Any) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError:  # a text that is no UTF-8: JSON can say it, orjson will not
        return json.dumps(content).encode()
