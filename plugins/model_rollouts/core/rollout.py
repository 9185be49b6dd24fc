"""The rollout's state machine: what may follow what, and what each step does to the traffic.

Every step is a pure function from the rollout and the traffic as they are to a `Change`: both as they will be and
the audit event. A store applies a change in one transaction if nothing moved meanwhile. A step that has already
been taken returns None, so that repeating it is harmless.

    pending -> baking -> cleared -> baking -> ... -> cleared -> promoted
       |         | ^        |
       |         v |        |
       |       holding      |
       +---------+----------+-> rolled_back <- promoted, while the old champion is kept
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.core.plan import Plan
from model_rollouts.core.traffic import Traffic

_DATA_SLACK = timedelta(seconds=60)


class State(StrEnum):
    """Where a rollout is."""

    PENDING = "pending"  # holds the lease; challenger gets warmed, no unit is moved
    BAKING = "baking"  # a stage is open
    HOLDING = "holding"  # a stage is open and nothing may expand until it is resumed
    CLEARED = "cleared"  # the stage passed; the next one, or the cut-over, may follow
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


ACTIVE = frozenset({State.PENDING, State.BAKING, State.HOLDING, State.CLEARED})


class EventKind(StrEnum):
    """What an audit event tells."""

    ADOPTED = "adopted"
    STARTED = "started"
    STAGE_OPENED = "stage_opened"
    CLEARED = "cleared"
    HELD = "held"
    RESUMED = "resumed"
    CUT_OVER = "cut_over"
    ROLLED_BACK = "rolled_back"
    TAKEN_UP = "taken_up"  # another DAG run watches the open stage
    ACKNOWLEDGED = "acknowledged"  # the team stands by
    ANSWERED = "answered"  # a person has answered the question that a stage waited with
    CHECKED = "checked"  # the rollback target and the challenger answered before a stage
    DRILL_BEGAN = "drill_began"
    DRILL_ENDED = "drill_ended"
    DRILLED = "drilled"  # a drill that went there and back, with its times
    DATA_ROLLBACK_BEGAN = "data_rollback_began"  # nobody else does this step until it ends, or its time is up
    DATA_ROLLED_BACK = "data_rolled_back"
    DATA_ROLLBACK_FAILED = "data_rollback_failed"
    PREVIOUS_RELEASED = "previous_released"  # the rollback target is no longer kept loaded
    REPAIRED = "repaired"  # by reconcile
    REPORTED = "reported"  # found by reconcile or monitoring, left to a person


@dataclass(frozen=True, slots=True)
class Rollout:
    """One challenger of one registered model going through one plan.

    Attributes:
        id: Unique, derived from what started it.
        model: Registered model name.
        champion: Version that serves when the rollout starts.
        challenger: Version that wants to.
        plan: What it goes through.
        state: Where it is.
        stage: Position of the open (or last) stage; -1 before the first.
        salt: Deals the units; new for each rollout.
        revision: Grows by one with each change.
        created_at: UTC.
        created_by: Who or what started it.
        opened_at: When the traffic of the open stage moved, UTC; the looks are counted from here.
        judged_from: When its bake time and deadline began to count, UTC: `opened_at`, or the last resumption.
        ended_at: When it was promoted or rolled back, UTC.
        reason: Why it is in this state.
    """

    id: str
    model: str
    champion: str
    challenger: str
    plan: Plan
    state: State
    stage: int
    salt: str
    revision: int
    created_at: datetime
    created_by: str
    opened_at: datetime | None = None
    judged_from: datetime | None = None
    ended_at: datetime | None = None
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether it still holds the model's lease."""
        return self.state in ACTIVE

    @property
    def summary(self) -> str:
        """For whoever can't start another one: what goes on, and what to do."""
        return (
            f"rollout {self.id} of version {self.challenger} is active ({self.state}, stage {self.stage + 1} of "
            f"{len(self.plan.stages)}); wait for it to end or roll it back"
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit: who did what, when, why, on which numbers."""

    model: str
    rollout_id: str | None
    kind: EventKind
    at: datetime
    actor: str
    reason: str
    stage: int | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    traffic_revision: int
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What one step does. A store applies it whole, or not at all.

    Attributes:
        event: The audit line.
        traffic: The row as it will be, or None where the traffic stays.
        rollout: The rollout as it will be, or None for a change outside any rollout.
        expected_traffic_revision: The revision that the traffic must still have; 0: there must be no row yet.
        expected_rollout_revision: The same for the rollout; 0: there must be no such rollout yet.
    """

    event: Event
    traffic: Traffic | None
    rollout: Rollout | None
    expected_traffic_revision: int
    expected_rollout_revision: int


@dataclass(frozen=True, slots=True)
class Cause:
    """Who wants a step, when, why, and on which numbers."""

    actor: str
    at: datetime
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def adopt(model: str, champion: str, cause: Cause) -> Change:
    """Put a model's champion into the traffic table for the first time."""
    traffic = Traffic(model=model, champion=champion)
    event = _event(EventKind.ADOPTED, cause, None, {}, traffic)
    return Change(event, traffic, None, 0, 0)


def start(rollout_id: str, plan: Plan, challenger: str, salt: str, traffic: Traffic, cause: Cause) -> Change:
    """Take the model's lease and have the challenger loaded beside the champion, for no unit yet.

    Raises:
        IllegalTransitionError: The challenger is the champion already.
    """
    if challenger == traffic.champion:
        raise IllegalTransitionError(
            f"version {challenger} of {traffic.model} is the champion already; name another version"
        )
    after = replace(
        traffic,
        challenger=challenger,
        share=0.0,
        control_percent=0.0,
        mirror_percent=0.0,
        control_group=False,
        rollout_id=rollout_id,
        stage=None,
        salt=salt,
        revision=traffic.revision + 1,
    )
    rollout = Rollout(
        id=rollout_id,
        model=traffic.model,
        champion=traffic.champion,
        challenger=challenger,
        plan=plan,
        state=State.PENDING,
        stage=-1,
        salt=salt,
        revision=1,
        created_at=cause.at,
        created_by=cause.actor,
        reason=cause.reason,
    )
    event = _event(EventKind.STARTED, cause, rollout, traffic.shares(), after)
    return Change(event, after, rollout, traffic.revision, 0)


def open_stage(rollout: Rollout, traffic: Traffic, stage: int, cause: Cause) -> Change | None:
    """Move the traffic to a stage's share. None when the stage is open already.

    Raises:
        IllegalTransitionError: The stage before it has not passed, or the rollout has ended.
        PlanError: There is no such stage.
    """
    setting = rollout.plan.stage(stage)
    if rollout.state is State.BAKING and rollout.stage == stage:
        return None
    first = rollout.state is State.PENDING and stage == 0
    following = rollout.state is State.CLEARED and stage == rollout.stage + 1
    if not (first or following):
        raise IllegalTransitionError(
            f"stage {stage} of {rollout.id} can't be opened: the rollout is {rollout.state} at stage "
            f"{rollout.stage}; a stage opens when the one before it has passed"
        )
    _owned(rollout, traffic)
    if traffic.challenger != rollout.challenger:  # a rehearsal has taken it out, and was broken off
        raise IllegalTransitionError(
            f"stage {stage} of {rollout.id} can't be opened: version {rollout.challenger} is not beside the champion "
            f"but {traffic.challenger or 'none'}; end the rehearsal of the rollback first"
        )
    after = replace(
        traffic,
        share=setting.share,
        control_percent=setting.control_percent,
        mirror_percent=setting.mirror_percent,
        control_group=setting.control_group,
        stage=stage,
        revision=traffic.revision + 1,
    )
    moved = _next(rollout, State.BAKING, cause, stage=stage, opened_at=cause.at, judged_from=cause.at)
    return _change(EventKind.STAGE_OPENED, cause, rollout, moved, traffic, after)


def clear(rollout: Rollout, traffic: Traffic, stage: int, cause: Cause, *, by_hand: bool = False) -> Change | None:
    """Record that the stage passed. None when it is on record already.

    Where it holds, only a person may let it pass (`by_hand`).
    """
    if rollout.state is State.CLEARED and rollout.stage == stage:
        return None
    _require(rollout, stage, {State.BAKING, State.HOLDING} if by_hand else {State.BAKING}, "cleared")
    return _change(EventKind.CLEARED, cause, rollout, _next(rollout, State.CLEARED, cause), traffic, None)


def hold(rollout: Rollout, traffic: Traffic, stage: int, cause: Cause) -> Change | None:
    """Keep the share and stop expanding. None when it holds already."""
    if rollout.state is State.HOLDING and rollout.stage == stage:
        return None
    _require(rollout, stage, {State.BAKING, State.CLEARED}, "held")
    return _change(EventKind.HELD, cause, rollout, _next(rollout, State.HOLDING, cause), traffic, None)


def resume(rollout: Rollout, traffic: Traffic, stage: int, cause: Cause) -> Change | None:
    """Judge a held stage again, with its time and its deadline starting anew. None when it is not held."""
    if rollout.state is State.BAKING and rollout.stage == stage:
        return None
    _require(rollout, stage, {State.HOLDING}, "resumed")
    moved = _next(rollout, State.BAKING, cause, judged_from=cause.at)
    return _change(EventKind.RESUMED, cause, rollout, moved, traffic, None)


def cut_over(rollout: Rollout, traffic: Traffic, cause: Cause) -> Change | None:
    """Make the challenger the champion; the old one stays warm as `previous`. None when it is done already.

    Raises:
        IllegalTransitionError: The last stage has not passed.
    """
    if rollout.state is State.PROMOTED:
        return None
    _require(rollout, len(rollout.plan.stages) - 1, {State.CLEARED}, "promoted")
    _owned(rollout, traffic)
    after = Traffic(
        model=traffic.model,
        champion=rollout.challenger,
        previous=rollout.champion,
        revision=traffic.revision + 1,
    )
    moved = _next(rollout, State.PROMOTED, cause, ended_at=cause.at)
    return _change(EventKind.CUT_OVER, cause, rollout, moved, traffic, after)


def roll_back(rollout: Rollout, traffic: Traffic, cause: Cause) -> Change | None:
    """Give the champion all the traffic, in one revision. None when it is done already.

    A promoted rollout can be rolled back too, while its old champion is kept as `previous` and nothing has followed it.

    Raises:
        IllegalTransitionError: It was promoted, and its champion does not serve any more or the old one is not kept.
    """
    if rollout.state is State.ROLLED_BACK:
        return None
    if rollout.state is State.PROMOTED:
        _require_undoable(rollout, traffic)
        previous = None  # what is rolled back is no target to go back to
    else:
        _owned(rollout, traffic)
        # In the middle of a rehearsal the challenger is kept in the place of `previous`: no target to go back to.
        previous = traffic.previous if traffic.challenger is not None else None
    after = Traffic(
        model=traffic.model,
        champion=rollout.champion,
        previous=previous,
        revision=traffic.revision + 1,
    )
    moved = _next(rollout, State.ROLLED_BACK, cause, ended_at=cause.at)
    return _change(EventKind.ROLLED_BACK, cause, rollout, moved, traffic, after)


def note(kind: EventKind, rollout: Rollout, traffic: Traffic, cause: Cause) -> Change:
    """An audit line about a rollout that changes nothing else.

    The rollout's own revision stays, so that a note never gets in the way of a step.
    """
    event = _event(kind, cause, rollout, traffic.shares(), traffic)
    return Change(event, None, None, traffic.revision, 0)


def data_left(rollout: Rollout, events: Sequence[Event]) -> list[int]:
    """Positions of the plan's data rollback that no event of the rollout says are done."""
    done = {event.evidence.get("position") for event in events if event.kind is EventKind.DATA_ROLLED_BACK}
    return [position for position in range(len(rollout.plan.data_rollback)) if position not in done]


def begin_data(rollout: Rollout, traffic: Traffic, cause: Cause) -> Change:
    """Put on record that a step of the data rollback begins.

    It takes a revision of the rollout's: of several that begin a step at once, one does.
    """
    moved = replace(rollout, revision=rollout.revision + 1)
    return _change(EventKind.DATA_ROLLBACK_BEGAN, cause, rollout, moved, traffic, None)


def data_end(began: Event, events: Sequence[Event]) -> Event | None:
    """How a step of the data rollback that was begun has ended; None: no event says so."""
    kinds = (EventKind.DATA_ROLLED_BACK, EventKind.DATA_ROLLBACK_FAILED)
    claim = began.evidence.get("claim")
    return next((event for event in events if event.kind in kinds and event.evidence.get("claim") == claim), None)


def data_begun(rollout: Rollout, events: Sequence[Event], position: int, now: datetime) -> Event | None:
    """Who is at a step of the data rollback: the event of its beginning, without an end, and within its time."""
    for event in reversed(events):
        if event.kind is EventKind.DATA_ROLLBACK_BEGAN and event.evidence.get("position") == position:
            return event if now < data_until(rollout, event) and data_end(event, events) is None else None
    return None


def data_until(rollout: Rollout, began: Event) -> datetime:
    """When a step of the data rollback must have ended, or its process has: its limit, and some time for clocks."""
    step = rollout.plan.data_rollback[began.evidence["position"]]
    return began.at + timedelta(seconds=step.timeout_seconds) + _DATA_SLACK


def _require_undoable(rollout: Rollout, traffic: Traffic) -> None:
    undo = f"to undo it, start a rollout of version {rollout.champion}"
    if traffic.rollout_id is not None:
        raise IllegalTransitionError(f"{rollout.id} was promoted and {traffic.rollout_id} has followed it; {undo}")
    if traffic.champion != rollout.challenger or traffic.previous != rollout.champion:
        raise IllegalTransitionError(
            f"{rollout.id} was promoted; version {traffic.champion} serves and version "
            f"{traffic.previous or 'none'} is kept as previous, must be {rollout.challenger} and {rollout.champion}; "
            f"{undo}"
        )


def _require(rollout: Rollout, stage: int, states: set[State], what: str) -> None:
    if rollout.state not in states or rollout.stage != stage:
        raise IllegalTransitionError(
            f"stage {stage} of {rollout.id} can't be {what}: the rollout is {rollout.state} at stage "
            f"{rollout.stage}, must be {' or '.join(sorted(states))} at stage {stage}"
        )


def _owned(rollout: Rollout, traffic: Traffic) -> None:
    if traffic.rollout_id != rollout.id:
        raise IllegalTransitionError(
            f"the traffic of {rollout.model} belongs to {traffic.rollout_id or 'no rollout'}, not to {rollout.id}"
        )


def _next(rollout: Rollout, state: State, cause: Cause, **more: Any) -> Rollout:
    return replace(rollout, state=state, reason=cause.reason, revision=rollout.revision + 1, **more)


def _change(
    kind: EventKind, cause: Cause, before: Rollout, after: Rollout, traffic: Traffic, moved: Traffic | None
) -> Change:
    event = _event(kind, cause, after, traffic.shares(), moved or traffic)
    return Change(event, moved, after, traffic.revision, before.revision)


def _event(
    kind: EventKind, cause: Cause, rollout: Rollout | None, before: Mapping[str, float], traffic: Traffic
) -> Event:
    return Event(
        model=traffic.model,
        rollout_id=rollout.id if rollout else None,
        kind=kind,
        at=cause.at,
        actor=cause.actor,
        reason=cause.reason,
        stage=rollout.stage if rollout else None,
        before=dict(before),
        after=traffic.shares(),
        traffic_revision=traffic.revision,
        evidence=dict(cause.evidence),
    )
