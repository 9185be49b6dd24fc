"""Rollback drills: the traffic is really flipped, for no unit, there and back, and the time is measured.

A drill goes the way that a rollback goes: a revision in the store, every gateway that follows it. What it can't show is
a rollback of units that were moved; that is what the gates' rollbacks are for.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from model_rollouts.changing import change_traffic
from model_rollouts.core import upkeep
from model_rollouts.core.errors import NotFoundError, NotReadyError
from model_rollouts.core.rollout import Cause, Change, Event, EventKind, Rollout, State
from model_rollouts.core.traffic import Traffic
from model_rollouts.ports import Gateways, RolloutStore

_POLL_SECONDS = 0.05


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Drill:
    """What a drill has shown.

    Attributes:
        version: The version that stood beside the champion.
        gateways: How many serving processes followed.
        out_seconds: From the decision until every process had the version ready and routed by the row that names it.
        back_seconds: From the decision to go back until every process routed by the row without it.
        revision: Of the traffic row afterwards.
    """

    version: str
    gateways: int
    out_seconds: float
    back_seconds: float
    revision: int

    @property
    def summary(self) -> str:
        """One sentence."""
        return (
            f"version {self.version} was put beside the champion in {self.out_seconds:.2f} s and taken away in "
            f"{self.back_seconds:.2f} s, on {self.gateways} gateway process{'' if self.gateways == 1 else 'es'}"
        )


class Drills:
    """Flips and measures.

    Args:
        store: Moves the traffic.
        gateways: Say what they route by.
        timeout_seconds: Longest time for either direction.
        clock: Current time, UTC.
    """

    def __init__(
        self,
        store: RolloutStore,
        gateways: Gateways,
        timeout_seconds: float = 120.0,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._store = store
        self._gateways = gateways
        self._timeout = timeout_seconds
        self._clock = clock

    def drill(self, model: str, version: str, actor: str, reason: str) -> Drill:
        """Put a version beside the champion, for no unit, and take it away again. For a model without a rollout.

        Raises:
            IllegalTransitionError: A rollout is active, or the version serves.
            NotFoundError: The model was never adopted.
            NotReadyError: A gateway did not follow in time. The traffic is the champion's alone again.
        """
        began = time.monotonic()
        self._apply(model, lambda t: upkeep.drill_out(t, version, self._cause(actor, reason)))
        try:
            self._wait(model, version)
            out = time.monotonic() - began
        except NotReadyError as error:
            failed = self._cause(actor, f"the drill failed: {error}")
            self._apply(model, lambda t: upkeep.drill_back(t, failed))
            raise
        began = time.monotonic()
        back = self._apply(model, lambda t: upkeep.drill_back(t, self._cause(actor, f"back from the drill: {reason}")))
        gateways = self._wait(model, None)
        made = Drill(version, gateways, out, time.monotonic() - began, back.revision)
        self._record(model, made, actor)
        return made

    def rehearse(self, rollout: Rollout, actor: str) -> Drill:
        """The same inside a rollout that holds the lease and has opened nothing yet.

        The challenger is loaded already. It is taken out of the traffic as a rollback takes it out, and put back; it
        stays loaded meanwhile, in the place of `previous`.

        Raises:
            NotReadyError: A gateway did not follow in time.
            IllegalTransitionError: The rollout has moved on.
        """
        self.mend(rollout, actor)
        began = time.monotonic()
        self._flip(rollout, lambda r, t: upkeep.rehearse_back(r, t, self._cause(actor, "rehearsal of the rollback")))
        try:
            gateways = self._wait(rollout.model, None)
            back = time.monotonic() - began
        finally:
            began = time.monotonic()
            restored = self._restore(rollout, actor)
        self._wait(rollout.model, rollout.challenger)
        made = Drill(rollout.challenger, gateways, time.monotonic() - began, back, restored.revision)
        self._record(rollout.model, made, actor)
        return made

    def mend(self, rollout: Rollout, actor: str) -> None:
        """Put the challenger back where a rehearsal was broken off; harmless where none was."""
        traffic = self._traffic(rollout.model)
        if traffic.rollout_id == rollout.id and traffic.challenger is None and rollout.state is State.PENDING:
            self._restore(rollout, actor)

    # --- inside

    def _restore(self, rollout: Rollout, actor: str) -> Traffic:
        began = [e for e in self._store.events(rollout_id=rollout.id) if e.kind is EventKind.DRILL_BEGAN]
        previous = began[-1].evidence.get("previous") if began else None
        cause = self._cause(actor, "back from the rehearsal")
        return self._flip(rollout, lambda r, t: upkeep.rehearse_out(r, t, previous, cause))

    def _flip(self, rollout: Rollout, step: Callable[[Rollout, Traffic], Change | None]) -> Traffic:
        return self._apply(rollout.model, lambda traffic: step(self._store.rollout(rollout.id), traffic))

    def _wait(self, model: str, version: str | None) -> int:
        """Wait until every gateway routes by the row in force, with the version ready; gives how many there are."""
        revision = self._traffic(model).revision
        until = time.monotonic() + self._timeout
        problem = ""
        while True:
            try:
                routed = self._gateways.routed(model)
                states = self._gateways.versions(model) if version else {}
            except NotReadyError as error:
                problem = str(error)
            else:
                behind = {gateway: r for gateway, r in routed.items() if r is None or r < revision}
                state = states.get(version, "not there") if version else "ready"
                if routed and not behind and state == "ready":
                    return len(routed)
                problem = (
                    f"revision {revision} is not followed by {behind}" if behind else f"version {version}: {state}"
                )
                if state.startswith("failed"):
                    raise NotReadyError(f"the drill of {model} failed: version {version} {state}")
            if time.monotonic() >= until:
                raise NotReadyError(f"the drill of {model} took longer than {self._timeout:g} s: {problem}")
            time.sleep(_POLL_SECONDS)  # bounded by the timeout; gateways poll the store several times a second

    def _record(self, model: str, made: Drill, actor: str) -> None:
        cause = Cause(actor, self._clock(), made.summary, asdict(made))
        self._apply(model, lambda t: upkeep.report(t, EventKind.DRILLED, cause))

    def _traffic(self, model: str) -> Traffic:
        traffic = self._store.traffic(model)
        if traffic is None:
            raise NotFoundError(f"the store knows no model {model!r}; it is adopted with its first rollout or gateway")
        return traffic

    def _cause(self, actor: str, reason: str) -> Cause:
        return Cause(actor, self._clock(), reason)

    def _apply(self, model: str, change_of: Callable[[Traffic], Change | None]) -> Traffic:
        return change_traffic(self._store, model, change_of)


def last_drill(store: RolloutStore, model: str) -> Event | None:
    """The newest drill that went there and back, or None."""
    drills = [event for event in store.events(model=model) if event.kind is EventKind.DRILLED]
    return drills[-1] if drills else None


def drill_is_recent(store: RolloutStore, model: str, days: float, now: datetime) -> tuple[bool, str]:
    """Whether a drill succeeded within so many days, and a sentence."""
    event = last_drill(store, model)
    if event is None:
        return (
            False,
            f"no rollback drill of {model} is on record; run the DAG rollback_drill, or `rollouts drill {model}`",
        )
    age = now - event.at
    text = f"the last rollback drill was {age.total_seconds() / 86_400:.1f} days ago ({event.reason})"
    return age <= timedelta(days=days), f"{text}; must be at most {days:g} days old"
