"""Requests for models without named plain inputs: tensors, nested types, type hints, no signature at all.

MLflow's own parser reads them, so they are scored exactly as its server would. They are never batched with other
requests, and have no feature columns in the log: without names and types those would be whatever a caller sends.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.reading import Reading, check_rows, unit_text
from model_rollouts.gateway.scoring_protocol import Document


@dataclass(frozen=True, slots=True)
class MlflowPayload:
    """Rows in the type that MLflow's parser gives: a DataFrame, an array, a list, or a dictionary of arrays."""

    content: Any
    rows: int

    @property
    def key(self) -> None:
        """Always scored on its own."""
        return

    def take(self, indices: Sequence[int]) -> Payload:
        """Some of the rows, in the order asked for."""
        chosen = list(indices)
        if len(chosen) == self.rows and chosen == list(range(self.rows)):
            return self
        return MlflowPayload(_take(self.content, chosen), len(chosen))

    def data(self) -> Any:
        """As parsed."""
        return self.content

    def features(self, index: int) -> Mapping[str, Any]:
        """None: see the module."""
        return {}


@dataclass(frozen=True, eq=False)
class MlflowReader:
    """Reads with MLflow's parser.

    Args:
        schema: The version's input schema, an `mlflow.types.Schema`, or None.
        type_hints: Whether the signature was made from the type hints of `predict`.
        hint: The type hint itself, which requests are then checked against.
    """

    schema: Any
    type_hints: bool = False
    hint: Any = None

    def read(self, document: Document, unit_column: str | None, max_rows: int) -> Reading:
        """See `Reader`."""
        content = self._parse(document)
        rows = _count(content)
        check_rows(rows, max_rows)
        units, content = _pop_units(content, unit_column, rows, known=self._names())
        self._enforce(content)
        return Reading(MlflowPayload(content, rows), units)

    def _names(self) -> frozenset[str]:
        named = self.schema is not None and self.schema.has_input_names()
        return frozenset(self.schema.input_names()) if named else frozenset()

    def _parse(self, document: Document) -> Any:
        if document.format in ("csv", "parquet"):
            return _refusing(lambda: self._parse_table(document))
        if not self.type_hints:
            return _refusing(lambda: self._parse_json(document))
        if document.format != "inputs":
            raise BadRequestError(
                f"the body has '{document.format}', must have 'inputs': the model's inputs are its type hints"
            )
        return document.content

    def _parse_json(self, document: Document) -> Any:
        from mlflow.pyfunc.scoring_server import infer_and_parse_data

        return infer_and_parse_data({document.format: document.content}, self.schema)

    def _parse_table(self, document: Document) -> Any:
        from mlflow.pyfunc.scoring_server import parse_csv_input

        if document.format == "csv":
            return parse_csv_input(io.StringIO(document.content), self.schema)
        return document.content.to_pandas()

    def _enforce(self, content: Any) -> None:
        """Refuse now, as a bad request, what `predict` would refuse later as an error of the model."""
        from mlflow.models.utils import _enforce_schema

        if self.type_hints:
            if self.hint is not None:
                _refusing(lambda: self._check_hint(content))
        elif self.schema is not None:
            _refusing(lambda: _enforce_schema(content, self.schema))

    def _check_hint(self, content: Any) -> None:
        from mlflow.types.type_hints import _convert_data_to_type_hint, _validate_data_against_type_hint

        _validate_data_against_type_hint(_convert_data_to_type_hint(content, self.hint), self.hint)


def hint_of(pyfunc: Any) -> Any:
    """The type hint of a model's inputs, for `MlflowReader`; None where it has none that can be found.

    Args:
        pyfunc: The loaded `mlflow.pyfunc.PyFuncModel`.
    """
    if not pyfunc.metadata._is_signature_from_type_hint():
        return None
    try:
        return pyfunc.unwrap_python_model().predict_type_hints.input
    except Exception:  # a flavor of its own: its own checks are all that there are
        return None


def _refusing(read: Callable[[], Any]) -> Any:
    """What a function of MLflow's returns; what it raises is a bad request."""
    from mlflow.exceptions import MlflowException

    try:
        return read()
    except MlflowException as error:
        raise BadRequestError(error.message) from error
    except Exception as error:  # it lets what pandas and numpy raise through
        raise BadRequestError(f"Invalid input. {type(error).__name__}: {error}") from error


def _count(content: Any) -> int:
    if isinstance(content, Mapping):
        sizes = {len(v) for v in content.values() if isinstance(v, list) or (isinstance(v, np.ndarray) and v.ndim)}
        if len(sizes) > 1:
            raise BadRequestError("The length of values for each input/column name are not the same")
        return sizes.pop() if sizes else 1
    if isinstance(content, np.ndarray):
        return int(content.shape[0]) if content.ndim else 1
    return len(content) if hasattr(content, "__len__") and not isinstance(content, str | bytes) else 1


def _take(content: Any, indices: list[int]) -> Any:
    if isinstance(content, Mapping):
        return {key: _take(value, indices) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return content[indices] if content.ndim else content
    if isinstance(content, list):
        return [content[i] for i in indices]
    if hasattr(content, "iloc"):
        return content.iloc[indices]
    return content


def _pop_units(
    content: Any, column: str | None, rows: int, known: frozenset[str]
) -> tuple[tuple[str | None, ...], Any]:
    nobody = (None,) * rows
    if column is None or isinstance(content, np.ndarray | list) or column not in content:
        return nobody, content
    values = content[column]
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list):
        listed = [listed] * rows
    units = tuple(unit_text(value, f"row {i} of column {column}") for i, value in enumerate(listed))
    if column in known:
        return units, content
    if isinstance(content, Mapping):
        return units, {key: value for key, value in content.items() if key != column}
    return units, content.drop(columns=[column])
