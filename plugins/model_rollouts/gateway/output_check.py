"""Whether a version's answers are what its signature says: numbers, texts, truth values, and the columns' names.

MLflow's server does not look. A challenger whose answers have changed their form would break callers, so that is a
failure like any other. Numbers are numbers, whole or not, as models are not that exact about them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model_rollouts.gateway.answers import OutputError
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.scorer import Predict

OutputCheck = Callable[[Any], None]

_NUMBER, _TEXT = "number", "text"
_KINDS = {
    **dict.fromkeys(("integer", "long", "float", "double", "boolean"), _NUMBER),
    "string": _TEXT,
}
_ARRAY_KINDS = {**dict.fromkeys("iufb", _NUMBER), "U": _TEXT, "S": _TEXT}


def checked(predict: Predict, check: OutputCheck | None) -> Predict:
    """A version's `predict`, which raises OutputError where its output does not pass the check."""
    if check is None:
        return predict

    def predict_and_check(payload: Payload, params: Mapping[str, Any]) -> Any:
        output = predict(payload, params)
        check(output)
        return output

    return predict_and_check


def output_check_of(metadata: Any) -> OutputCheck | None:
    """What checks a version's outputs; raises OutputError. None: its signature says nothing that can be checked.

    Args:
        metadata: An `mlflow.models.Model`.
    """
    from mlflow.types.schema import ColSpec, DataType, TensorSpec

    schema = metadata.get_output_schema()
    specs = list(schema.inputs) if schema is not None else []
    if len(specs) == 1 and isinstance(specs[0], TensorSpec) and specs[0].name is None:
        return _array_check(specs[0])
    if not specs or not all(isinstance(s, ColSpec) and isinstance(s.type, DataType) for s in specs):
        return None
    if len(specs) == 1:
        kind = _KINDS.get(specs[0].type.name)
        return None if kind is None else lambda output: _check_values(output, kind, specs[0].name)
    required = {s.name: _KINDS.get(s.type.name) for s in specs if s.required and s.name is not None}
    return (lambda output: _check_columns(output, required)) if required else None


def _array_check(spec: Any) -> OutputCheck | None:
    kind, shape = _ARRAY_KINDS.get(spec.type.kind), spec.shape
    return None if kind is None else lambda output: _check_array(output, kind, shape)


def _check_array(output: Any, kind: str, shape: tuple[int, ...]) -> None:
    """One array; a table, a series or a list of its shape will do."""
    values = np.asarray(output)
    if values.ndim != len(shape) or any(size not in (-1, have) for size, have in zip(shape[1:], values.shape[1:])):  # noqa: B905
        raise OutputError(f"the answers have shape {values.shape}, must be {shape}: the version's signature says so")
    _check_kind(values, kind, "the answer")


def _check_values(output: Any, kind: str, name: str | None) -> None:
    """One value a row. A table or records hold it under its name, or as their only column."""
    if not isinstance(output, np.ndarray) and hasattr(output, "columns"):  # a DataFrame
        column = name if name in output.columns else output.columns[0] if len(output.columns) == 1 else None
        if column is None:
            raise OutputError(f"the answers have the columns {_names(output.columns)}, must have {name or 'one'}")
        output = output[column]
    values = np.asarray(output)
    if values.dtype.kind == "O" and len(values) and isinstance(values[0], dict):
        return  # records: their reader looks for what it needs
    _check_kind(values, kind, name or "the answer")


def _check_columns(output: Any, required: dict[str, str | None]) -> None:
    import pandas as pd

    if not isinstance(output, pd.DataFrame):
        if isinstance(output, list) and output and isinstance(output[0], dict):
            output = pd.DataFrame(output)
        else:
            raise OutputError(f"the answers are a {type(output).__name__}, must be a table with {_names(required)}")
    missing = [name for name in required if name not in output.columns]
    if missing:
        raise OutputError(f"the answers have the columns {_names(output.columns)}, must also have {_names(missing)}")
    for name, kind in required.items():
        if kind is not None:
            _check_kind(output[name].to_numpy(), kind, name)


def _check_kind(values: "np.ndarray[Any, Any]", kind: str, what: str) -> None:
    if values.dtype.kind == "O":
        types = {type(value) for value in values.ravel().tolist()} - {type(None)}
        wanted = (str,) if kind == _TEXT else (int, float, np.number, np.bool_)
        fits = all(issubclass(found, wanted) for found in types)
    else:
        fits = values.dtype.kind in ("US" if kind == _TEXT else "iufb")
    if not fits:
        raise OutputError(f"{what} is {values.dtype}, must be {kind}: the version's signature says so")


def _names(names: Any) -> str:
    return ", ".join(map(str, names))[:200]
