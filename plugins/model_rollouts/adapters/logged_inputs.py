"""A model's inputs made again from a row of the prediction log, in JSON types."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model_rollouts.adapters.delta_schema import feature_column
from model_rollouts.core.errors import NotReadyError, RolloutError
from model_rollouts.ports import ModelVersion

_EXACT = 2**53  # whole doubles from here on no longer say which integer was meant


class LoggedInputsError(RolloutError, ValueError):
    """A row of the log does not say what a model was asked."""


def rebuilt_inputs(version: ModelVersion) -> tuple[tuple[str, str], ...]:
    """Name and MLflow type of each input of a version whose requests can be made again from the log.

    Raises:
        NotReadyError: It has no named inputs, or one of a type that the log can't hold.
    """
    name = f"version {version.version} of {version.model}"
    if not version.inputs:
        raise NotReadyError(f"{name} has no signature with named inputs, so its requests can't be made from the log")
    if other := [f"{column} ({kind})" for column, kind in version.inputs if kind not in _BACK_TO]:
        raise NotReadyError(f"inputs of {name} are of types that the log can't hold: {', '.join(other)}")
    return version.inputs


def inputs_from_row(
    row: Mapping[str, Any], inputs: Sequence[tuple[str, str]], optional: frozenset[str]
) -> dict[str, Any]:
    """Value by input column, as a caller would send it; optional inputs without a value are left out.

    Args:
        row: Log columns; of them `f_<name>` of each input. NaN is null, as the gateway logs a null number.
        inputs: Name and MLflow type of each input; see `rebuilt_inputs`.
        optional: Names of the inputs that may be left out.

    Raises:
        LoggedInputsError: A value is missing where none may be, or can't be told from what the log has.
    """
    made: dict[str, Any] = {}
    for name, kind in inputs:
        column = feature_column(name)
        value = row.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            if name in optional:
                continue
            if column not in row:
                raise LoggedInputsError(f"input {name} ({kind}) is not in the log: there is no column {column}")
            if kind in _NEVER_NULL:
                raise LoggedInputsError(f"input {name} ({kind}) has no value in the log and must have one")
            made[name] = None
            continue
        try:
            made[name] = _BACK_TO[kind](value)
        except _ValueError as reason:
            raise LoggedInputsError(f"input {name} ({kind}) is {value!r:.80} in the log, {reason}") from reason
    if not made:
        raise LoggedInputsError("none of the inputs has a value in the log")
    return made


class _ValueError(Exception):
    """Why a logged value is none of its type."""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _ValueError("must be a finite number")
    return float(value)


def _whole(value: Any) -> int:
    """The log keeps every number as a double: 1.0 is where an integer column needs 1."""
    number = _number(value)
    if not number.is_integer() or abs(number) >= _EXACT:
        raise _ValueError("which does not say which whole number it was")
    return int(number)


def _truth(value: Any) -> bool:
    if value not in (0.0, 1.0):
        raise _ValueError("must be 0 or 1")
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _ValueError("must be text")
    return value


_BACK_TO: Mapping[str, Callable[[Any], Any]] = {
    "boolean": _truth,
    "integer": _whole,
    "long": _whole,
    "float": _number,
    "double": _number,
    "string": _text,
    "binary": _text,  # base64, as callers send it
    "datetime": _text,  # ISO 8601, to the microsecond
}
_NEVER_NULL = frozenset({"boolean", "integer", "long", "binary"})
