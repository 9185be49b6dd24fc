"""Steps outside of a rollout's stages: drills, the release of an old champion, repairs of the traffic row."""

from dataclasses import replace

from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.core.rollout import Cause, Change, Event, EventKind
from model_rollouts.core.traffic import Traffic


def drill_out(traffic: Traffic, version: str, cause: Cause) -> Change:
    """Put a version beside the champion as a rollout does, for no unit.

    Raises:
        IllegalTransitionError: A rollout owns the traffic, or the version serves already.
    """
    if traffic.rollout_id is not None:
        raise IllegalTransitionError(
            f"the traffic of {traffic.model} belongs to rollout {traffic.rollout_id}; drill when it has ended "
            "(its own preflight rehearses)"
        )
    if version == traffic.champion:
        raise IllegalTransitionError(f"version {version} of {traffic.model} is the champion; name another version")
    after = replace(_alone(traffic), challenger=version, salt="drill")
    return _change(EventKind.DRILL_BEGAN, traffic, after, cause)


def drill_back(traffic: Traffic, cause: Cause) -> Change:
    """Give the champion everything again, as a rollback does.

    Raises:
        IllegalTransitionError: A rollout owns the traffic.
    """
    if traffic.rollout_id is not None:
        raise IllegalTransitionError(f"the traffic of {traffic.model} belongs to rollout {traffic.rollout_id}")
    return _change(EventKind.DRILL_ENDED, traffic, _alone(traffic), cause)


def release_previous(traffic: Traffic, cause: Cause) -> Change | None:
    """Keep the old champion no longer. None when none is kept, or a rehearsal keeps the challenger in its place."""
    rehearsed = traffic.rollout_id is not None and traffic.challenger is None
    if traffic.previous is None or rehearsed:
        return None
    return _change(EventKind.PREVIOUS_RELEASED, traffic, replace(traffic, previous=None), cause)


def repair(traffic: Traffic, cause: Cause) -> Change | None:
    """Take a challenger that belongs to no rollout out of the traffic. None when there is none.

    Raises:
        IllegalTransitionError: A rollout owns the traffic.
    """
    if traffic.rollout_id is not None:
        raise IllegalTransitionError(f"the traffic of {traffic.model} belongs to rollout {traffic.rollout_id}")
    if traffic.challenger is None:
        return None
    return _change(EventKind.REPAIRED, traffic, _alone(traffic), cause)


def report(traffic: Traffic, kind: EventKind, cause: Cause) -> Change:
    """An audit line about a model that changes nothing."""
    return Change(_event(kind, traffic, traffic, cause), None, None, traffic.revision, 0)


def _alone(traffic: Traffic) -> Traffic:
    return Traffic(model=traffic.model, champion=traffic.champion, previous=traffic.previous, revision=traffic.revision)


def _change(kind: EventKind, before: Traffic, after: Traffic, cause: Cause) -> Change:
    after = replace(after, revision=before.revision + 1)
    return Change(_event(kind, before, after, cause), after, None, before.revision, 0)


def _event(kind: EventKind, before: Traffic, after: Traffic, cause: Cause) -> Event:
    return Event(
        model=after.model,
        rollout_id=after.rollout_id,
        kind=kind,
        at=cause.at,
        actor=cause.actor,
        reason=cause.reason,
        stage=after.stage,
        before=before.shares(),
        after=after.shares(),
        traffic_revision=after.revision,
        evidence=dict(cause.evidence),
    )
