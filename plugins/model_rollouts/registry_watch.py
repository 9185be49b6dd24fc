"""The use case of the registry trigger: look, decide, carry out.

Any number of pollers and webhook receivers may do this at once, and die at any point. Each change is recorded once (a
look counts the model's revision on from the one that it started from), decided once (under the same revision), and
its DAG run has an id that is made from the record, so that making it twice makes one.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from model_rollouts.changing import change_traffic
from model_rollouts.core.errors import NotReadyError, RolloutError, StaleRevisionError
from model_rollouts.core.names import slug
from model_rollouts.core.plan import Pattern
from model_rollouts.core.registry_events import (
    Intention,
    RecordedChange,
    Response,
    RunRefusedError,
    UnknownDagError,
    View,
    refused,
    respond,
)
from model_rollouts.core.registry_snapshot import RegistryChange, Snapshot, diff, first_look
from model_rollouts.core.rollout import Cause, EventKind, Rollout
from model_rollouts.core.upkeep import report
from model_rollouts.ports import RolloutStore
from model_rollouts.registry_ports import DagRuns, RegistryChanges, RegistrySnapshots, Seen

logger = logging.getLogger(__name__)

_TRIES = 10
_READING = timedelta(minutes=5)  # how long after a change a DAG may only not have been read by Airflow yet
_PATIENCE = timedelta(hours=1)  # how long a run is tried to be made; what starts later than that surprises
_ACTOR = "registry"


class UnhandledChangesError(RolloutError):
    """Changes that could not be carried out now, and will be tried again."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a change, when it was this caller who handled it."""

    change: RecordedChange
    intention: Intention
    outcome: str


def _now() -> datetime:
    return datetime.now(UTC)


