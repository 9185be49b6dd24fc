"""Versions that servers of their own score, each in an environment of its own, behind the `Scorer` of the others.

Everything else is as for a version in this process: its signature comes from MLflow (its metadata alone; none of its
code is imported), and requests are read, checked, logged and batched alike.
"""

import asyncio
import tempfile
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from model_rollouts.gateway.answers import Failure, OutputError
from model_rollouts.gateway.loading import Version, WarmUpError, params_check_of, reader_of
from model_rollouts.gateway.open_inference_model import interface
from model_rollouts.gateway.scoring_protocol import decode
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.upstream_address import Address, address_of
from model_rollouts.gateway.upstream_http import Limits, UpstreamError, UpstreamHttp
from model_rollouts.gateway.upstream_scorer import UpstreamDownError, UpstreamScorer, UpstreamServer
from model_rollouts.gateway.versions import Loader

_EXAMPLE_SECONDS = 60.0  # a server's first answer may load the model

_log = structlog.get_logger(__name__)


class Upstreams:
    """Makes versions out of the servers that the settings name, and looks after them; the others go to `inner`.

    Args:
        inner: Loads what is scored in process.
        settings: The servers' addresses, and bounds.
        batched: Told model, version and rows of each call.
    """

    def __init__(
        self, inner: Loader, settings: GatewaySettings, batched: Callable[[str, str, int], None] = lambda *_: None
    ) -> None:
        self._inner = inner
        self._batched = batched
        self._settings = settings
        self._limits = Limits(settings.upstream_connect_seconds, settings.max_upstream_bytes)
        self._http = UpstreamHttp(self._limits)
        self._adding = threading.Lock()  # versions are loaded by one thread, and looked after from others
        self._scorers: weakref.WeakKeyDictionary[UpstreamScorer, tuple[str, str]] = weakref.WeakKeyDictionary()
        self._sizes: dict[tuple[str, str], int | None] = {}
        self._probing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after the servers; needs the running loop."""
        if self._settings.upstreams:
            self._probing = asyncio.create_task(self._probe())

    async def close(self) -> None:
        """Look no more, and close the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._http.close()

    def size(self, model: str, version: str) -> int | None:
        """Bytes of a version's artifacts, about what it takes to load; 0: its own server holds them; None: unknown.

        Raises:
            Exception: MLflow is away, or there is no such version.
        """
        if address_of(self._settings.upstreams, model, version) is not None:
            return 0
        if (model, version) not in self._sizes:
            size = _load_metadata(self._settings.mlflow_tracking_uri, model, version).model_size_bytes
            self._sizes[model, version] = int(size) if size else None
        return self._sizes[model, version]

    def problems(self) -> dict[tuple[str, str], str | None]:
        """(model, version) -> why its server can't score now; None: it can."""
        with self._adding:
            return {key: scorer.problem for scorer, key in self._scorers.items()}

    def load(self, model: str, version: str, *, serving: bool) -> Version:
        """A version, once its server is ready and scores the input example. Takes seconds; call it from a thread.

        Args:
            model: Registered model name.
            version: Its number.
            serving: See `MlflowLoader.load`.

        Raises:
            UpstreamDownError: The server is not ready.
            WarmUpError: It fails on the version's input example.
            Exception: MLflow is away, or there is no such version.
        """
        address = address_of(self._settings.upstreams, model, version, self._settings.upstream_tokens)
        if address is None:
            return self._inner.load(model, version, serving=serving)
        metadata, example = _metadata(self._settings.mlflow_tracking_uri, model, version)
        reader, check_params = reader_of(metadata), params_check_of(metadata)
        scorer = UpstreamScorer(
            UpstreamServer(address, self._http),
            f"{model} {version}",
            partial(self._batched, model, version),
            self._settings.upstream_calls,
            self._settings.max_batch_rows,
            self._settings.max_waiting_rows,
        )
        loaded = Version(model, version, reader, scorer, check_params, interface(metadata))
        try:
            asyncio.run(self._warm(address, loaded, example))
        except WarmUpError as error:
            if not serving:
                raise
            _log.warning("champion_fails_on_its_example", model=model, version=version, error=str(error))
        with self._adding:
            self._scorers[scorer] = (model, version)
        return loaded

    async def _warm(self, address: Address, version: Version, example: bytes | None) -> None:
        """See that the server is ready and scores. Runs on a loop of its own, so with connections of its own."""
        http = UpstreamHttp(self._limits)
        try:
            server = UpstreamServer(address, http)
            await server.check()
            if example is None:
                return
            size = len(example)
            document = decode(example, "application/json", size, size)
            version.check_params(document.params)
            payload = version.reader.read(document, None, size).payload
            results = await server.score(payload, document.params, _EXAMPLE_SECONDS, again=False)
        except UpstreamDownError:
            raise
        except Exception as error:  # whatever it is, it would hit callers next
            raise WarmUpError(f"its server fails on its own input example: {_reason(error)}") from error
        finally:
            await http.close()
        failed = [result for result in results if isinstance(result, Failure)]
        if failed:
            raise WarmUpError(f"its server fails on its own input example: {failed[0].error}")

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(self._settings.upstream_probe_seconds)
            with self._adding:
                scorers = list(self._scorers)
            await asyncio.gather(*map(_look_after, scorers))
            del scorers  # an idle probe keeps no version alive


async def _look_after(scorer: UpstreamScorer) -> None:
    before = scorer.problem
    try:
        await scorer.server.check()
    except UpstreamDownError as error:
        scorer.problem = str(error)
        if before is None:
            _log.error("upstream_down", url=scorer.server.url, error=scorer.problem)
    except Exception as error:  # the other servers are to be looked after as well
        scorer.problem = f"{type(error).__name__}: {error}"
        _log.exception("probe_failed", url=scorer.server.url)
    else:
        scorer.problem = None
        if before is not None:
            _log.info("upstream_back", url=scorer.server.url)


def _metadata(tracking_uri: str, model: str, version: str) -> tuple[Any, bytes | None]:
    """The version's metadata, and its input example as a request, if there is one. Downloads nothing else."""
    import mlflow
    from mlflow.models import convert_input_example_to_serving_input

    metadata, uri = _load_metadata(tracking_uri, model, version), f"models:/{model}/{version}"
    about = metadata.saved_input_example_info
    if not about:
        return metadata, None
    with tempfile.TemporaryDirectory(prefix="model-rollouts-") as folder:
        if request := about.get("serving_input_path"):
            file = mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/{request}", dst_path=folder)
            return metadata, Path(file).read_bytes()
        mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/{about['artifact_path']}", dst_path=folder)
        text = convert_input_example_to_serving_input(metadata.load_input_example(folder))
    return metadata, None if text is None else text.encode()


def _load_metadata(tracking_uri: str, model: str, version: str) -> Any:
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    return Model.load(f"models:/{model}/{version}")


def _reason(error: Exception) -> str:
    own = isinstance(error, UpstreamError | OutputError)
    return str(error) if own else f"{type(error).__name__}: {error}"
