"""Keeps the wanted versions loaded, from one background thread, and says how each of them is."""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol

import structlog

from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.memory import MemoryLimit, give_back, make_room, trim
from model_rollouts.gateway.upstream_scorer import UpstreamScorer

Role = Literal["champion", "challenger", "previous"]

_REASON_CHARS = 500
_WATCH_SECONDS = 1.0  # between two looks at the memory
_LOOKS = 3  # in a row that find too much, before a version goes: much may be free already, or be about to be
_LEAVE_SECONDS = 45.0  # that an unloaded version may take to be gone: its idle worker thread holds it for a while
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
        role: Why it is loaded. The champion is loaded whatever memory it takes, and never unloaded for it.
        revision: Of the row.
        staged: Whether it is the challenger of an open stage.
    """

    model: str
    version: str
    serving: bool
    role: Role = "champion"
    revision: int = 0
    staged: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Model and version."""
        return self.model, self.version


@dataclass(slots=True)
class _Failed:
    """Why a version is not loaded; `needs` is the memory that it waits for, if that is why."""

    reason: str
    tries: int
    retry_at: float
    needs: int | None = None
    revision: int = 0


class _NoRoomError(Exception):
    """There is not enough memory for a version."""

    def __init__(self, reason: str, needs: int) -> None:
        super().__init__(reason)
        self.needs = needs


