"""What the fault suite checks can fail: each check is shown a store or a log in which one thing is wrong."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from tests.faults.callers import Request
from tests.faults.promises import check_audit, check_deals, check_log, check_stages

from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.bucketing import in_share
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.rollout import Cause, Rollout

PLAN = Plan(Pattern.CANARY, (Stage(30, (Gate(Metric.ERROR_RATE),), 60.0, 600.0),))
CAUSE = Cause("test", datetime(2026, 11, 26, tzinfo=UTC), "a reason")


@pytest.fixture
def store(tmp_path: Path) -> SqlStore:
    """A model with a rollout that is open at 30 %."""
    made = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    made.migrate()
    made.apply(steps.adopt("m", "1", CAUSE))
    made.apply(steps.start("r1", PLAN, "2", "salt", _traffic(made), CAUSE))
    change = steps.open_stage(made.rollout("r1"), _traffic(made), 0, CAUSE)
    assert change is not None
    made.apply(change)
    return made


def _traffic(store: SqlStore) -> steps.Traffic:
    found = store.traffic("m")
    assert found is not None
    return found


def _rows(store: SqlStore) -> tuple[pd.DataFrame, list[Request]]:
    """A log as it should be, and who asked."""
    requests, rows = [], []
    for number in range(40):
        unit = f"unit{number}"
        version = "2" if in_share("salt", unit, 30) else "1"
        arm = "challenger" if version == "2" else "champion"
        requests.append(Request(f"q{number}", unit, 1.0, 1.0, 2.0, version, "http://g1", 1))
        place = {"gateway_id": "g1", "traffic_revision": 3, "rollout_id": "r1", "stage": 0.0, "unit_id": unit}
        said = {"version": version, "arm": arm, "cohort": arm, "served": True, "status": "ok", "prediction": "1"}
        rows.append({"request_id": f"q{number}", **said, **place})
    return pd.DataFrame(rows), requests


def test_what_is_as_it_should_be_passes(store: SqlStore) -> None:
    rows, requests = _rows(store)
    events = check_audit(store, "m")
    check_stages(store, store.rollout("r1"))
    assert check_log(rows, requests) == {"answered": 40, "rows": 40, "unmarked": 0}
    assert check_deals(rows, events, {"r1": store.rollout("r1")}) == 40


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE traffic SET share = 50", "50"),
        ("UPDATE traffic SET revision = 9", "9"),
        ("UPDATE events SET reason = ' ' WHERE kind = 'stage_opened'", "no reason"),
        ("UPDATE events SET actor = '' WHERE kind = 'started'", "nobody's"),
        ("DELETE FROM events WHERE kind = 'started'", "is followed by"),
        ("UPDATE events SET after = '{\"1\": 80.0, \"2\": 30.0}' WHERE kind = 'stage_opened'", "80"),
        ("UPDATE events SET before = '{\"1\": 90.0, \"2\": 10.0}' WHERE kind = 'stage_opened'", "the traffic moved"),
    ],
)
def test_an_audit_that_does_not_explain_the_traffic_is_seen(store: SqlStore, statement: str, says: str) -> None:
    engine = sa.create_engine(store._database.url)
    with engine.begin() as connection:
        for (name,) in connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            connection.execute(sa.text(f"DROP TRIGGER {name}"))  # events are written once
        connection.execute(sa.text(statement.replace("SET after", 'SET "after"').replace("SET before", 'SET "before"')))
    engine.dispose()
    with pytest.raises(AssertionError, match=says):
        check_audit(store, "m")


def test_a_stage_that_is_opened_twice_is_seen(store: SqlStore) -> None:
    rollout, traffic = store.rollout("r1"), _traffic(store)
    opened = steps.note(steps.EventKind.STAGE_OPENED, rollout, traffic, CAUSE)
    store.apply(opened)
    with pytest.raises(AssertionError, match="were opened"):
        check_stages(store, rollout)


def _without(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["request_id"] != "q7"]


def _again(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows[rows["request_id"] == "q7"]])


def _from_another(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows[rows["request_id"] == "q7"].assign(gateway_id="g2")])


def _unmarked(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(served=rows["request_id"] != "q7")


def _other_answer(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(prediction=rows["prediction"].where(rows["request_id"] != "q7", "0"))


def _strange(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(request_id=rows["request_id"].where(rows["request_id"] != "q7", "x"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (_without, "not in the log"),
        (_again, "doubled"),
        (_from_another, "served twice"),
        (_unmarked, "not marked"),
        (_other_answer, "another answer"),
        (lambda rows: pd.concat([rows, _strange(rows)[7:8]]), "nobody's request"),
    ],
)
def test_a_log_that_lost_or_doubled_an_answer_is_seen(
    store: SqlStore, wrong: Callable[[pd.DataFrame], pd.DataFrame], says: str
) -> None:
    rows, requests = _rows(store)
    with pytest.raises(AssertionError, match=says):
        check_log(wrong(rows), requests)


def test_a_row_that_says_served_though_nobody_was_answered_is_seen(store: SqlStore) -> None:
    rows, requests = _rows(store)
    requests[3].version = ""
    with pytest.raises(AssertionError, match="their callers got nothing"):
        check_log(rows, requests)


def test_a_unit_that_is_dealt_wrongly_is_seen(store: SqlStore) -> None:
    rows, _ = _rows(store)
    events = check_audit(store, "m")
    rollouts = {"r1": store.rollout("r1")}
    with pytest.raises(AssertionError, match="got the challenger"):
        check_deals(rows.assign(arm="challenger", version="2"), events, rollouts)
    with pytest.raises(AssertionError, match="got the champion"):
        check_deals(rows.assign(arm="champion", cohort="champion", version="1"), events, rollouts)
    with pytest.raises(AssertionError, match="no event tells of"):
        check_deals(rows.assign(traffic_revision=8), events, rollouts)
    with pytest.raises(AssertionError, match="answered at revision"):
        check_deals(rows.assign(version="3"), events, rollouts)


def test_a_rollout_that_moves_after_its_rollback_is_seen(store: SqlStore) -> None:
    change = steps.roll_back(store.rollout("r1"), _traffic(store), CAUSE)
    assert change is not None
    store.apply(change)
    rolled_back: Rollout = store.rollout("r1")
    check_stages(store, rolled_back)
    store.apply(steps.note(steps.EventKind.CUT_OVER, rolled_back, _traffic(store), replace(CAUSE, reason="late")))
    with pytest.raises(AssertionError, match="after its rollback"):
        check_stages(store, rolled_back)
