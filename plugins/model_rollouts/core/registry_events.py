"""What follows from a change in the registry: the mapping that docs/registry-triggers.md shows as a table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from model_rollouts.core.errors import PlanError, RolloutError
from model_rollouts.core.plan import Pattern
from model_rollouts.core.registry_snapshot import (
    DEFAULT_PATTERN_TAG,
    PARAMS_TAG,
    REQUEST_TAG,
    ChangeKind,
    RegistryChange,
    Snapshot,
)
from model_rollouts.core.rollout import ACTIVE, Rollout, State
from model_rollouts.core.traffic import Traffic

ROLLBACK_DAG = "rollback"
REQUESTED_BY = "registry"
#: What a start fills in itself, and what only a later stage is told.
_OWN_PARAMS = frozenset({"model", "challenger", "requested_by", "reason", "rollout_id", "stage"})


class RunRefusedError(RolloutError):
    """The run can't be started, and asking again gives the same answer: bad values, or a paused DAG."""


class UnknownDagError(RunRefusedError):
    """There is no such DAG; shortly after a start it may only not have been read yet."""


class Response(StrEnum):
    """What a change leads to."""

    START = "start"
    RESUME = "resume"
    ROLL_BACK = "roll_back"
    NOTHING = "nothing"
    REFUSED = "refused"  # it asks for something that can't be done


@dataclass(frozen=True, slots=True)
class Intention:
    """What is to be done about a change, decided once.

    Attributes:
        response: What.
        reason: Why, as a sentence for people.
        dag_id: The DAG to run; "" where none is.
        conf: What the run is given.
        reported: Whether a person should hear of it, though nothing is done.
    """

    response: Response
    reason: str
    dag_id: str = ""
    conf: Mapping[str, Any] = field(default_factory=dict)
    reported: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Intention":
        """The other way round."""
        return cls(**{**data, "response": Response(data["response"])})


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """A change on record.

    Attributes:
        id: Grows with time; a store that was lost begins anew, which is why run ids hold the time too.
        change: What was done.
        seen_at: When it was seen, UTC.
        intention: What is to be done about it; None: not decided yet.
        run_id: The DAG run that does it, or "".
        handled_at: When it was done, UTC; None: not yet.
        outcome: What came of it, or "".
    """

    id: int
    change: RegistryChange
    seen_at: datetime
    intention: Intention | None = None
    run_id: str = ""
    handled_at: datetime | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What a decision rests on, all of one model.

    Attributes:
        snapshot: The registry as it was seen last.
        traffic: The store's row; None: never adopted.
        rollouts: The store's rollouts, newest first.
        starting: Version -> id of the change whose start is under way: its rollout is not in the store yet.
        default_pattern: Where neither the version nor the model names one.
    """

    snapshot: Snapshot
    traffic: Traffic | None = None
    rollouts: tuple[Rollout, ...] = ()
    starting: Mapping[str, int] = field(default_factory=dict)
    default_pattern: Pattern = Pattern.CANARY

    @property
    def active(self) -> Rollout | None:
        """The rollout that holds the model's lease."""
        return next((rollout for rollout in self.rollouts if rollout.active), None)

    @property
    def champion(self) -> str | None:
        """The version that serves; what the registry says where the store has no word yet."""
        return self.traffic.champion if self.traffic else self.snapshot.champion


def respond(change: RegistryChange, view: View) -> Intention | None:
    """What is to be done; None: not yet, ask again when the start that is under way has come to its rollout.

    Our own writes to the registry follow the store, so a change that says what the store says leads to nothing.
    """
    if history := change.detail.get("history"):
        return Intention(Response.NOTHING, f"{_told(change)}: {history}; set it again to start a rollout")
    now = view.snapshot.version(change.version)
    match change.kind:
        case ChangeKind.ALIAS_REMOVED:
            return _alias_removed(change, view)
        case ChangeKind.ALIAS_SET if view.snapshot.challenger == change.version:
            return _start(change, view)
        case ChangeKind.REQUESTED if now.request == change.detail["pattern"]:
            return _start(change, view)
        case ChangeKind.STAGED if now.stage == change.detail["to"] == "Staging":
            return _start(change, view)
        case ChangeKind.STAGED if now.stage == change.detail["to"] == "Production":
            return _cut_over(change, view)
        case ChangeKind.STAGED if now.stage == change.detail["to"] == "Archived":
            return _archived(change, view)
    return Intention(Response.NOTHING, f"{_told(change)}: it was changed again since")


def _start(change: RegistryChange, view: View) -> Intention:
    told, version, active = _told(change), change.version, view.active
    if version == view.champion:
        return Intention(Response.NOTHING, f"{told}: it is the champion")
    if active is not None and active.challenger == version:
        return Intention(Response.NOTHING, f"{told}: rollout {active.id} of it is {active.state}")
    if version in view.starting:
        return Intention(Response.NOTHING, f"{told}: already started by change {view.starting[version]}")
    if active is not None or view.starting:
        busy = _of(active) if active else f"version {next(iter(view.starting))} is being started"
        reason = f"{told}: {busy}, and a model has one rollout at a time; set it again when that has ended"
        return Intention(Response.NOTHING, reason, reported=True)
    if change.kind is not ChangeKind.REQUESTED and (left := _leftover(change, view)):
        return Intention(Response.NOTHING, f"{told}: {left}", reported=True)
    if view.champion is None:
        reason = f"{told}: the model has no champion to compare with; set the alias champion, then set it again"
        # stages are everybody's: a first version that goes to Production is no wish of ours
        return Intention(Response.NOTHING, reason) if change.kind is ChangeKind.STAGED else _refused(reason)
    try:
        pattern, params = _pattern_of(version, view), _params_of(version, view)
    except PlanError as error:
        return _refused(f"{told}: {error}")
    conf = {**params, "model": change.model, "challenger": version, "requested_by": REQUESTED_BY}
    return Intention(Response.START, f"{told}: {pattern} starts", pattern.dag_id, conf)


