"""How much of a model's prediction log may be dropped: no day that a rollout may still be judged by."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from model_rollouts.core.rollout import Rollout, State
from model_rollouts.core.traffic import Traffic

# What is read of the time before a rollout: values of units (CUPED), requests of offline stages, golden requests.
BEFORE_ROLLOUT = timedelta(days=30)
_SLACK = timedelta(days=1)  # clocks, grace, the last reports
OUTCOMES_EARLIER = timedelta(days=1)  # a label's clock may be behind that of its request


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of a model's log.

    Attributes:
        since: First day of predictions that stays; None: all of them.
        reason: Why, for a person.
    """

    since: date | None
    reason: str

    @property
    def outcomes_since(self) -> date | None:
        """First day of outcomes that stays: those of the first predictions may be dated a day earlier."""
        return None if self.since is None else self.since - OUTCOMES_EARLIER


def kept(retention_days: int, rollouts: Iterable[Rollout], traffic: Traffic | None, now: datetime) -> Kept:
    """The days of a model's log that stay.

    A rollout holds its own time, the 30 days before it, or more where drift is measured from more, and the maturity of
    labels before that: while it is active, for as long as its old champion is kept, and until the labels of its last
    requests have matured.

    Args:
        retention_days: Days to keep; 0: all.
        rollouts: The model's, active and ended.
        traffic: Its traffic row; None: the store does not know the model, so nobody can say what is still needed.
        now: UTC.

    Raises:
        ValueError: retention_days is negative.
    """
    if retention_days < 0:
        raise ValueError(f"retention_days is {retention_days}, must be at least 0")
    if retention_days == 0:
        return Kept(None, "everything is kept: log_retention_days is 0")
    if traffic is None:
        return Kept(None, "everything is kept: the store does not know the model, so what is still needed is unknown")
    since = (now - timedelta(days=retention_days)).date()
    reason = f"log_retention_days is {retention_days}"
    for rollout in rollouts:
        if why := _needed(rollout, traffic, now):
            maturity = timedelta(seconds=rollout.plan.label_maturity_seconds)
            earlier = max(BEFORE_ROLLOUT, timedelta(seconds=rollout.plan.drift.reference_seconds or 0))
            first = (rollout.created_at - earlier - maturity - _SLACK).date()
            if first < since:
                since, reason = first, f"{rollout.id} {why}"
    return Kept(since, reason)


def _needed(rollout: Rollout, traffic: Traffic, now: datetime) -> str:
    """Why a rollout's time may still be read; "" when it may not."""
    if rollout.active or rollout.ended_at is None:
        return f"is {rollout.state}"
    if rollout.state is State.PROMOTED and traffic.previous == rollout.champion:
        return f"keeps version {rollout.champion} as previous"
    wait = timedelta(seconds=rollout.plan.label_maturity_seconds)
    if rollout.state is State.PROMOTED:
        wait = max(wait, timedelta(seconds=rollout.plan.keep_previous_seconds))
    return f"ended at {rollout.ended_at.isoformat()}" if now < rollout.ended_at + wait + _SLACK else ""
