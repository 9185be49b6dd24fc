"""Open Inference Protocol v2, as KServe, MLServer and Triton speak it in JSON: from a request to a document.

The document is one of `scoring_protocol`, so that a version's own reader checks and reads it. Knows no HTTP.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from model_rollouts.gateway.errors import BadRequestError, TooLargeError, UnsupportedMediaError
from model_rollouts.gateway.open_inference_model import BASE64, DATETIME, JSON_TEXT, TABLE, TEXT, Interface, Tensor
from model_rollouts.gateway.open_inference_tensors import (
    Sent,
    binary_error,
    content_type_of,
    nested,
    parameters_of,
    read_tensors,
    shown,
)
from model_rollouts.gateway.scoring_protocol import Document, parse_json

HEADER_LENGTH = "Inference-Header-Content-Length"

_MEDIA = frozenset({"", "application/json", "application/octet-stream"})  # Triton's clients say nothing, or the last
_LIST_CODECS = frozenset({TEXT, BASE64, DATETIME, JSON_TEXT})  # MLServer's clients send lists of these as [rows, 1]
_FRAME_DIMENSIONS = 2


@dataclass(frozen=True, slots=True)
class InferHeader:
    """What stands around the inputs of a request.

    Attributes:
        id: The caller's id of the request, to be given back.
        outputs: Names of the outputs that are asked for; None: all.
    """

    id: str | None
    outputs: tuple[str, ...] | None


def decode(
    body: bytes,
    content_type: str | None,
    header_length: str | None,
    model: Interface,
    max_rows: int,
    max_bytes: int,
) -> tuple[Document, InferHeader]:
    """Decode an inference request.

    Args:
        body: As sent.
        content_type: The header.
        header_length: The header of HEADER_LENGTH, which announces tensors in binary form.
        model: What the version takes.
        max_rows: Most rows.
        max_bytes: Largest body.

    Raises:
        UnsupportedMediaError: Another content type.
        TooLargeError: The body is too large.
        BadRequestError: It does not fit the protocol or the model's inputs; says where.
    """
    if (content_type or "").partition(";")[0].strip().lower() not in _MEDIA:
        raise UnsupportedMediaError(f"the content type is '{content_type}', must be application/json")
    if len(body) > max_bytes:
        raise TooLargeError(f"the body has {len(body)} bytes, must have at most {max_bytes}; send smaller parts")
    if header_length is not None:
        raise binary_error(f"the header {HEADER_LENGTH} is there")
    request = parse_json(body)
    if not isinstance(request, dict):
        raise BadRequestError(f"the body is a {type(request).__name__}, must be an object with 'inputs'")
    parameters = parameters_of(request, "the request")
    header = InferHeader(_id(request.get("id")), _outputs(request.get("outputs"), model))
    kind, content = _content(
        read_tensors(request.get("inputs"), max_rows), content_type_of(parameters, "the request"), model
    )
    params = {name: value for name, value in parameters.items() if name in model.params}
    return Document(kind, content, params), header


def _id(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadRequestError(f"'id' is a {type(value).__name__}, must be text")
    return value or None


def _outputs(items: Any, model: Interface) -> tuple[str, ...] | None:
    if items is None or items == []:
        return None
    if not isinstance(items, list):
        raise BadRequestError(f"'outputs' is a {type(items).__name__}, must be a list")
    names = []
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BadRequestError(f"output {index} must be an object with a 'name'")
        if parameters_of(item, f"output {index}").get("classification"):
            raise BadRequestError(f"output {index} asks for a classification, which is not made here; leave it out")
        names.append(item["name"])
    if len(set(names)) != len(names):
        raise BadRequestError("'outputs' names an output more than once; name each once")
    declared = [tensor.name for tensor in model.outputs]
    for name in names:
        if declared and name not in declared:
            raise BadRequestError(f"the model has no output {shown(name)}; it has {', '.join(declared)[:200]}")
    return tuple(names)


def _content(tensors: list[Sent], content_type: str | None, model: Interface) -> tuple[str, Any]:
    """The format of the document, and what stands under it."""
    if model.kind == "columns":
        columns = _columns(tensors, model)
        known = [tensor.name for tensor in model.inputs if tensor.name in columns]
        return _frame({name: columns[name] for name in [*known, *columns]})  # in the order that is read fastest
    if model.kind in ("tensor", "tensors"):
        return "inputs", _arrays(tensors, model)
    only = model.inputs[0] if len(model.inputs) == 1 else None
    if model.kind == "any" and content_type == TABLE:
        return _frame({sent.name: _per_row(sent, None) for sent in tensors})
    if len(tensors) == 1:
        sent = tensors[0]
        single = sent.content_type in _LIST_CODECS or (only is not None and only.content_type != JSON_TEXT)
        return "inputs", _per_row(sent, only) if single else nested(_elements(sent, only), sent.shape)
    if model.kind == "items":
        rows = zip(*(_per_row(sent, None) for sent in tensors), strict=True)
        return "inputs", [dict(zip([sent.name for sent in tensors], row, strict=True)) for row in rows]
    return "inputs", {sent.name: nested(_elements(sent, None), sent.shape) for sent in tensors}


def _frame(columns: dict[str, list[Any]]) -> tuple[str, Any]:
    data = [list(row) for row in zip(*columns.values(), strict=True)]
    return "dataframe_split", {"columns": list(columns), "data": data}


def _columns(tensors: list[Sent], model: Interface) -> dict[str, Any]:
    declared = {tensor.name: tensor for tensor in model.inputs}
    if len(tensors) == 1 and tensors[0].name not in declared:
        tensors = _by_position(tensors[0], model.inputs)
    return {sent.name: _column(sent, declared.get(sent.name)) for sent in tensors}


def _by_position(sent: Sent, inputs: Sequence[Tensor]) -> list[Sent]:
    """One tensor with all columns, taken apart. It has no names, so it has to have every one."""
    if len(sent.shape) > _FRAME_DIMENSIONS or sent.width != len(inputs):
        names = ", ".join(tensor.name for tensor in inputs)[:400]
        raise BadRequestError(
            f"input {shown(sent.name)} has shape {list(sent.shape)}, must be [rows, {len(inputs)}], or there must be "
            f"one tensor for each of the model's inputs: {names}"
        )
    width = len(inputs)
    return [
        replace(sent, name=tensor.name, shape=sent.shape[:1], flat=sent.flat[i::width])
        for i, tensor in enumerate(inputs)
    ]


def _column(sent: Sent, declared: Tensor | None) -> list[Any]:
    if declared is None:
        return _not_declared(sent)
    if declared.content_type == JSON_TEXT and sent.content_type != JSON_TEXT:
        return nested(sent.flat, sent.shape)  # a column of lists
    if sent.width != 1:
        raise BadRequestError(
            f"input {shown(sent.name)} has shape {list(sent.shape)}, must be [rows] or [rows, 1]: it is one column"
        )
    return _elements(sent, declared)


def _arrays(tensors: list[Sent], model: Interface) -> Any:
    if model.kind == "tensor":
        if len(tensors) != 1:
            raise BadRequestError(f"there are {len(tensors)} tensors, must be 1: the model takes a single array")
        return _array(tensors[0], model.inputs[0])
    declared = {tensor.name: tensor for tensor in model.inputs}
    return {
        sent.name: _array(sent, declared[sent.name]) if sent.name in declared else _not_declared(sent)
        for sent in tensors
    }


def _not_declared(sent: Sent) -> list[Any]:
    """What the model does not know may name the unit, and is not nested for nobody.

    Raises:
        BadRequestError: It has more than one element a row.
    """
    if sent.width != 1:
        raise BadRequestError(
            f"input {shown(sent.name)} has shape {list(sent.shape)}, and the model has no such input; leave it out"
        )
    return _elements(sent, None)


def _array(sent: Sent, declared: Tensor) -> list[Any]:
    """Nested; refused where MLflow would cut fractions off, or read texts as numbers."""
    if not _fits(sent.datatype, declared.datatype):
        raise BadRequestError(
            f"input {shown(sent.name)} is {sent.datatype}, and the model's is {declared.datatype}; send it as that"
        )
    return nested(_elements(sent, declared), sent.shape)


def _fits(sent: str, declared: str) -> bool:
    kinds = ["BOOL", "INT", "FP"]
    have, want = (name.lstrip("U").rstrip("0123456789") for name in (sent, declared))
    return have == want or (have in kinds and want in kinds and kinds.index(have) < kinds.index(want))


def _per_row(sent: Sent, declared: Tensor | None) -> list[Any]:
    """One value a row: a list only where a row has several elements."""
    values = _elements(sent, declared)
    return values if sent.width == 1 else nested(values, sent.shape)


def _elements(sent: Sent, declared: Tensor | None) -> list[Any]:
    """The elements, texts as their content type means them and as the model's reader takes them."""
    binary = declared is not None and declared.content_type == BASE64
    if sent.content_type == JSON_TEXT:
        return [_from_text(sent, value, json.loads) for value in sent.flat]
    if sent.content_type == TEXT and binary:
        return [None if text is None else base64.b64encode(text.encode()).decode() for text in sent.flat]
    if sent.content_type != BASE64 or binary:
        return sent.flat
    if declared is not None:
        raise BadRequestError(
            f"input {shown(sent.name)} is base64, and the model's is {declared.content_type or declared.datatype}"
        )
    return [_from_text(sent, value, lambda text: base64.b64decode(text, validate=True)) for value in sent.flat]


def _from_text(sent: Sent, value: Any, read: Any) -> Any:
    if value is None:
        return None
    try:
        return read(value)
    except (TypeError, ValueError, RecursionError, binascii.Error) as error:
        raise BadRequestError(
            f"input {shown(sent.name)} has {shown(value)}, which is no {sent.content_type}: {error}"
        ) from error
