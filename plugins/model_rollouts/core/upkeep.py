"""Steps outside of a rollout's stages: drills, the release of an old champion, repairs of the traffic row."""

from dataclasses import replace

from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.core.rollout import Cause, Change, Event, EventKind, Rollout, State
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


def rehearse_back(rollout: Rollout, traffic: Traffic, cause: Cause) -> Change:
    """Take the challenger out as a rollback does, before the first stage; it stays loaded in the place of `previous`.

    Raises:
        IllegalTransitionError: The rollout has moved on.
    """
    _require_pending(rollout, traffic)
    evidence = {**cause.evidence, "previous": traffic.previous}
    after = replace(traffic, challenger=None, previous=rollout.challenger)
    return _change(EventKind.DRILL_BEGAN, traffic, after, replace(cause, evidence=evidence))


def rehearse_out(rollout: Rollout, traffic: Traffic, previous: str | None, cause: Cause) -> Change | None:
    """Put the challenger back beside the champion. None when it is there.

    Args:
        rollout: The rollout.
        traffic: The row as it is.
        previous: What was kept as `previous` before the rehearsal.
        cause: Of the event.

    Raises:
        IllegalTransitionError: The rollout has moved on.
    """
    _require_pending(rollout, traffic)
    if traffic.challenger is not None:
        return None
    after = replace(traffic, challenger=rollout.challenger, previous=previous)
    return _change(EventKind.DRILL_ENDED, traffic, after, cause)


def _require_pending(rollout: Rollout, traffic: Traffic) -> None:
    if rollout.state is not State.PENDING or traffic.rollout_id != rollout.id:
        raise IllegalTransitionError(f"{rollout.id} is {rollout.state}; a rehearsal comes before the first stage")


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