class VersionKeeper:
    """Loads what is wanted, drops what is not.

    Args:
        loader: Loads a version; may take long.
        retry_seconds: Wait before a failed load is tried again; doubles with each failure.
        changed: Called from the background thread after a version was loaded, or unloaded for its memory.
        memory: Bound on the process's memory, if there is one. Beyond it, versions beside the champions go: the
            newest first, challengers before those that a rollback would need.
        on_evicted: Told model, version and reason when one goes, and once when there is no room for the challenger of
            an open stage, as after a start in the middle of a rollout.
    """

    def __init__(
        self,
        loader: Loader,
        retry_seconds: float,
        changed: Callable[[], None],
        memory: MemoryLimit | None = None,
        on_evicted: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._loader = loader
        self._memory = memory
        self._on_evicted = on_evicted
        self._before: dict[tuple[str, str], int] = {}  # memory held when a loaded version began to load
        self._leaving: weakref.ref[object] | None = None  # the scorer of the version that was unloaded last
        self._leaves_until = 0.0
        self._looks = 0  # in a row that found too much
        self._next_look = 0.0
        self._told: set[tuple[str, str]] = set()  # evicted, or without room
        self._took: dict[tuple[str, str], int] = {}  # what its last load took
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
            by_key = {w.key: w for w in wanted}
            for key in self._loaded.keys() - by_key.keys():
                del self._loaded[key]
                self._before.pop(key, None)
                _log.info("version_unloaded", model=key[0], version=key[1])
            self._told &= by_key.keys()
            self._failed = {
                key: failed
                for key, failed in self._failed.items()
                # a row that has changed is a new wish: what had no room is tried again
                if key in by_key and (failed.needs is None or failed.revision == by_key[key].revision)
            }
            self._condition.notify_all()

    def get(self, model: str, version: str | None) -> Version | None:
        """The version, once it is loaded and warm."""
        return None if version is None else self._loaded.get((model, version))

    def state(self, model: str, version: str) -> str:
        """`ready`, `loading`, or `failed: ` and the reason."""
        loaded = self._loaded.get((model, version))
        if loaded is not None:
            problem = loaded.scorer.problem if isinstance(loaded.scorer, UpstreamScorer) else None
            return f"failed: {problem}" if problem else "ready"
        failed = self._failed.get((model, version))
        return f"failed: {failed.reason}" if failed else "loading"

    @property
    def settled(self) -> bool:
        """Whether everything that is wanted is loaded."""
        with self._condition:
            return all(w.key in self._loaded for w in self._wanted)

    def _work(self) -> None:
        while True:
            with self._condition:
                due = self._next()
                if due is None and not self._stopped:
                    self._condition.wait(self._pause())
                if self._stopped:
                    return
            if due is not None:
                self._load(due)
            self._shed()
            self._tell_of_no_room()

    def _next(self) -> Wanted | None:
        now = time.monotonic()
        for wanted in self._wanted:
            failed = self._failed.get(wanted.key)
            if wanted.key not in self._loaded and (failed is None or self._is_due(wanted, failed, now)):
                return wanted
        return None

    def _is_due(self, wanted: Wanted, failed: _Failed, now: float) -> bool:
        if failed.needs is None or self._memory is None:
            return failed.retry_at <= now
        return wanted.role == "champion" or self._memory.has_room_again(failed.needs)

    def _pause(self) -> float | None:
        times = [f.retry_at for key, f in self._failed.items() if key not in self._loaded]
        pause = min(times, default=inf) - time.monotonic()
        if self._memory is not None:
            pause = min(pause, _WATCH_SECONDS)
        return None if pause == inf else max(0.0, pause)

    def _load(self, wanted: Wanted) -> None:
        key = wanted.key
        started, before = time.monotonic(), self._held()
        try:
            self._admit(wanted)
            version = self._loader.load(wanted.model, wanted.version, serving=wanted.serving)
        except _NoRoomError as error:
            self._has_no_room(wanted, error)
            return
        except BaseException as error:  # code of the model runs here; one that exits must not end this thread
            tries = self._failed[key].tries + 1 if key in self._failed else 1
            wait = self._retry_seconds * 2 ** min(tries - 1, _STEADY_TRIES)
            reason = f"{type(error).__name__}: {error}"[:_REASON_CHARS]
            _log.error("version_failed", model=key[0], version=key[1], error=reason, retry_seconds=wait)
            with self._condition:
                self._failed[key] = _Failed(reason, tries, time.monotonic() + wait)
            return
        self._took[key] = self._held() - before
        if not isinstance(version.scorer, UpstreamScorer) and (reason_to_drop := self._excess(wanted)):
            del version
            self._has_no_room(wanted, _NoRoomError(reason_to_drop, self._took[key]))
            give_back()
            return
        with self._condition:
            if key not in {w.key for w in self._wanted}:
                return  # nobody wants it any more
            self._loaded[key] = version
            self._before[key] = before
            self._failed.pop(key, None)
        _log.info("version_ready", model=key[0], version=key[1], seconds=round(time.monotonic() - started, 2))
        self._changed_callback()

    def _held(self) -> int:
        return self._memory.resident() if self._memory is not None else 0

    def _admit(self, wanted: Wanted) -> None:
        """See that there is room for a version beside the champions.

        Raises:
            _NoRoomError: There is none.
        """
        if self._memory is None or wanted.role == "champion":
            return
        expected = self._memory.expected(*wanted.key)
        needs = max(expected or 0, self._took.get(wanted.key, 0))
        memory = self._memory
        if expected != 0 and memory.refusal(needs) and (reason := make_room(lambda: memory.refusal(needs))):
            raise _NoRoomError(reason, needs)

    def _excess(self, wanted: Wanted) -> str | None:
        if self._memory is None or wanted.role == "champion" or self._memory.excess() is None:
            return None
        return make_room(self._memory.excess)

    def _has_no_room(self, wanted: Wanted, error: _NoRoomError) -> None:
        _log.error("version_has_no_room", model=wanted.model, version=wanted.version, error=str(error))
        with self._condition:
            self._failed[wanted.key] = _Failed(str(error), 1, inf, error.needs, wanted.revision)

    def _shed(self) -> None:
        """Unload one version when there is too much; the next one only once that is gone and was not enough."""
        if self._memory is None or self._is_leaving() or (reason := self._lasting_excess(self._memory)) is None:
            return
        with self._condition:
            wanted = {w.key: w for w in self._wanted}
            extra = [w for key in reversed(self._loaded) if (w := wanted.get(key)) and self._may_go(w)]
            gone = min(extra, key=lambda w: w.role != "challenger", default=None)  # the first of equals: the newest
            if gone is None:
                return
            self._leaving = weakref.ref(self._loaded.pop(gone.key).scorer)
            self._leaves_until = time.monotonic() + _LEAVE_SECONDS
            # All that came since it was loaded is held against it, or it would come back and go again.
            needs = self._memory.resident() - self._before.pop(gone.key, 0)
            self._failed[gone.key] = _Failed(reason, 1, inf, needs, gone.revision)
        _log.error("version_evicted", model=gone.model, version=gone.version, role=gone.role, error=reason)
        self._changed_callback()
        self._tell(gone.key, reason)

    def _lasting_excess(self, memory: MemoryLimit) -> str | None:
        """Why something has to go, once that was so in several looks and nothing was free; None: nothing has to."""
        now = time.monotonic()
        if self._looks and now < self._next_look:
            return None
        if memory.excess() is None or not self._has_extra():
            self._looks = 0
            return None
        self._looks, self._next_look = self._looks + 1, now + _WATCH_SECONDS
        if self._looks < _LOOKS:
            trim()
        else:
            give_back()  # callers wait meanwhile, so not with every look
        reason = memory.excess()
        if reason is not None and self._looks < _LOOKS:
            return None
        self._looks = 0
        return reason

    def _has_extra(self) -> bool:
        with self._condition:
            return any(w.key in self._loaded and self._may_go(w) for w in self._wanted)

    def _tell_of_no_room(self) -> None:
        """Tell of challengers of open stages that never came, once their champions serve."""
        with self._condition:
            serving = {w.model for w in self._wanted if w.role == "champion" and w.key in self._loaded}
            without = [
                (w.key, self._failed[w.key].reason)
                for w in self._wanted
                if w.staged and w.model in serving and w.key not in self._told and self._has_none(w.key)
            ]
        for key, reason in without:
            self._tell(key, reason)

    def _has_none(self, key: tuple[str, str]) -> bool:
        return key in self._failed and self._failed[key].needs is not None

    def _tell(self, key: tuple[str, str], reason: str) -> None:
        with self._condition:
            self._told.add(key)
        try:
            self._on_evicted(*key, reason)
        except Exception:  # whoever listens must not end this thread
            _log.exception("eviction_not_told", model=key[0], version=key[1])

    def _is_leaving(self) -> bool:
        """Whether memory of the version that was unloaded last is still to come back."""
        if self._leaving is None:
            return False
        if self._leaving() is not None and time.monotonic() < self._leaves_until:
            return True
        self._leaving = None
        if self._memory is not None:
            make_room(self._memory.excess)
        return False

    def _may_go(self, wanted: Wanted) -> bool:
        """Whether unloading it would help, and is allowed."""
        return wanted.role != "champion" and not isinstance(self._loaded[wanted.key].scorer, UpstreamScorer)
