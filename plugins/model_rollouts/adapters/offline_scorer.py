"""The challenger in this process: scores logged requests as the gateway would, but for the time that it takes."""

import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np

from model_rollouts.adapters.answers import Answer, Failure, failure, split
from model_rollouts.adapters.logged_inputs import LoggedInputsError, inputs_from_row, rebuilt_inputs
from model_rollouts.adapters.model_files import load_version
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.flavours import OF_MLFLOW, PYTHON
from model_rollouts.offline import LoggedRequest, OfflineAnswer
from model_rollouts.ports import ModelVersion

_MOST_HANGING = 8
_ERROR_CHARS = 500

_DTYPES: dict[str, Any] = {
    "boolean": np.dtype("bool"),
    "integer": np.dtype("int32"),
    "long": np.dtype("int64"),
    "float": np.dtype("float32"),
    "double": np.dtype("float64"),
    "string": np.dtype("object"),
    "binary": np.dtype("object"),
    "datetime": np.dtype("datetime64[ns]"),
}

Inputs = Mapping[str, Any]
_Timed = tuple[Answer | Failure, float]


class PyfuncScorer:
    """A version, loaded from MLflow when first asked. Close it: it keeps the version's files in a scratch folder.

    A call that fails is made again row by row, so that one bad row fails alone. A call that takes too long is too, and
    the calls after it are half as large: a slow model is no failing one. A row that takes too long has timed out; the
    thread that still works on it can't be ended, so with eight of them every further row has timed out, too.

    Args:
        tracking_uri: MLflow server with the registry.
        version: What to load.
        flavours: Those that may be loaded; see `core.flavours.check`.
        rows_per_call: Most rows in one call.
        call_seconds: Most seconds for a call of several rows.
        row_seconds: Most seconds for a call of one row.
    """

    def __init__(
        self,
        tracking_uri: str,
        version: ModelVersion,
        flavours: Collection[str] = (*OF_MLFLOW, PYTHON),
        rows_per_call: int = 500,
        call_seconds: float = 60.0,
        row_seconds: float = 10.0,
    ) -> None:
        if rows_per_call < 1 or not call_seconds > 0 or not row_seconds > 0:
            raise ValueError(
                f"rows_per_call is {rows_per_call}, call_seconds {call_seconds} and row_seconds {row_seconds}, must be "
                "at least 1, and above 0"
            )
        self._tracking_uri = tracking_uri
        self._version = version
        self._flavours = flavours
        self._inputs = rebuilt_inputs(version)
        self._rows_per_call = rows_per_call
        self._call_seconds, self._row_seconds = call_seconds, row_seconds
        self._hanging: list[threading.Thread] = []
        self._files = tempfile.TemporaryDirectory(prefix="model-rollouts-", ignore_cleanup_errors=True)
        self._model: Any = None

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._files.cleanup()

    def score(self, requests: Sequence[LoggedRequest]) -> list[OfflineAnswer]:
        """One answer a request, in order. A failure of the model is the failure of that request alone.

        Raises:
            NotReadyError: The version can't be loaded, or fails on its own input example.
        """
        if self._model is None:
            self._model = self._load()
        answers: list[OfflineAnswer | None] = [None] * len(requests)
        by_columns: dict[tuple[str, ...], list[tuple[int, Inputs]]] = {}
        for position, request in enumerate(requests):
            try:
                inputs = inputs_from_row(request.features, self._inputs, self._version.optional)
            except LoggedInputsError as error:
                answers[position] = OfflineAnswer("error", 0.0, error=f"not asked: {error}"[:_ERROR_CHARS], asked=False)
            else:
                # as in the gateway: an optional input that only some requests have keeps them apart
                by_columns.setdefault(tuple(inputs), []).append((position, inputs))
        for rows in by_columns.values():
            results = self._in_calls([inputs for _, inputs in rows])
            for (position, _), (result, latency_ms) in zip(rows, results, strict=True):
                answers[position] = _answer(result, latency_ms)
        return [answer for answer in answers if answer is not None]

    def _in_calls(self, rows: Sequence[Inputs]) -> list[_Timed]:
        results: list[_Timed] = []
        while len(results) < len(rows):
            part = rows[len(results) : len(results) + self._rows_per_call]
            results += self._together(part) if len(part) > 1 else [self._alone(part[0])]
        return results

    def _together(self, rows: Sequence[Inputs]) -> list[_Timed]:
        began = time.perf_counter()
        try:
            answers = self._within(rows, self._call_seconds)
        except _TooLateError:
            self._rows_per_call = max(1, len(rows) // 2)
        except _ModelError:  # one row may be to blame for all
            pass
        else:
            each = (time.perf_counter() - began) * 1000 / len(rows)
            return [(answer, each) for answer in answers]
        return [self._alone(row) for row in rows]

    def _alone(self, row: Inputs) -> _Timed:
        began = time.perf_counter()
        result: Answer | Failure
        try:
            (result,) = self._within([row], self._row_seconds)
        except _TooLateError as error:
            result = Failure("timeout", str(error))
        except _ModelError as error:
            result = failure(error.reason)
        return result, (time.perf_counter() - began) * 1000

    def _within(self, rows: Sequence[Inputs], seconds: float) -> list[Answer | Failure]:
        """The model's answers.

        Raises:
            _TooLateError: There are none in time, or too many calls hang already.
            _ModelError: There are none, or they can't be read.
        """
        output = self._call(self._model, self._frame(rows), seconds)
        try:
            return split(output, len(rows))
        except Exception as error:  # whatever the model gave instead of answers
            raise _ModelError(error) from error

    def _call(self, model: Any, data: Any, seconds: float) -> Any:
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if len(self._hanging) >= _MOST_HANGING:
            raise _TooLateError(f"not tried: {len(self._hanging)} calls of the model hang")
        call = _Call(model, data)
        call.start()
        call.join(seconds)
        if call.is_alive():
            self._hanging.append(call)
            raise _TooLateError(f"no answer within {seconds:g} s")
        if call.error is not None:
            raise _ModelError(call.error) from call.error
        return call.output

    def _frame(self, rows: Sequence[Inputs]) -> Any:
        """A DataFrame with exactly the signature's dtypes, as the gateway makes it."""
        import pandas as pd

        kinds = [(name, kind) for name, kind in self._inputs if name in rows[0]]
        return pd.DataFrame(
            {name: np.array([_value(kind, row[name]) for row in rows], dtype=_DTYPES[kind]) for name, kind in kinds}
        )

    def _load(self) -> Any:
        told = f"version {self._version.version} of {self._version.model}"
        try:
            name, number = self._version.model, self._version.version
            model = load_version(self._tracking_uri, name, number, self._flavours, self._files.name)
        except Exception as error:
            raise NotReadyError(f"{told} can't be loaded: {type(error).__name__}: {error}"[:1000]) from error
        if model.input_example is not None:
            try:
                self._call(model, model.input_example, self._call_seconds)
            except (_TooLateError, _ModelError) as error:
                raise NotReadyError(f"{told} fails on its own input example: {error}"[:1000]) from error
        return model


class _TooLateError(Exception):
    """A call has taken too long."""


class _ModelError(Exception):
    """A call has failed. What this task is ended by (a signal, Airflow's time limit) is no such failure."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(f"{type(reason).__name__}: {reason}")
        self.reason = reason


class _Call(threading.Thread):
    """One call of the model. A daemon, so that one that hangs does not keep the task from ending."""

    def __init__(self, model: Any, data: Any) -> None:
        super().__init__(name="score offline", daemon=True)
        self._model, self._data = model, data
        self.output: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.output = self._model.predict(self._data)
        except BaseException as error:  # a model that calls sys.exit() fails its rows, not the task
            self.error = error


def _value(kind: str, value: Any) -> Any:
    if kind == "datetime":
        return np.datetime64("NaT" if value is None else value, "ns")
    if kind == "binary":
        import base64

        return base64.b64decode(value)
    return np.nan if value is None and kind in ("float", "double") else value


def _answer(result: Answer | Failure, latency_ms: float) -> OfflineAnswer:
    if isinstance(result, Failure):
        return OfflineAnswer(result.status, latency_ms, error=result.error[:_ERROR_CHARS])
    return OfflineAnswer("ok", latency_ms, result.prediction, result.score)
