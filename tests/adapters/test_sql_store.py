"""What every rollout store must do, on SQLite and on a real PostgreSQL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_rows import from_rollout, from_traffic
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.adapters.sql_tables import rollouts, traffic
from model_rollouts.core import rollout as core
from model_rollouts.core.errors import ActiveRolloutError, NotFoundError, StaleRevisionError
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.rollout import EventKind, State
from model_rollouts.core.traffic import Traffic


def test_a_rollout_is_read_as_it_was_written(steps: Any, store: SqlStore) -> None:
    change = steps.starting("r1")

    store.apply(change)

    assert store.rollout("r1") == change.rollout
    assert store.traffic("flights") == change.traffic
    assert store.events(model="flights")[-1] == change.event
    assert store.active("flights") == change.rollout


def test_a_whole_rollout_leaves_its_audit_in_order(steps: Any, store: SqlStore) -> None:
    steps.start()
    store.apply(steps.opening())
    store.apply(steps.rolling_back(error_rate=0.25))

    assert [e.kind for e in store.events("flights")] == [
        EventKind.ADOPTED,
        EventKind.STARTED,
        EventKind.STAGE_OPENED,
        EventKind.ROLLED_BACK,
    ]
    last = store.events(rollout_id="r1")[-1]
    assert (last.before, last.after, last.evidence) == ({"1": 95.0, "2": 5.0}, {"1": 100.0}, {"error_rate": 0.25})
    assert store.traffic("flights") == Traffic("flights", "1", revision=4)
    assert store.active("flights") is None
    assert store.rollout("r1").state is State.ROLLED_BACK


def test_nothing_is_found_where_nothing_is(store: SqlStore) -> None:
    assert store.traffic("flights") is None
    assert store.active("flights") is None
    assert (store.all_traffic(), store.rollouts(), store.events(), store.looks("r1")) == ([], [], [], [])
    with pytest.raises(NotFoundError, match="no rollout 'r1'"):
        store.rollout("r1")


def test_traffic_comes_by_model_and_rollouts_newest_first(steps: Any, store: SqlStore) -> None:
    store.apply(core.adopt("airports", "7", steps.cause()))
    steps.start("r1")
    store.apply(steps.rolling_back("r1"))
    store.apply(replace(steps, at=steps.at + timedelta(hours=1)).starting("r0"))

    assert [t.model for t in store.all_traffic()] == ["airports", "flights"]
    assert [r.id for r in store.rollouts("flights")] == ["r0", "r1"]
    assert [r.id for r in store.rollouts(limit=1)] == ["r0"]
    assert store.rollouts("airports") == []


def test_a_change_under_an_old_traffic_revision_changes_nothing(steps: Any, store: SqlStore) -> None:
    steps.start()
    late = steps.opening()
    store.apply(steps.rolling_back())
    before = store.traffic("flights"), store.rollout("r1"), store.events("flights")

    with pytest.raises(StaleRevisionError, match="traffic of flights is at revision 3, expected revision 2"):
        store.apply(late)

    assert (store.traffic("flights"), store.rollout("r1"), store.events("flights")) == before


def test_a_change_that_leaves_the_traffic_still_needs_its_revision(steps: Any, store: SqlStore) -> None:
    steps.start()
    store.apply(steps.opening())
    clear = core.clear(*steps.now("r1"), 0, steps.cause("passed"))
    assert clear is not None
    assert clear.traffic is None

    with pytest.raises(StaleRevisionError, match="traffic of flights is at revision 3, expected revision 9"):
        store.apply(replace(clear, expected_traffic_revision=9))
    assert store.rollout("r1").state is State.BAKING

    store.apply(clear)
    assert store.rollout("r1").state is State.CLEARED
    assert store.traffic("flights") == steps.now("r1")[1]


def test_a_change_under_an_old_rollout_revision_changes_nothing(steps: Any, store: SqlStore) -> None:
    steps.start()
    store.apply(steps.opening())
    hold = core.hold(*steps.now("r1"), 0, steps.cause("wait"))
    clear = core.clear(*steps.now("r1"), 0, steps.cause("passed"))
    assert hold is not None
    assert clear is not None
    store.apply(clear)

    with pytest.raises(StaleRevisionError, match="rollout r1 is at revision 3, expected revision 2"):
        store.apply(hold)

    assert store.rollout("r1").state is State.CLEARED
    assert [e.kind for e in store.events("flights")].count(EventKind.HELD) == 0


def test_what_must_not_be_there_yet_is_refused_when_it_is(steps: Any, store: SqlStore) -> None:
    with pytest.raises(StaleRevisionError, match="traffic of flights is at revision 1, expected none yet"):
        steps.adopt()
    start = steps.starting("r1")
    store.apply(start)
    again = replace(start, expected_traffic_revision=2)
    with pytest.raises(StaleRevisionError, match="rollout r1 is at revision 1, expected none yet"):
        store.apply(again)
    with pytest.raises(StaleRevisionError, match="traffic of other is not there, expected revision 3"):
        store.apply(replace(start, event=replace(start.event, model="other"), expected_traffic_revision=3))


def test_a_second_rollout_is_refused_by_the_name_of_the_first(steps: Any, store: SqlStore) -> None:
    second = steps.starting("r2", "3")  # read before the first one started, so it is stale too
    steps.start("r1")

    with pytest.raises(
        ActiveRolloutError,
        match=r"rollout r1 of version 2 is active \(pending, stage 0 of 2\); wait .* or roll it back",
    ):
        store.apply(second)

    assert [r.id for r in store.rollouts("flights")] == ["r1"]
    store.apply(steps.rolling_back("r1"))
    store.apply(steps.starting("r2", "3"))
    assert store.rollout("r2").active


def test_the_database_itself_allows_one_active_rollout_a_model(steps: Any, store: SqlStore, store_url: str) -> None:
    steps.start("r1")
    row = from_rollout(replace(store.rollout("r1"), id="r2"))

    with pytest.raises(IntegrityError), Database(store_url).write() as connection:
        connection.execute(sa.insert(rollouts), row)
    with Database(store_url).write() as connection:  # another model is free, and so is an ended one
        connection.execute(sa.insert(rollouts), row | {"model": "airports"})
        connection.execute(sa.insert(rollouts), row | {"id": "r3", "state": "promoted", "ended_at": datetime.now(UTC)})
    assert len(store.rollouts()) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 101.0},
        {"share": -1.0},
        {"share": float("nan")},
        {"control_percent": 200.0},
        {"revision": 0},
        {"challenger": None},
        {"challenger": "1"},
        {"rollout_id": "nobody"},
    ],
    ids=str,
)
def test_the_database_itself_refuses_traffic_that_can_not_be(steps: Any, store_url: str, wrong: dict[str, Any]) -> None:
    row = from_traffic(Traffic("other", "1", "2", share=5.0))

    with pytest.raises(IntegrityError), Database(store_url).write() as connection:
        connection.execute(sa.insert(traffic), row | wrong)


def test_a_state_that_nobody_knows_is_refused(steps: Any, store: SqlStore, store_url: str) -> None:
    steps.start()

    for wrong in ({"state": "paused"}, {"state": "promoted"}, {"ended_at": datetime.now(UTC)}, {"stage": -2}):
        with pytest.raises(IntegrityError), Database(store_url).write() as connection:
            connection.execute(sa.update(rollouts).values(wrong))
    assert store.rollout("r1").state is State.PENDING


def test_a_rule_of_the_tables_that_breaks_undoes_the_whole_change(steps: Any, store: SqlStore) -> None:
    start = steps.starting("r1")
    assert start.rollout is not None

    with pytest.raises(IntegrityError):  # written after rollout and traffic
        store.apply(replace(start, event=replace(start.event, rollout_id="nobody")))

    assert store.rollouts() == []
    assert store.traffic("flights") == Traffic("flights", "1")


@pytest.mark.parametrize(
    "statement",
    ["UPDATE events SET reason = 'better'", "DELETE FROM events", "DELETE FROM looks", "UPDATE looks SET stage = 9"],
)
def test_audit_and_evidence_can_not_be_rewritten(
    steps: Any, store: SqlStore, store_url: str, statement: str, one_look: Any
) -> None:
    steps.start()
    store.save_looks("r1", [one_look])
    before = store.events(), store.looks("r1")

    with pytest.raises(IntegrityError, match="are written once"), Database(store_url).write() as connection:
        connection.exec_driver_sql(statement)

    assert (store.events(), store.looks("r1")) == before


def test_audit_and_evidence_can_not_be_emptied_or_replaced(
    steps: Any, store: SqlStore, store_url: str, one_look: Any
) -> None:
    steps.start()
    store.save_looks("r1", [one_look])
    before = store.events(), store.looks("r1")
    on_postgres = store_url.startswith("postgresql")
    refused = (
        ["TRUNCATE events", "TRUNCATE looks", "TRUNCATE rollouts CASCADE"]
        if on_postgres
        else ["REPLACE INTO events SELECT * FROM events"]
    )

    for statement in refused:
        with pytest.raises(DBAPIError, match="are written once"), Database(store_url).write() as connection:
            connection.exec_driver_sql(statement)
    if not on_postgres:
        with Database(store_url).write() as connection:
            connection.exec_driver_sql("REPLACE INTO looks SELECT rollout_id, stage, look, '{}', NULL FROM looks")

    assert (store.events(), store.looks("r1")) == before


def test_times_come_back_in_utc_whatever_they_were_given_in(steps: Any, store: SqlStore) -> None:
    tokyo = replace(steps, at=datetime(2026, 1, 1, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9))))
    tokyo.start()

    created = store.rollout("r1").created_at

    assert created == tokyo.at
    assert (created.tzinfo, created.hour, created.microsecond) == (UTC, 0, 123456)
    assert store.events()[-1].at.tzinfo is UTC


def test_a_time_without_zone_is_refused(steps: Any, store: SqlStore) -> None:
    naive = replace(steps, at=datetime(2026, 1, 1, 12))  # noqa: DTZ001 - what must be refused

    with pytest.raises(Exception, match="has no time zone"):
        naive.start()

    assert store.rollouts() == []


def test_evidence_that_json_can_not_hold_does_not_stop_a_rollback(steps: Any, store: SqlStore) -> None:
    steps.start()
    odd = {
        "rate": float("nan"),
        "log_e": float("inf"),
        "text": "a\x00b\udc80",
        "at": steps.at,
        "set": {1},
        3: (None, True),
    }

    store.apply(core.roll_back(*steps.now("r1"), steps.cause("broken\x00pipe", odd=odd)))  # type: ignore[arg-type]

    event = store.events()[-1]
    assert store.rollout("r1").state is State.ROLLED_BACK
    assert event.reason == "broken\ufffdpipe"
    assert event.evidence["odd"] == {
        "rate": "nan",
        "log_e": "inf",
        "text": "a\ufffdb?",
        "at": "2026-01-01 12:00:00+00:00",
        "set": [1],
        "3": [None, True],
    }


def test_a_plan_that_could_not_be_read_again_is_refused_before_anything_moves(steps: Any, store: SqlStore) -> None:
    start = steps.starting("r1")
    plan = start.rollout.plan
    object.__setattr__(plan.stages[0], "deadline_seconds", float("inf"))  # past the plan's own checks

    with pytest.raises(Exception, match="not JSON compliant"):
        store.apply(start)

    assert store.traffic("flights") == Traffic("flights", "1")


def test_other_databases_and_memory_are_refused() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"):
        with pytest.raises(ValueError, match="in memory can't be shared between processes"):
            SqlStore(url)
    with pytest.raises(ValueError, match="store URL is of 'mysql', must be sqlite"):
        SqlStore("mysql://localhost/x")


def test_looks_and_those_of_them_with_labels_from_the_first_on_are_counted(steps: Any, store: SqlStore) -> None:
    steps.start("r1")
    store.apply(steps.opening())
    assert store.look_counts("r1") == (0, 0)
    labels = LabelCounts(10, 9, 1)

    def look(stage: int, index: int, labelled: bool) -> Look:
        known = labels if labelled else None
        return Look(stage, index, RequestCounts(10), RequestCounts(10), known, known)

    store.save_looks("r1", [look(0, 0, True), look(0, 1, True), look(0, 2, False), look(1, 0, True), look(1, 1, False)])
    assert store.look_counts("r1") == (5, 2)
    store.save_looks("r1", [look(0, 2, True)])
    assert store.look_counts("r1") == (5, 4)
    store.save_looks("r1", [look(1, 1, True)])
    assert store.look_counts("r1") == (5, 5)
