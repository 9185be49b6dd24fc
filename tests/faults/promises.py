"""What must hold whatever was broken: each check says what it is about, and gives the numbers that it saw."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
from tests.faults.callers import Request

from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.bucketing import in_share
from model_rollouts.core.rollout import Event, EventKind, Rollout

_COLUMNS = [
    *("request_id", "version", "arm", "cohort", "served", "status", "gateway_id", "traffic_revision"),
    *("rollout_id", "stage", "unit_id", "prediction", "ts"),
]
_MOVES = (EventKind.STAGE_OPENED, EventKind.CUT_OVER, EventKind.ROLLED_BACK)


def logged(root: Path, model: str, prefix: str = "") -> pd.DataFrame:
    """The prediction log of a model, of the requests whose ids begin so."""
    from deltalake import DeltaTable

    rows = DeltaTable(str(root / model / "predictions")).to_pandas(columns=_COLUMNS)
    return rows[rows["request_id"].str.startswith(prefix)]


def check_audit(store: SqlStore, model: str, since: int = 0) -> list[Event]:
    """Shares sum to 100 at each event, no change of the traffic is without one, and each says who and why.

    Args:
        store: The rollout store.
        model: Registered model.
        since: Revision before which the audit is not looked at.
    """
    events = [event for event in store.events(model=model) if event.traffic_revision >= since]
    assert events, f"{model} has no events"
    for event in events:
        assert event.reason.strip(), f"{event.kind} at revision {event.traffic_revision} has no reason"
        assert event.actor.strip(), f"{event.kind} at revision {event.traffic_revision} is nobody's"
        for shares in (event.before, event.after):
            assert not shares or sum(shares.values()) == 100, f"{event.kind}: {shares}"
    for before, after in pairwise(events):
        step = after.traffic_revision - before.traffic_revision
        assert step in (0, 1), f"revision {before.traffic_revision} is followed by {after.traffic_revision}"
        assert dict(after.before) == dict(before.after), f"between {before.kind} and {after.kind} the traffic moved"
        assert step or dict(after.before) == dict(after.after), f"{after.kind} moved the traffic under one revision"
    traffic = store.traffic(model)
    assert traffic is not None
    told = dict(events[-1].after), events[-1].traffic_revision
    assert (traffic.shares(), traffic.revision) == told, f"the traffic is {traffic}, the audit says {told}"
    return events


def check_stages(store: SqlStore, rollout: Rollout) -> None:
    """No stage was opened twice, and the rollout ended once."""
    events = store.events(rollout_id=rollout.id)
    opened = Counter(event.stage for event in events if event.kind is EventKind.STAGE_OPENED)
    assert set(opened.values()) <= {1}, f"stages of {rollout.id} were opened {dict(opened)} times"
    ends = [event.kind for event in events if event.kind in (EventKind.CUT_OVER, EventKind.ROLLED_BACK)]
    assert len(ends) == len(set(ends)) <= 2, f"{rollout.id} ended {len(ends)} times: {ends}"
    if EventKind.ROLLED_BACK in ends:
        last = next(at for at, event in enumerate(events) if event.kind is EventKind.ROLLED_BACK)
        later = [event.kind for event in events[last + 1 :] if event.kind in _MOVES]
        assert not later, f"{rollout.id} moved traffic after its rollback: {later}"


def check_log(rows: pd.DataFrame, requests: Sequence[Request], kills: int = 0) -> dict[str, int]:
    """What was answered is in the log exactly once, with the version that answered; what was not is not.

    Args:
        rows: The log.
        requests: All that was asked.
        kills: How often a gateway was killed: between an answer and its mark a kill leaves a row that says less than
            was true; one request at a time is there.
    """
    answered = {each.request_id: each for each in requests if each.answered}
    named = set(rows["request_id"])
    lost = answered.keys() - named
    assert not lost, f"{len(lost)} answers are not in the log, such as {sorted(lost)[:3]}"
    unknown = named - {each.request_id for each in requests}
    assert not unknown, f"{len(unknown)} rows are of nobody's request, such as {sorted(unknown)[:3]}"
    # one that was asked of two gateways may have a row of each; only one of them was its answer
    doubled = rows[rows.duplicated(["request_id", "arm", "gateway_id"], keep=False)]
    assert doubled.empty, f"{len(doubled)} rows are doubled, such as {doubled['request_id'].iloc[0]}"
    served = rows[rows["served"]]
    twice = served[served.duplicated("request_id", keep=False)]
    assert twice.empty, f"{len(twice)} rows are served twice, such as {twice['request_id'].iloc[0]}"
    wrongly = set(served["request_id"]) - answered.keys()
    assert not wrongly, f"{len(wrongly)} rows say served, and their callers got nothing"
    unmarked = answered.keys() - set(served["request_id"])
    assert len(unmarked) <= kills, f"{len(unmarked)} answers are not marked as served, with {kills} kills of a gateway"
    for name, version, prediction in zip(served["request_id"], served["version"], served["prediction"], strict=True):
        each = answered[name]
        assert (version, prediction) == (each.version, str(each.prediction)), f"{name} is logged as another answer"
    return {"answered": len(answered), "rows": len(rows), "unmarked": len(unmarked)}


def check_deals(rows: pd.DataFrame, events: Sequence[Event], rollouts: Mapping[str, Rollout]) -> int:
    """Each row was routed by a traffic row that is on record, and its unit stood where that row's share says.

    Gives how many rows of open stages there were.
    """
    shares = {event.traffic_revision: (event.after, event.rollout_id) for event in events}
    seen = 0
    columns = ("traffic_revision", "rollout_id", "unit_id", "arm", "cohort", "served", "version", "stage")
    for revision, rollout_id, unit, arm, cohort, served, version, stage in zip(
        *(rows[name] for name in columns), strict=True
    ):
        assert revision in shares, f"a row was routed by revision {revision}, which no event tells of"
        after, owner = shares[revision]
        assert version in after, f"version {version} answered at revision {revision}, whose shares are {dict(after)}"
        if pd.isna(rollout_id) or not served or pd.isna(stage):
            continue
        seen += 1
        rollout = rollouts[rollout_id]
        assert owner in (rollout_id, None)
        there = in_share(rollout.salt, unit, after.get(rollout.challenger, 0.0))
        if arm == "challenger":
            assert there, f"{unit} got the challenger at revision {revision} with shares {dict(after)}"
        elif cohort == "champion":
            assert not there, f"{unit} got the champion at revision {revision} with shares {dict(after)}"
    return seen
