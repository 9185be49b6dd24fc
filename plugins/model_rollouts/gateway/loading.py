"""Loads versions from MLflow, in process. The only part of the gateway that knows MLflow's model format."""

import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

import structlog

from model_rollouts.adapters.model_files import load_version
from model_rollouts.core.flavours import OF_MLFLOW, PYTHON
from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.mlflow_reading import MlflowReader, hint_of
from model_rollouts.gateway.open_inference_model import Interface, interface
from model_rollouts.gateway.output_check import OutputCheck, checked, output_check_of
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.predicting import predictor
from model_rollouts.gateway.reading import Reader, SignatureReader
from model_rollouts.gateway.scorer import MicroBatcher, Scorer
from model_rollouts.gateway.signature import PLAIN_TYPES, Signature

_log = structlog.get_logger(__name__)


class ParamsCheck(Protocol):
    """Checks inference parameters against a version's schema."""

    def __call__(self, params: Mapping[str, Any]) -> None:
        """Raises BadRequestError when they do not fit."""


@dataclass(frozen=True, slots=True)
class Version:
    """A loaded version, ready to score.

    Attributes:
        model: Registered model name.
        version: Its number.
        reader: Turns a request into its inputs.
        scorer: Scores them.
        check_params: Refuses parameters that it does not know.
        interface: What it takes and gives, in the words of the Open Inference Protocol.
        files: The folder that its artifacts were downloaded to; removed with the version.
    """

    model: str
    version: str
    reader: Reader
    scorer: Scorer
    check_params: ParamsCheck
    interface: Interface = field(default_factory=Interface)
    files: Any = field(repr=False, default=None)


class WarmUpError(Exception):
    """The model failed on its own input example."""


class MlflowLoader:
    """Loads and warms versions.

    Args:
        tracking_uri: MLflow server with the registry.
        max_batch_rows: See `MicroBatcher`.
        max_waiting_rows: See `MicroBatcher`.
        wait_seconds: See `MicroBatcher`.
        batched: Told model, version and rows of each call.
        flavours: Those that are loaded; see `core.flavours.check`.
    """

    def __init__(
        self,
        tracking_uri: str,
        max_batch_rows: int,
        max_waiting_rows: int,
        wait_seconds: float = 0.0,
        batched: Callable[[str, str, int], None] = lambda *_: None,
        flavours: Collection[str] = (*OF_MLFLOW, PYTHON),
    ) -> None:
        self._tracking_uri = tracking_uri
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._wait_seconds = wait_seconds
        self._batched = batched
        self._flavours = flavours
        self._adding = threading.Lock()
        self._files: weakref.WeakSet[tempfile.TemporaryDirectory[str]] = weakref.WeakSet()

    def close(self) -> None:
        """Remove what was downloaded, also of versions that are loading; call it once nothing is scored any more.

        A process that ends by a signal, as servers do, would leave it behind.
        """
        with self._adding:
            left = list(self._files)
        for files in left:
            files.cleanup()

    def load(self, model: str, version: str, *, serving: bool) -> Version:
        """Download, load and warm one version. Takes seconds; call it from a thread.

        Args:
            model: Registered model name.
            version: Its number.
            serving: Whether callers rely on it already. Such a version is kept though it fails on its input
                example; any other is refused, before it can get traffic.

        Raises:
            FlavourError: It is of a flavour that is not loaded.
            WarmUpError: The model fails on its own input example, or its answer is not what its signature says.
            Exception: MLflow is away, there is no such version, or it can't be loaded here.
        """
        files = tempfile.TemporaryDirectory(prefix="model-rollouts-", ignore_cleanup_errors=True)
        with self._adding:
            self._files.add(files)
        _forget_code()
        try:
            pyfunc = load_version(self._tracking_uri, model, version, self._flavours, files.name)
        finally:
            _forget_code()
        check = output_check_of(pyfunc.metadata)
        try:
            is_checked = _warm(pyfunc, check)
        except WarmUpError as error:
            if not serving:
                raise
            is_checked = False
            _log.warning("champion_fails_on_its_example", model=model, version=version, error=str(error))
        if serving and not is_checked:
            check = None  # callers live with its answers as they are

        reader = reader_of(pyfunc.metadata, hint_of(pyfunc))
        found = predictor(pyfunc, reader)
        scorer = MicroBatcher(
            checked(found.predict, check),
            f"{model} {version}",
            self._max_batch_rows,
            self._max_waiting_rows,
            self._wait_seconds,
            found.inline_rows,
            partial(self._batched, model, version),
        )
        return Version(
            model, version, reader, scorer, params_check_of(pyfunc.metadata), interface(pyfunc.metadata), files
        )


def _forget_code() -> None:
    """MLflow keeps the last model from code in a global, where it would outlive its version."""
    import mlflow.models.model

    mlflow.models.model.__mlflow_model__ = None


def _warm(pyfunc: Any, check: OutputCheck | None) -> bool:
    """Score the input example, if the model has one that can be read; whether there was an answer, and it fits."""
    example = pyfunc.input_example
    if example is None:
        return False
    try:
        output = pyfunc.predict(example)
        if check is not None:
            check(output)
    except BaseException as error:  # whatever it is, it would hit callers next
        raise WarmUpError(f"it fails on its own input example: {type(error).__name__}: {error}"[:500]) from error
    return True


def reader_of(metadata: Any, hint: Any = None) -> Reader:
    """What reads a version's requests.

    Args:
        metadata: An `mlflow.models.Model`.
        hint: The type hint of its inputs, where that is known.
    """
    from mlflow.types.schema import ColSpec, DataType

    schema = metadata.get_input_schema()
    if schema is not None and schema.has_input_names() and not metadata._is_signature_from_type_hint():
        specs = list(schema.inputs)
        if all(isinstance(s, ColSpec) and isinstance(s.type, DataType) and s.type.name in PLAIN_TYPES for s in specs):
            return _one_of_equals(Signature(tuple(Column(s.name, s.type.name, bool(s.required)) for s in specs)))
    return MlflowReader(schema, type_hints=metadata._is_signature_from_type_hint(), hint=hint)


@lru_cache(maxsize=256)
def _one_of_equals(signature: Signature) -> SignatureReader:
    """The same reader for signatures that are equal: with every request it is asked whether two versions read alike."""
    return SignatureReader(signature)


def params_check_of(metadata: Any) -> ParamsCheck:
    """What checks the inference parameters of a version's requests.

    Args:
        metadata: An `mlflow.models.Model`.
    """
    schema = metadata.get_params_schema()

    def check(params: Mapping[str, Any]) -> None:
        if not params:
            return
        from mlflow.exceptions import MlflowException
        from mlflow.models.utils import _enforce_params_schema

        try:
            _enforce_params_schema(dict(params), schema)
        except MlflowException as error:
            raise BadRequestError(error.message) from error

    return check
