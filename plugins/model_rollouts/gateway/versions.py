"""Keeps the wanted versions loaded, from one background thread, and says how each of them is."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from model_rollouts.gateway.loading import Version

_REASON_CHARS = 500
_STEADY_TRIES = 6  # the wait between tries doubles this many times

_log = structlog.get_logger(__name__)


class Loader(Protocol):
    """Loads one version."""

    def load(self, model: str, version: str, *, serving: bool) -> Version:
        """See `MlflowLoader.load`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version that the traffic table names.

    Attributes:
        model: Registered model name.
        version: Its number.
        serving: Whether it is the champion.
    """

    model: str
    version: str
    serving: bool


@dataclass(slots=True)
class _Failed:
    reason: str
    tries: int
    retry_at: float


class VersionKeeper:
    """Loads what is wanted, drops what is not.

    Args:
        loader: Loads a version; may take long.
        retry_seconds: Wait before a failed load is tried again; doubles with each failure.
        changed: Called from the background thread after a version was loaded.
    """

    def __init__(self, loader: Loader, retry_seconds: float, changed: Callable[[], None]) -> None:
        self._loader = loader
        self._retry_seconds = retry_seconds
        self._changed_callback = changed
        self._condition = threading.Condition()
        self._wanted: tuple[Wanted, ...] = ()
        self._loaded: dict[tuple[str, str], Version] = {}
        self._failed: dict[tuple[str, str], _Failed] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="versions", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """Load no more. A load that is under way is left to end with the process."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Set what is to be loaded, the most urgent first; everything else is dropped.

        A dropped version goes once the requests that are being scored on it are done.
        """
        with self._condition:
            if tuple(wanted) == self._wanted:
                return
            self._wanted = tuple(wanted)
            keys = {(w.model, w.version) for w in wanted}
            for key in self._loaded.keys() - keys:
                del self._loaded[key]
                _log.info("version_unloaded", model=key[0], version=key[1])
            self._failed = {key: failed for key, failed in self._failed.items() if key in keys}
            self._condition.notify_all()

    def get(self, model: str, version: str | None) -> Version | None:
        """The version, once it is loaded and warm."""
        return None if version is None else self._loaded.get((model, version))

    def state(self, model: str, version: str) -> str:
        """`ready`, `loading`, or `failed: ` and the reason."""
        if (model, version) in self._loaded:
            return "ready"
        failed = self._failed.get((model, version))
        return f"failed: {failed.reason}" if failed else "loading"

    @property
    def settled(self) -> bool:
        """Whether everything that is wanted is loaded."""
        with self._condition:
            return all((w.model, w.version) in self._loaded for w in self._wanted)

    def _work(self) -> None:
        while True:
            with self._condition:
                due = self._next()
                while due is None and not self._stopped:
                    self._condition.wait(self._until_retry())
                    due = self._next()
                if self._stopped or due is None:
                    return
            self._load(due)

    def _next(self) -> Wanted | None:
        now = time.monotonic()
        for wanted in self._wanted:
            key = (wanted.model, wanted.version)
            failed = self._failed.get(key)
            if key not in self._loaded and (failed is None or failed.retry_at <= now):
                return wanted
        return None

    def _until_retry(self) -> float | None:
        times = [f.retry_at for key, f in self._failed.items() if key not in self._loaded]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _load(self, wanted: Wanted) -> None:
        key = (wanted.model, wanted.version)
        started = time.monotonic()
        try:
            version = self._loader.load(wanted.model, wanted.version, serving=wanted.serving)
        except BaseException as error:  # code of the model runs here; one that exits must not end this thread
            tries = self._failed[key].tries + 1 if key in self._failed else 1
            wait = self._retry_seconds * 2 ** min(tries - 1, _STEADY_TRIES)
            reason = f"{type(error).__name__}: {error}"[:_REASON_CHARS]
            _log.error("version_failed", model=key[0], version=key[1], error=reason, retry_seconds=wait)
            with self._condition:
                self._failed[key] = _Failed(reason, tries, time.monotonic() + wait)
            return
        with self._condition:
            if key not in {(w.model, w.version) for w in self._wanted}:
                return  # nobody wants it any more
            self._loaded[key] = version
            self._failed.pop(key, None)
        _log.info("version_ready", model=key[0], version=key[1], seconds=round(time.monotonic() - started, 2))
        self._changed_callback()