def _cut_over(change: RegistryChange, view: View) -> Intention:
    active = view.active
    if active is None or active.challenger != change.version or change.version == view.champion:
        return _start(change, view)
    if active.state is not State.HOLDING:
        reason = f"{_told(change)}: rollout {active.id} of it is {active.state} and goes on by its plan"
        return Intention(Response.NOTHING, reason)
    conf = {
        "model": change.model,
        "challenger": change.version,
        "rollout_id": active.id,
        "requested_by": REQUESTED_BY,
    }
    reason = f"{_told(change)}: rollout {active.id}, which holds, is resumed"
    return Intention(Response.RESUME, reason, active.plan.pattern.dag_id, conf)


def _archived(change: RegistryChange, view: View) -> Intention | None:
    told, version, active = _told(change), change.version, view.active
    if active is not None and active.challenger == version:
        return _roll_back(change, f"{told}: rollout {active.id} of it is rolled back")
    if version in view.starting:
        return None  # there is nothing to roll back yet, and there will be
    if version != view.champion or change.detail["from"] != "Production":
        return Intention(Response.NOTHING, f"{told}: it neither serves nor wants to")
    others = [number for number, seen in view.snapshot.versions.items() if seen.stage == "Production"]
    if others:
        return Intention(Response.NOTHING, f"{told}: version {others[0]} was put in its place")
    if active is not None:
        reason = f"{told}: it serves, and {_of(active)}; roll that back, or wait for its end"
        return Intention(Response.NOTHING, reason, reported=True)
    if view.traffic is None or view.traffic.previous is None:
        return _refused(f"{told}: it serves and no earlier champion is kept to go back to; start a rollout of one")
    return _roll_back(change, f"{told}: version {view.traffic.previous} serves again")


def _alias_removed(change: RegistryChange, view: View) -> Intention:
    told, active = _told(change), view.active
    if view.snapshot.challenger is not None:
        return Intention(Response.NOTHING, f"{told}: it was changed again since")
    if active is None or active.challenger != change.version:
        return Intention(Response.NOTHING, f"{told}: no rollout of it is active")
    reason = f"{told}: rollout {active.id} of it goes on and sets it again; to end it: rollouts rollback {change.model}"
    return Intention(Response.NOTHING, reason, reported=True)


def _roll_back(change: RegistryChange, reason: str) -> Intention:
    return Intention(Response.ROLL_BACK, reason, ROLLBACK_DAG, {"model": change.model, "reason": reason})


def _refused(reason: str) -> Intention:
    return Intention(Response.REFUSED, reason, reported=True)


def refused(intention: Intention, why: str) -> Intention:
    """The intention when Airflow does not take the run."""
    return replace(_refused(f"{intention.reason}, but no run could be made: {why}"), dag_id=intention.dag_id)


def _leftover(change: RegistryChange, view: View) -> str:
    """Why the alias or the stage may be one that a rollout set and, when it ended, could not take away.

    The tags are written after the roles. When they name a rollout as active that has ended, the registry has not been
    brought up to date since, and a version that was just rolled back must not be started anew by what is left.
    """
    seen = view.snapshot.version(change.version)
    ended = next((r for r in view.rollouts if r.id == seen.rollout_id and not r.active), None)
    if ended is None or seen.rollout_state not in ACTIVE:
        return ""
    return (
        f"rollout {ended.id} of it is {ended.state} and its tags still say {seen.rollout_state}, so this may be left "
        "from it; when the registry is up to date (DAG reconcile), set it again"
    )


def _pattern_of(version: str, view: View) -> Pattern:
    """The pattern that a version is to go through.

    Raises:
        PlanError: It names none that there is.
    """
    asked = view.snapshot.version(version).request
    where, text = (REQUEST_TAG, asked) if asked else (DEFAULT_PATTERN_TAG, view.snapshot.default_pattern)
    if not text:
        return view.default_pattern
    name = text.strip().lower().replace("_", "-")
    if name not in list(Pattern):
        raise PlanError(f"tag {where} is {text[:100]!r}, must be one of {', '.join(Pattern)}")
    return Pattern(name)


def _params_of(version: str, view: View) -> dict[str, Any]:
    """The form's values of a version.

    Raises:
        PlanError: The tag holds no JSON object, or one with names that are not the version's to say.
    """
    text = view.snapshot.version(version).params
    if not text:
        return {}
    try:
        params = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"tag {PARAMS_TAG} is no JSON ({error}): {text[:100]!r}") from error
    if not isinstance(params, dict):
        raise PlanError(f"tag {PARAMS_TAG} is {text[:100]!r}, must be a JSON object")
    if own := sorted(_OWN_PARAMS & params.keys()):
        raise PlanError(f"tag {PARAMS_TAG} names {', '.join(own)}, which the change itself says; take it out")
    return params


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _of(rollout: Rollout) -> str:
    return f"rollout {rollout.id} of version {rollout.challenger} is active ({rollout.state})"


def _told(change: RegistryChange) -> str:
    match change.kind:
        case ChangeKind.ALIAS_SET:
            what = "alias challenger set"
        case ChangeKind.ALIAS_REMOVED:
            what = "alias challenger removed"
        case ChangeKind.REQUESTED:
            what = f"tag {REQUEST_TAG} set to {change.detail['pattern'][:40]}"
        case ChangeKind.STAGED:
            what = f"moved from {change.detail['from']} to {change.detail['to']}"
    return f"{what} (version {change.version} of {change.model})"
