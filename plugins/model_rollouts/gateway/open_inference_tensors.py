"""The tensors of an Open Inference Protocol request, checked: their shape, their datatype and every element."""

import math
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import mul
from typing import Any

import numpy as np

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.open_inference_model import CONTENT_TYPES

_WHOLE = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_FLOATS: dict[str, Any] = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_SINGLE = {"BOOL": bool, "BYTES": str}
DATATYPES = ("BOOL", *_WHOLE, *_FLOATS, "BYTES")

_EXACT = 2**53  # whole floats beyond this no longer say which integer was meant
_MOST_DIMENSIONS = 8
_TABLE_DIMENSIONS = 2  # which are never too many lists
_LISTS_PER_ELEMENT = 2  # each has the size of dozens of sent bytes; most shapes take fewer
_LISTS_PER_ROW = 8
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Sent:
    """One tensor of a request.

    Attributes:
        name: As sent.
        shape: The first size is the number of rows.
        datatype: One of DATATYPES.
        content_type: How texts are meant, in MLServer's words, if the caller says so.
        flat: The elements in row-major order; None for a missing one.
    """

    name: str
    shape: tuple[int, ...]
    datatype: str
    content_type: str | None
    flat: list[Any]

    @property
    def rows(self) -> int:
        """How many."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Elements of one row."""
        return math.prod(self.shape[1:])


def read_tensors(items: Any, max_rows: int) -> list[Sent]:
    """The tensors of `inputs`.

    Args:
        items: What stood under `inputs`.
        max_rows: Most rows.

    Raises:
        BadRequestError: They do not fit the protocol; says which and where.
    """
    if not isinstance(items, list) or not items:
        raise BadRequestError("'inputs' must be a list with at least one tensor")
    tensors = [_tensor(item, index, max_rows) for index, item in enumerate(items)]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise BadRequestError("'inputs' names a tensor more than once; name each once")
    if len({tensor.rows for tensor in tensors}) > 1:
        have = ", ".join(f"{tensor.name}: {tensor.rows}" for tensor in tensors[:20])
        raise BadRequestError(f"the tensors do not have the same number of rows ({have})")
    deep = [tensor for tensor in tensors if len(tensor.shape) > _TABLE_DIMENSIONS]
    lists = sum(map(_lists, deep))
    most = _LISTS_PER_ELEMENT * sum(len(tensor.flat) for tensor in deep) + _LISTS_PER_ROW * max_rows
    if lists > most:
        raise BadRequestError(
            f"the tensors' shapes make {lists} lists, must be at most {most} for so many elements; leave out "
            "dimensions of size 1"
        )
    return tensors