class RegistryWatch:
    """Follows the registry.

    Args:
        registry: Its current word.
        changes: What was seen and done.
        store: Rollouts and traffic; changes that need a person are reported in its audit.
        models: Registered models to watch; none named: all.
        default_pattern: The pattern where neither version nor model names one.
        clock: Current time, UTC.
    """

    def __init__(
        self,
        registry: RegistrySnapshots,
        changes: RegistryChanges,
        store: RolloutStore,
        models: Collection[str] = (),
        default_pattern: Pattern = Pattern.CANARY,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.registry = registry
        self.changes = changes
        self.store = store
        self.models = frozenset(models)
        self.default_pattern = default_pattern
        self.clock = clock

    def watches(self, model: str) -> bool:
        """Whether changes of a model count."""
        return not self.models or model in self.models

    def look(self, models: Collection[str] | None = None) -> None:
        """Read the registry and record what changed. None: all models that are watched.

        Raises:
            NotReadyError: The registry can't be read.
        """
        wanted: Collection[str] | None = self.models or None if models is None else models
        for _ in range(_TRIES):
            # In this order: what is read now is newer than what was seen then, or the revision has moved. A late
            # reader could otherwise record an old state as a change back.
            seen, began = self.changes.seen(wanted), self.changes.began()
            found = self.registry.snapshots(wanted)
            late = [m for m, snapshot in found.items() if not self._record(snapshot, seen.get(m), began)]
            if not late:
                return
            wanted = late
        logger.warning("others looked at %s at the same time, %d times over; left to them", wanted, _TRIES)

    def carry_out(
        self,
        runs: DagRuns,
        models: Collection[str] | None = None,
        fresh: bool = True,
        tell: Callable[[Done], None] | None = None,
    ) -> None:
        """Decide and do what is to be done about all recorded changes.

        Args:
            runs: Makes DAG runs.
            models: Only of these; None: all.
            fresh: Whether the registry was looked at just before. If not, rollbacks are carried out alone: whether a
                start is still wanted, nobody knows.
            tell: Called with each change that is handled here. None: nobody can be told here, so that what a person
                should hear of is left to somebody who can.

        Raises:
            UnhandledChangesError: Some could not be done; all others were. Names them.
        """
        waiting = {c.change.model for c in self.changes.pending()}
        failures = []
        for model in sorted(waiting if models is None else waiting & set(models)):
            try:
                self._decide(model, runs, fresh)
            except Exception as error:  # the other models' changes must not wait for this one's
                logger.exception("changes of %s can't be decided", model)
                failures.append(f"{model}: {type(error).__name__}: {error}")
            for recorded in self.changes.pending(model):
                if recorded.intention is None or not (fresh or recorded.intention.response is Response.ROLL_BACK):
                    continue
                try:
                    self._do(recorded, recorded.intention, runs, tell)
                except Exception as error:
                    logger.exception("change %d of %s can't be carried out", recorded.id, model)
                    failures.append(f"change {recorded.id} of {model}: {type(error).__name__}: {error}")
        if failures:
            raise UnhandledChangesError(f"tried again later: {'; '.join(failures)}")

    # --- looking

    def _record(self, snapshot: Snapshot, before: Seen | None, began: datetime | None) -> bool:
        """Record what differs; False when somebody else was faster."""
        if before is not None and before.snapshot == snapshot:
            return True
        changes = self._first_look(snapshot, began) if before is None else diff(before.snapshot, snapshot)
        try:
            self.changes.see(snapshot, changes, before.revision if before else 0, self.clock())
        except StaleRevisionError:
            return False
        for change in changes:
            logger.info("seen in the registry: %s", change)
        return True

    def _first_look(self, snapshot: Snapshot, began: datetime | None) -> tuple[RegistryChange, ...]:
        known = {rollout.challenger for rollout in self.store.rollouts(snapshot.model, limit=10_000)}
        return first_look(snapshot, self.store.traffic(snapshot.model) is not None, known, began)

    # --- deciding

    def _decide(self, model: str, runs: DagRuns, fresh: bool) -> None:
        for _ in range(_TRIES):
            seen = self.changes.seen([model])[model]
            undecided = [c for c in self.changes.pending(model) if c.intention is None]
            decisions = self._decisions(undecided, self._view(seen.snapshot, runs), fresh) if undecided else {}
            if not decisions:
                return
            try:
                self.changes.decide(model, seen.revision, decisions)
            except StaleRevisionError:
                continue
            return
        raise StaleRevisionError(f"others decide on {model} all the time; tried {_TRIES} times")

    def _view(self, snapshot: Snapshot, runs: DagRuns) -> View:
        rollouts = tuple(self.store.rollouts(snapshot.model))
        return View(
            snapshot=snapshot,
            traffic=self.store.traffic(snapshot.model),
            rollouts=rollouts,
            starting=self._starting(snapshot.model, rollouts, runs),
            default_pattern=self.default_pattern,
        )

    def _starting(self, model: str, rollouts: Sequence[Rollout], runs: DagRuns) -> dict[str, int]:
        """Version -> change, of starts whose run has not taken the lease yet and still may."""
        starting: dict[str, int] = {}
        for each in self.changes.with_runs(model):
            version, intention = each.change.version, each.intention
            if intention is None or intention.response is not Response.START or version in starting:
                continue
            arrived = any(r.challenger == version and r.created_at >= each.seen_at for r in rollouts)
            if not arrived and (each.handled_at is None or runs.unfinished(intention.dag_id, each.run_id)):
                starting[version] = each.id
        return starting

    def _decisions(
        self, undecided: Sequence[RecordedChange], view: View, fresh: bool
    ) -> Mapping[int, tuple[Intention, str]]:
        decisions: dict[int, tuple[Intention, str]] = {}
        for each in undecided:
            intention = respond(each.change, view)
            if intention is None or not (fresh or intention.response is Response.ROLL_BACK):
                continue
            decisions[each.id] = intention, run_id_for(each) if intention.dag_id else ""
            if intention.response is Response.START:
                view = replace(view, starting={**view.starting, each.change.version: each.id})
        return decisions

    # --- doing

    def _do(
        self, recorded: RecordedChange, intention: Intention, runs: DagRuns, tell: Callable[[Done], None] | None
    ) -> None:
        """Make the run, and put down what came of it."""
        age = self.clock() - recorded.seen_at
        how = ""
        try:
            if recorded.run_id:
                made = runs.trigger(intention.dag_id, recorded.run_id, intention.conf)
                how = f"; DAG run {intention.dag_id}/{recorded.run_id}{'' if made else ' was there already'}"
        except RunRefusedError as error:
            if isinstance(error, UnknownDagError) and age < _READING:
                raise
            intention = refused(intention, str(error))
        except Exception as error:
            if age < _PATIENCE:
                raise
            intention = refused(intention, f"given up after {age}: {type(error).__name__}: {error}")
        if intention.reported and tell is None:
            return
        outcome = f"{intention.response}: {intention.reason}{how}"
        if not self.changes.handle(recorded.id, outcome, self.clock()):
            return
        logger.log(logging.WARNING if intention.reported else logging.INFO, "change %d: %s", recorded.id, outcome)
        if intention.reported:
            self._report(recorded, outcome)
        if tell is not None:
            tell(Done(recorded, intention, outcome))

    def _report(self, recorded: RecordedChange, outcome: str) -> None:
        """Tell the audit of the model, where it has one. The record of the change says the same."""
        change = recorded.change
        evidence = {"change": recorded.id, "kind": change.kind.value, "version": change.version, **change.detail}
        if self.store.traffic(change.model) is None:
            return
        cause = Cause(_ACTOR, self.clock(), outcome, evidence)
        with contextlib.suppress(StaleRevisionError):  # it moves all the time; the change's own record says the same
            change_traffic(self.store, change.model, lambda traffic: report(traffic, EventKind.REPORTED, cause), _TRIES)


def run_id_for(recorded: RecordedChange) -> str:
    """The DAG run of a change, in the few characters that Airflow takes.

    Numbers begin anew when a store is lost, and Airflow remembers the old runs, so the time is part of it.
    """
    model, version = slug(recorded.change.model), slug(recorded.change.version)
    return f"registry-{model}-{version}-{recorded.seen_at:%Y%m%dT%H%M%S}-{recorded.id}"


def look_and_carry_out(
    watch: RegistryWatch,
    runs: DagRuns,
    models: Collection[str] | None = None,
    tell: Callable[[Done], None] | None = None,
) -> None:
    """Both, where a registry that is away must not hold up a rollback. See `RegistryWatch.carry_out`.

    Raises:
        UnhandledChangesError: Something could not be done now.
    """
    away = ""
    try:
        watch.look(models)
    except NotReadyError as error:
        logger.warning("%s; rollbacks that were asked for go on", error)
        away = str(error)
    watch.carry_out(runs, models, fresh=not away, tell=tell)
    if away:
        raise UnhandledChangesError(away)
