"""How a loaded version is called: through MLflow, or, where that is proven to be the same, past it.

MLflow's `predict` checks the schema and casts once more what the gateway has checked already, and a scikit-learn model
then takes a DataFrame apart into the array that it computes on. For one row that is most of the time. A model is called
with an array when nothing in it can tell the difference: it is made of scikit-learn's own parts, none of which picks
columns by name, its inputs are all floats, in the order that it was fitted with, and it answered a few hundred rows
both ways alike when it was loaded.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from model_rollouts.gateway.payload import Payload, Table
from model_rollouts.gateway.reading import Reader, SignatureReader
from model_rollouts.gateway.scorer import Predict

_BY_NAME = frozenset({"ColumnTransformer", "FunctionTransformer", "TransformedTargetRegressor"})
_PROVEN_ROWS = 256
_TOLERANCE = 1e-9
_INLINE_SECONDS = 0.001
_BATCHES = (256, 64, 16)
_TRIALS = 5
_NAMES_WARNING = "X does not have valid feature names"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Predictor:
    """How a version is called.

    Attributes:
        predict: Scores a payload.
        inline_rows: Calls of at most so many rows take less than a millisecond, every time; 0: nothing is known.
    """

    predict: Predict
    inline_rows: int = 0


def predictor(pyfunc: Any, reader: Reader) -> Predictor:
    """How a version is called best.

    Args:
        pyfunc: The loaded `mlflow.pyfunc.PyFuncModel`.
        reader: What reads its requests.
    """

    def through_mlflow(payload: Payload, params: Mapping[str, Any]) -> Any:
        return pyfunc.predict(payload.data(), params=dict(params) or None)

    if not isinstance(reader, SignatureReader):
        return Predictor(through_mlflow)
    on_arrays = _array_method(pyfunc, reader)
    if on_arrays is None or not _same_answers(pyfunc, reader, on_arrays):
        return Predictor(through_mlflow)
    inline_rows = _quick_rows(len(reader.signature.columns), on_arrays)
    _log.info("scored_as_arrays", model=type(pyfunc.get_raw_model()).__name__, inline_rows=inline_rows)

    def as_array(payload: Payload, params: Mapping[str, Any]) -> Any:
        if params or not isinstance(payload, Table) or len(payload.columns) != len(reader.signature.columns):
            return through_mlflow(payload, params)
        return on_arrays(payload.matrix())

    return Predictor(as_array, inline_rows)


def _array_method(pyfunc: Any, reader: SignatureReader) -> Callable[[Any], Any] | None:
    """The scikit-learn model's method that MLflow would call, if it may be called with an array."""
    flavors = pyfunc.metadata.flavors or {}
    columns = reader.signature.columns
    if "sklearn" not in flavors or any(column.type != "double" for column in columns):
        return None
    model = pyfunc.get_raw_model()
    fitted = getattr(model, "feature_names_in_", None)
    if fitted is not None and list(fitted) != [column.name for column in columns]:
        return None
    parts = list(_parts(model))
    if not all(type(part).__module__.startswith("sklearn.") for part in parts):
        return None
    if any(type(part).__name__ in _BY_NAME for part in parts):
        return None
    method = getattr(model, flavors.get("python_function", {}).get("predict_fn", "predict"), None)
    # The model was fitted with names and gets none: what that warns of is ruled out above.
    warnings.filterwarnings("ignore", message=_NAMES_WARNING, category=UserWarning)
    return method if callable(method) else None


def _parts(model: Any) -> Iterator[Any]:
    """The estimator and every estimator in it."""
    yield model
    for value in model.get_params(deep=True).values() if hasattr(model, "get_params") else ():
        if hasattr(value, "get_params") or hasattr(value, "fit"):
            yield value


def _same_answers(pyfunc: Any, reader: SignatureReader, method: Callable[[Any], Any]) -> bool:
    """Whether rows around zero, and around the input example, are answered alike both ways."""
    columns = reader.signature.columns
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(_PROVEN_ROWS, len(columns))) * rng.choice([0.1, 1.0, 10.0, 1000.0], (_PROVEN_ROWS, 1))
    try:
        example = pyfunc.input_example
        if example is not None:
            base = np.asarray(example, dtype=float)
            rows[: _PROVEN_ROWS // 2] += base[rng.integers(len(base), size=_PROVEN_ROWS // 2)]
        table = Table(columns, rows.tolist())
        one, other = np.asarray(pyfunc.predict(table.data())), np.asarray(method(table.matrix()))
        single = np.asarray([method(table.take([i]).matrix())[0] for i in range(0, _PROVEN_ROWS, 16)])
    except Exception as error:  # then it is called as MLflow calls it
        _log.info("not_scored_as_arrays", error=f"{type(error).__name__}: {error}"[:500])
        return False
    return _alike(one, other) and _alike(single, other[::16])


def _quick_rows(columns: int, method: Callable[[Any], Any]) -> int:
    """The most rows that were scored within the time that the event loop can spare.

    scikit-learn's own estimators compute, and do nothing else: what was quick stays so.
    """
    for rows in _BATCHES:
        batch = np.zeros((rows, columns))
        took = []
        for _ in range(_TRIALS):
            began = time.perf_counter()
            method(batch)
            took.append(time.perf_counter() - began)
        if min(took) <= _INLINE_SECONDS:
            return rows
    return 0


def _alike(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=_TOLERANCE, atol=0, equal_nan=True))
    return bool((one == other).all())