def nested(values: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """Flat values in the shape of a tensor."""
    for width in reversed(shape[1:]):
        values = [values[i : i + width] for i in range(0, len(values), width)]
    return values


def _lists(tensor: Sent) -> int:
    """How many lists it takes to nest a tensor."""
    return sum(accumulate(tensor.shape[:-1], mul))


def parameters_of(item: dict[str, Any], where: str) -> dict[str, Any]:
    """The `parameters` of a request, an input or an output.

    Raises:
        BadRequestError: They are no object.
    """
    parameters = item.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise BadRequestError(f"'parameters' of {where} is a {type(parameters).__name__}, must be an object")
    return parameters or {}


def content_type_of(parameters: dict[str, Any], where: str) -> str | None:
    """The content type among parameters.

    Raises:
        BadRequestError: It is none that is known here.
    """
    found = parameters.get("content_type")
    if found is None or (isinstance(found, str) and found in CONTENT_TYPES):
        return found
    known = ", ".join(sorted(CONTENT_TYPES))
    raise BadRequestError(f"content_type of {where} is {shown(found)}, must be one of {known}, or be left out")


def binary_error(what: str) -> BadRequestError:
    """What to say of tensors in binary form."""
    return BadRequestError(
        f"{what}, and tensors in binary form are not read here; send them as JSON in 'data' (in Triton's client: "
        "binary_data=False)"
    )


def shown(value: Any) -> str:
    """A value in an error."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _tensor(item: Any, index: int, max_rows: int) -> Sent:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise BadRequestError(f"input {index} must be an object with name, shape, datatype and data")
    where = f"input {shown(item['name'])}"
    parameters = parameters_of(item, where)
    if "binary_data_size" in parameters:
        raise binary_error(f"{where} has binary_data_size")
    datatype = item.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequestError(f"{where} has datatype {shown(datatype)}, must be one of {', '.join(DATATYPES)}")
    shape = _shape(item.get("shape"), where, max_rows)
    flat = _flat(item.get("data"), shape, where)
    return Sent(item["name"], shape, datatype, content_type_of(parameters, where), _typed(flat, datatype, where))


def _shape(value: Any, where: str, max_rows: int) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) else []
    if not 1 <= len(sizes) <= _MOST_DIMENSIONS or any(type(size) is not int or size < 1 for size in sizes):
        raise BadRequestError(
            f"{where} has shape {shown(value)}, must be a list of 1 to {_MOST_DIMENSIONS} whole numbers above 0"
        )
    if sizes[0] > max_rows:
        raise BadRequestError(f"{where} has {sizes[0]} rows, must have at most {max_rows}; send smaller parts")
    return tuple(sizes)


def _flat(data: Any, shape: tuple[int, ...], where: str) -> list[Any]:
    """The elements, whether they came flat or nested."""
    if not isinstance(data, list):
        raise BadRequestError(f"{where} has data of type {type(data).__name__}, must be a list")
    level = data
    if data and isinstance(data[0], list):
        if len(data) != shape[0]:
            raise BadRequestError(f"{where} has {len(data)} rows of data, must have {shape[0]} for {list(shape)}")
        for depth, width in enumerate(shape[1:], 1):
            if not all(isinstance(part, list) and len(part) == width for part in level):
                raise BadRequestError(f"{where} has other data than shape {list(shape)} says, at depth {depth}")
            level = list(chain.from_iterable(level))
    size = math.prod(shape)
    if len(level) != size:
        raise BadRequestError(f"{where} has {len(level)} elements, must have {size} for shape {list(shape)}")
    return level


def _typed(values: list[Any], datatype: str, where: str) -> list[Any]:
    if datatype in _WHOLE:
        return _whole(values, datatype, where)
    if datatype in _FLOATS:
        return _floats(values, datatype, where)
    return _only(values, {_SINGLE[datatype], type(None)}, datatype, where)


def _whole(values: list[Any], datatype: str, where: str) -> list[Any]:
    if float in set(map(type, values)):
        values = [int(v) if type(v) is float and v.is_integer() and abs(v) <= _EXACT else v for v in values]
    _only(values, {int, type(None)}, datatype, where)
    low, high = _WHOLE[datatype]
    for value in values:
        if value is not None and not low <= value <= high:
            raise BadRequestError(f"{where} has {shown(value)}, must be between {low} and {high} for {datatype}")
    return values


def _floats(values: list[Any], datatype: str, where: str) -> list[Any]:
    """As the datatype holds them: 0.1 of FP32 is not 0.1 of FP64, for this server as for the others."""
    _only(values, {int, float, type(None)}, datatype, where)
    try:
        exact = np.array(values, np.float64)
    except OverflowError:
        raise BadRequestError(f"{where} has a number beyond {datatype}") from None
    with np.errstate(over="ignore"):
        rounded = exact.astype(_FLOATS[datatype])
    if (np.isinf(rounded) & ~np.isinf(exact)).any():
        raise BadRequestError(f"{where} has a number beyond {datatype}")
    listed: list[Any] = rounded.tolist()
    return listed


def _only(values: list[Any], allowed: set[type], datatype: str, where: str) -> list[Any]:
    if not set(map(type, values)) <= allowed:
        index, value = next((i, v) for i, v in enumerate(values) if type(v) not in allowed)
        raise BadRequestError(f"{where} has {shown(value)} at element {index}, which is no {datatype}")
    return values
