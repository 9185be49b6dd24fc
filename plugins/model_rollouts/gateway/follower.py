"""Follows the traffic table. What it last knew stays in force while the store is away."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.errors import NotServingError, UnknownModelError, VersionNotLoadedError
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.memory import MemoryLimit
from model_rollouts.gateway.versions import Loader, Role, VersionKeeper, Wanted

_REASON_CHARS = 500
_SHOWN = 80

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """How one model's requests are answered right now. Replaced as a whole, so a request sees one state.

    Attributes:
        traffic: The row that is routed by.
        champion: Its champion, loaded.
        challenger: Its challenger, once that is loaded.
    """

    traffic: Traffic
    champion: Version
    challenger: Version | None


class Follower:
    """Polls the traffic table and keeps what it names loaded.

    A row whose champion is not loaded yet is not routed by: the row before it stays in force until it is.

    Args:
        poll: Every row of the traffic table.
        adopt: Makes a model's first row from the registry's champion; repeating it changes nothing.
        loader: Loads versions.
        models: The models to adopt and follow; none: every model in the table.
        poll_seconds: Time between polls.
        retry_seconds: Wait before a failed load or adoption is tried again.
        settled: Called each time when everything that is wanted has been loaded.
        memory: See `VersionKeeper`.
        on_evicted: See `VersionKeeper`.
    """

    def __init__(
        self,
        poll: Callable[[], Sequence[Traffic]],
        adopt: Callable[[str], object],
        loader: Loader,
        *,
        models: Sequence[str] = (),
        poll_seconds: float = 0.2,
        retry_seconds: float = 5.0,
        settled: Callable[[], None] = lambda: None,
        memory: MemoryLimit | None = None,
        on_evicted: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._poll = poll
        self._adopt = adopt
        self._models = tuple(models)
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._settled = settled
        self._keeper = VersionKeeper(loader, retry_seconds, self._loaded, memory, on_evicted)
        self._publishing = threading.Lock()
        self._followed: dict[str, Traffic] = {}
        self._serving: dict[str, Serving] = {}
        self._polled_at: float | None = None
        self._error: str | None = None
        self._adoption_errors: dict[str, str] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._follow, name="follower", daemon=True)]
        if self._models:
            self._threads.append(threading.Thread(target=self._adopt_all, name="adopter", daemon=True))

    def start(self) -> None:
        """Begin to follow."""
        self._keeper.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Follow no more. The threads are daemons, so one that hangs in a dead connection holds nothing up."""
        self._stop.set()
        self._keeper.stop()

    @property
    def models(self) -> list[str]:
        """Names of the models that are followed, or are to be."""
        return sorted({*self._models, *self._followed})

    def serving(self, model: str) -> Serving:
        """How to answer a model's requests.

        Raises:
            UnknownModelError: It is not in the table.
            NotServingError: Its champion is not loaded yet.
        """
        serving = self._serving.get(model)
        if serving is not None:
            return serving
        followed = self._followed.get(model)
        if followed is not None:
            state = self._keeper.state(model, followed.champion)
            raise NotServingError(f"version {followed.champion} of {model}, the champion, is not ready: {state}")
        if model in self._adoption_errors:
            raise NotServingError(f"{model} is not adopted yet: {self._adoption_errors[model]}")
        if self._polled_at is None or model in self._models:
            raise NotServingError(f"the traffic table has not been read yet: {self._error or 'just started'}")
        raise UnknownModelError(f"no model {model} is served here; there is: {', '.join(self.models) or 'none'}")

    def in_force(self, model: str) -> Traffic | None:
        """The row that a model is routed by right now, if it is routed at all."""
        serving = self._serving.get(model)
        return serving.traffic if serving else None

    def version(self, model: str, version: str) -> Version:
        """A version that the traffic names, whatever its role.

        Raises:
            UnknownModelError: The model is not in the table.
            NotServingError: That is not known yet.
            VersionNotLoadedError: It is not loaded; says how it is, or which versions there are.
        """
        self.knows(model)
        named = _versions(self._followed[model])
        if (routed := self.in_force(model)) is not None:
            named += [v for v in _versions(routed) if v not in named]
        what = f"version {version[:_SHOWN]} of {model}"
        if version not in named:
            raise VersionNotLoadedError(f"{what} is not loaded: the traffic names {', '.join(named)}")
        loaded = self._keeper.get(model, version)
        if loaded is None:
            raise VersionNotLoadedError(f"{what} is not loaded: {self._keeper.state(model, version)}")
        return loaded

    def knows(self, model: str) -> None:
        """Refuse a model that is not in the table; one whose champion is still loading is fine.

        Raises:
            UnknownModelError: It is not in the table.
            NotServingError: That is not known yet.
        """
        if not self.follows(model):
            self.serving(model)

    def follows(self, model: str) -> bool:
        """Whether the model is in the table."""
        return model in self._followed

    @property
    def healthy(self) -> bool:
        """Whether every configured model is served; where none is configured, whether any is."""
        return all(m in self._serving for m in self._models) if self._models else bool(self._serving)

    def status(self, model: str) -> dict[str, Any]:
        """See docs/contracts.md; `routed_revision` is the row in force, if that is an earlier one."""
        self.knows(model)
        traffic = self._followed[model]
        serving = self._serving.get(model)
        states = {v: self._keeper.state(model, v) for v in _versions(traffic)}
        unused = serving.traffic.challenger if serving and serving.challenger is None else None
        if unused is not None and states.get(unused) == "ready":
            states[unused] = "loading"  # loaded this moment, and no request is routed to it yet
        return {
            "model": model,
            "revision": traffic.revision,
            "routed_revision": serving.traffic.revision if serving else None,
            "champion": traffic.champion,
            "challenger": traffic.challenger,
            "previous": traffic.previous,
            "share": traffic.share,
            "stage": traffic.stage,
            "rollout_id": traffic.rollout_id,
            "versions": states,
        }

    def store_status(self) -> dict[str, Any]:
        """Whether the store answers, and how old the news is."""
        age = None if self._polled_at is None else round(time.monotonic() - self._polled_at, 3)
        return {"ok": self._error is None, "polled_seconds_ago": age, "error": self._error}

    def adoption_errors(self) -> dict[str, str]:
        """Why a configured model is not in the table yet."""
        return dict(self._adoption_errors)

    def _follow(self) -> None:
        while True:
            try:
                rows = self._poll()
            except Exception as error:  # the store is away: carry on with what is known
                reason = f"{type(error).__name__}: {error}"[:_REASON_CHARS]
                if self._error is None:
                    _log.error("store_away", error=reason)
                self._error = reason
            else:
                if self._error is not None:
                    _log.info("store_back")
                self._error = None
                self._see(rows)
                self._polled_at = time.monotonic()
            if self._stop.wait(self._poll_seconds):
                return

    def _see(self, rows: Sequence[Traffic]) -> None:
        """Take over what the table says. Rows are never deleted, so one that is missing stays in force."""
        changed = False
        for row in rows:
            if (not self._models or row.model in self._models) and self._followed.get(row.model) != row:
                _log.info("traffic", model=row.model, revision=row.revision, shares=row.shares(), stage=row.stage)
                self._followed[row.model] = row
                changed = True
        if changed:
            self._publish()

    def _loaded(self) -> None:
        self._publish()
        if self._keeper.settled:
            self._settled()

    def _publish(self) -> None:
        """Put in force, for each model, the newest row whose champion is loaded."""
        with self._publishing:
            self._want()
            serving = {}
            for model, row in list(self._followed.items()):
                before = self._serving.get(model)
                traffic = row
                champion = self._keeper.get(model, row.champion)
                if champion is None:
                    if before is None:
                        continue
                    traffic, champion = before.traffic, before.champion
                challenger = self._keeper.get(model, traffic.challenger)
                serving[model] = Serving(traffic, champion, challenger)
            self._serving = serving
            self._want()  # versions of a row that is no longer in force can go now

    def _want(self) -> None:
        wanted: dict[tuple[str, str], Wanted] = {}
        rows = list(self._followed.values())
        for row in rows:
            wanted[row.model, row.champion] = Wanted(row.model, row.champion, serving=True, revision=row.revision)
        in_force = [s.traffic for s in self._serving.values()]
        for row in in_force:
            key = (row.model, row.champion)
            wanted.setdefault(key, Wanted(*key, serving=False, revision=row.revision))
        for row in [*rows, *in_force]:
            for version in _versions(row):
                role: Role = "challenger" if version == row.challenger else "previous"
                key = (row.model, version)
                staged = role == "challenger" and row.stage is not None and row.stage >= 0
                option = Wanted(*key, serving=False, role=role, revision=row.revision, staged=staged)
                wanted.setdefault(key, option)
        self._keeper.want(tuple(wanted.values()))

    def _adopt_all(self) -> None:
        missing = list(self._models)
        while missing:
            for model in list(missing):
                try:
                    self._adopt(model)
                except Exception as error:  # MLflow or the store is away, or there is no champion yet
                    reason = f"{type(error).__name__}: {error}"[:_REASON_CHARS]
                    if self._adoption_errors.get(model) != reason:
                        _log.error("not_adopted", model=model, error=reason)
                    self._adoption_errors[model] = reason
                else:
                    self._adoption_errors.pop(model, None)
                    missing.remove(model)
            if missing and self._stop.wait(self._retry_seconds):
                return


def _versions(traffic: Traffic) -> list[str]:
    """Every version that a row names, the most urgent first."""
    return list(dict.fromkeys(v for v in (traffic.champion, traffic.challenger, traffic.previous) if v))
