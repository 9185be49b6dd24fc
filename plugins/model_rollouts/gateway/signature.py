"""Checks rows against a model's signature before anything is scored or logged.

Takes what MLflow's server takes (numeric text for a number, whole floats for an integer, null for a float or a text)
and refuses what MLflow would alter without a word: 3.7 for an integer, "no" for a boolean, numbers out of range.
"""

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.payload import Column, Table

_EXACT = 2**53  # whole floats beyond this no longer say which integer was meant
_SHOWN = 80


class _ValueError(Exception):
    """Why a value does not fit its column."""


def is_null(value: Any) -> bool:
    """Whether a JSON value stands for nothing: null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_text(value: str) -> str:
    """The text, if it can be written as UTF-8 (a lone surrogate can't, and would break the log).

    Raises:
        ValueError: It can't.
    """
    if not value.isascii():
        value.encode()
    return value


def _number(value: Any) -> float | int:
    if isinstance(value, int | float):  # a bool is a number here, as it is for MLflow
        return value
    if isinstance(value, str) and "_" not in value:  # Python reads 1_000, no other client does
        text = value.strip()
        try:
            return int(text) if text.lstrip("+-").isdigit() else float(text)
        except ValueError:
            pass
    raise _ValueError("must be a number")


def _floating(limit: float) -> Callable[[Any], float]:
    def cast(value: Any) -> float:
        if is_null(value):
            return math.nan
        try:
            number = float(_number(value))
        except OverflowError:
            number = math.inf
        if math.isnan(number):
            return number
        if not abs(number) <= limit:
            raise _ValueError(f"must be a finite number of at most {limit:g}")
        return number

    return cast


def _whole(bits: int) -> Callable[[Any], int]:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def cast(value: Any) -> int:
        if is_null(value):
            raise _ValueError("is null, and an integer column has no place for that")
        number = _number(value)
        if isinstance(number, float) and not (number.is_integer() and abs(number) <= _EXACT):
            raise _ValueError("must be a whole number")
        if not low <= number <= high:
            raise _ValueError(f"must be between {low} and {high}")
        return int(number)

    return cast


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise _ValueError("must be true or false")


def _text(value: Any) -> Any:
    if is_null(value):
        return value  # null from JSON, NaN from CSV: models see what they see behind MLflow's server
    if not isinstance(value, str):
        raise _ValueError("must be text")
    try:
        return check_text(value)
    except ValueError as error:
        raise _ValueError("must be text that UTF-8 can hold") from error


def _binary(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise _ValueError("must be base64 text")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _ValueError("must be base64 text") from error


def _datetime(value: Any) -> np.datetime64:
    import pandas as pd

    if is_null(value):
        return np.datetime64("NaT", "ns")
    if isinstance(value, bool):
        raise _ValueError("must be an ISO 8601 date")
    try:
        moment = pd.Timestamp(value)
        if moment is pd.NaT:
            return np.datetime64("NaT", "ns")
        if moment.tzinfo is not None:
            raise _ValueError("must be a date without an offset from UTC")
        return np.datetime64(moment.as_unit("ns").to_datetime64(), "ns")  # numpy would wrap a date that is too far
    except (ValueError, TypeError, OverflowError) as error:
        raise _ValueError("must be an ISO 8601 date between 1678 and 2261") from error


_CASTS: dict[str, Callable[[Any], Any]] = {
    "boolean": _boolean,
    "integer": _whole(32),
    "long": _whole(64),
    "float": _floating(float(np.finfo(np.float32).max)),
    "double": _floating(float(np.finfo(np.float64).max)),
    "string": _text,
    "binary": _binary,
    "datetime": _datetime,
}
PLAIN_TYPES = frozenset(_CASTS)


@dataclass(frozen=True, slots=True)
class Signature:
    """Named inputs of plain types."""

    columns: tuple[Column, ...]

    def cast(self, records: Sequence[Mapping[str, Any]]) -> Table:
        """The rows with the signature's columns and types; other columns are left out.

        Raises:
            BadRequestError: A required column is missing or a value does not fit; names row, column and value.
        """
        columns: list[Column] = []
        values: list[list[Any]] = []
        for column in self.columns:
            if not column.required and not any(column.name in record for record in records):
                continue
            columns.append(column)
            values.append(_cast_column(column, records))
        if not columns:
            names = ", ".join(c.name for c in self.columns)
            text = f"the input has none of the model's columns; send at least one of: {names}"
            raise BadRequestError(text, text)
        return Table(tuple(columns), list(zip(*values, strict=True)))


def _cast_column(column: Column, records: Sequence[Mapping[str, Any]]) -> list[Any]:
    cast, name = _CASTS[column.type], column.name
    values = []
    for index, record in enumerate(records):
        if name in record:
            value = record[name]
        elif column.required:
            text = f"Model is missing inputs ['{name}']: row {index} has no such column. Send it as {column.type}"
            raise BadRequestError(text, text)
        else:
            value = math.nan  # as pandas, and so MLflow, has what one row of several lacks
        try:
            values.append(cast(value))
        except _ValueError as reason:
            where = f"Incompatible input types for column {name}. Row {index} has"
            rule = f"it {reason} (the model's signature says {column.type})"
            raise BadRequestError(
                f"{where} {_shown(value)}, {rule}", f"{where} a {type(value).__name__}, {rule}"
            ) from reason
    return values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
