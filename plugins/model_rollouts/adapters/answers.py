"""From a model's output to one answer a row: what the caller gets, and what the log keeps."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

_ERROR_CHARS = 500
_TABLE = 2  # dimensions
_TWO_CLASSES = 2
_SUM_SLACK = 1e-6  # probabilities of one row add up to 1 within this


class OutputError(Exception):
    """The model's output can't be read as one answer a row."""


@dataclass(slots=True)
class Answer:
    """A row's answer.

    Attributes:
        json: What the caller gets, encoded as MLflow's server does.
        prediction: Canonical text for the log.
        score: Probability or regression value, where there is one.
    """

    json: str
    prediction: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that has no answer.

    Attributes:
        status: `error` or `timeout`.
        error: The reason.
        overloaded: Whether it was not even tried, for want of room.
    """

    status: str
    error: str
    overloaded: bool = False


def failure(error: BaseException) -> Failure:
    """A row's failure from what was raised; in its `plain` words, if it has them, for the log must not have inputs."""
    plain = getattr(error, "plain", None)
    reason = plain if isinstance(plain, str) else str(error)
    text = reason if isinstance(error, OutputError) else f"{type(error).__name__}: {reason}"
    return Failure("error", text[:_ERROR_CHARS].encode(errors="replace").decode())


def canonical(value: Any) -> str:
    """One text for one answer, whatever type it came in: `1` for 1, 1.0 and True; `0.25`; text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    if isinstance(value, int | np.integer):
        return str(int(value))
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(value, default=str, option=options).decode()


def split(output: Any, rows: int) -> list[Answer | Failure]:
    """One answer a row, in order. A row whose prediction or score is no number is a failure of that row alone.

    Args:
        output: What `predict` returned.
        rows: How many rows it was asked for.

    Raises:
        OutputError: It is no array, Series, DataFrame or list, or not as long as there are rows.
    """
    if isinstance(output, np.ndarray) and output.ndim == 1 and (short := _plain(output)) is not None:
        if len(short) != rows:
            raise OutputError(f"the model returned {len(short)} answers, must be {rows}, one for each row")
        return short
    import pandas as pd

    if isinstance(output, pd.DataFrame):
        values: list[Any] = output.to_dict(orient="records")
        read = _from_record
    elif isinstance(output, pd.Series):
        name = output.name if output.name is not None else 0
        values = [{name: value} for value in output.tolist()]
        read = _from_single
    elif isinstance(output, np.ndarray) and output.ndim >= 1:
        values = output.tolist()
        read = _from_array(output)
    elif isinstance(output, list):
        values, read = output, _from_item
    else:
        raise OutputError(f"the model returned a {type(output).__name__}, must be an array, Series, DataFrame or list")
    if len(values) != rows:
        raise OutputError(f"the model returned {len(values)} answers, must be {rows}, one for each row")
    return [_checked(value, *read(value)) for value in values]


def _plain(output: "np.ndarray[Any, Any]") -> list[Answer | Failure] | None:
    """Whole numbers, truth values and finite floats, which need no second look; None: anything else."""
    kind = output.dtype.kind
    if kind in "iu":
        return [Answer(text, text) for text in map(str, output.tolist())]
    if kind == "b":
        return [Answer("true", "1") if value else Answer("false", "0") for value in output.tolist()]
    if kind == "f" and np.isfinite(output).all():
        return [Answer(repr(value), canonical(value), value) for value in output.tolist()]
    return None


def body(answers: Sequence[Answer]) -> bytes:
    """The body of a successful call, as MLflow's server writes it."""
    return f'{{"predictions": [{", ".join(answer.json for answer in answers)}]}}'.encode()


def _encode_other(value: Any) -> Any:
    """Numpy scalars, dates, bytes: MLflow's own encoder knows them. Imported only where an answer holds one."""
    from mlflow.utils.proto_json_utils import NumpyEncoder

    return NumpyEncoder().default(value)


def _checked(value: Any, prediction: Any, score: Any) -> Answer | Failure:
    if isinstance(prediction, np.generic):
        prediction = prediction.item()
    if prediction is None or not _is_number_or_other(prediction):
        return Failure("error", f"not a number: prediction is {prediction}"[:_ERROR_CHARS])
    try:
        number = None if score is None else float(score)
        if number is not None and not math.isfinite(number):
            return Failure("error", f"not a number: score is {number}")
        text = canonical(prediction)
        text.encode()  # the log keeps UTF-8
        return Answer(json.dumps(value, default=_encode_other), text, number)
    except (TypeError, ValueError) as error:  # the answer is no JSON, or the score no number
        return failure(error)


def _is_number_or_other(value: Any) -> bool:
    """Whether nothing in it is NaN, infinite or missing."""
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    if isinstance(value, str | bytes | int):
        return True
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return all(_is_number_or_other(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_number_or_other(item) for item in value)
    import pandas as pd

    return value is not pd.NA and value is not pd.NaT


def _regression(value: Any) -> float | None:
    return float(value) if isinstance(value, float | np.floating) else None


def _from_single(value: Mapping[Any, Any]) -> tuple[Any, Any]:
    (only,) = value.values()
    return only, _regression(only)


def _from_item(value: Any) -> tuple[Any, Any]:
    return _from_record(value) if isinstance(value, Mapping) else (value, _regression(value))


def _from_record(value: Mapping[Any, Any]) -> tuple[Any, Any]:
    if "prediction" in value:
        return value["prediction"], value.get("score", value.get("probability"))
    return value, None


def _from_array(output: np.ndarray[Any, Any]) -> Any:
    width = output.shape[1] if output.ndim == _TABLE else None
    if width == 1:
        return lambda value: (value[0], _regression(value[0]))
    if width == _TWO_CLASSES and output.dtype.kind == "f":
        return _from_probabilities
    return lambda value: (value, _regression(value))


def _from_probabilities(value: list[float]) -> tuple[Any, Any]:
    if not all(math.isfinite(p) for p in value):
        return math.nan, None
    if min(value) < 0 or abs(sum(value) - 1) > _SUM_SLACK:
        return value, None  # two numbers, but not the probabilities of two classes
    return int(value[1] > value[0]), value[1]
