"""What the page asks of the store, on both engines."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from model_rollouts.adapters.sql_page import Asked, SqlPage
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern, Plan
from model_rollouts.core.rollout import Cause, EventKind, Rollout
from model_rollouts.core.traffic import Traffic

BEGIN = datetime(2026, 5, 1, 12, tzinfo=UTC)


def cause(minute: int, run: str = "", reason: str = "because") -> Cause:
    evidence = {"run": {"dag_id": "canary", "run_id": run}} if run else {}
    return Cause("anna", BEGIN + timedelta(minutes=minute), reason, evidence)


class Rollouts:
    """Rollouts in a store."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store

    def start(self, model: str, minute: int = 0, pattern: Pattern = Pattern.CANARY, run: str = "") -> Rollout:
        if self.store.traffic(model) is None:
            self.store.apply(steps.adopt(model, "1", cause(0)))
        traffic = self.traffic(model)
        self.store.apply(
            steps.start(f"{model}-{minute}", plan_from(pattern, {}), "2", "s", traffic, cause(minute, run))
        )
        return self.store.rollout(f"{model}-{minute}")

    def traffic(self, model: str) -> Traffic:
        traffic = self.store.traffic(model)
        assert traffic is not None
        return traffic

    def take(self, rollout: Rollout, step: str, minute: int, *more: int) -> Rollout:
        change = getattr(steps, step)(rollout, self.traffic(rollout.model), *more, cause(minute))
        self.store.apply(change)
        return self.store.rollout(rollout.id)


@pytest.fixture
def rollouts(store: SqlStore) -> Rollouts:
    return Rollouts(store)


@pytest.fixture
def page(store_url: str) -> SqlPage:
    return SqlPage(store_url)


def ids(page: SqlPage, **asked: object) -> list[str]:
    return [row.id for row in page.rollouts(Asked(**asked)).rows]  # type: ignore[arg-type]


def test_those_that_wait_for_a_person_come_first_then_those_that_go_on_then_the_newest(
    rollouts: Rollouts, page: SqlPage
) -> None:
    held = rollouts.take(rollouts.take(rollouts.start("a", 1), "open_stage", 2, 0), "hold", 3, 0)
    ended = rollouts.take(rollouts.start("b", 4), "roll_back", 5)
    older, newer = rollouts.start("c", 6), rollouts.start("d", 7)

    found = page.rollouts(Asked())

    assert [row.id for row in found.rows] == [held.id, newer.id, older.id, ended.id]
    assert (found.total, found.by_state) == (4, {"holding": 1, "pending": 2, "rolled_back": 1})
    assert found.models == ["a", "b", "c", "d"]


def test_a_row_has_the_share_of_now_and_when_its_state_changed(rollouts: Rollouts, page: SqlPage) -> None:
    opened = rollouts.take(rollouts.start("a", 1), "open_stage", 2, 0)
    rollouts.store.apply(steps.note(EventKind.CHECKED, opened, rollouts.traffic("a"), cause(9)))
    (row,) = page.rollouts(Asked()).rows

    assert (row.share, row.moved_at, row.opened_at) == (1.0, BEGIN + timedelta(minutes=2), BEGIN + timedelta(minutes=2))
    assert Plan.from_dict(row.plan) == opened.plan
    rollouts.take(opened, "roll_back", 10)
    rollouts.start("a", 11)
    shares = {row.id: row.share for row in page.rollouts(Asked()).rows}
    assert shares == {"a-1": 0.0, "a-11": 0.0}  # the traffic is the newer one's


def test_a_version_that_was_promoted_and_replaced_since_has_no_share(rollouts: Rollouts, page: SqlPage) -> None:
    def promote(name: str, version: str, minute: int) -> None:
        plan = plan_from(Pattern.CANARY, {"steps": (100.0,)})
        rollouts.store.apply(steps.start(name, plan, version, "s", rollouts.traffic("a"), cause(minute)))
        opened = rollouts.take(rollouts.store.rollout(name), "open_stage", minute + 1, 0)
        rollouts.take(rollouts.take(opened, "clear", minute + 2, 0), "cut_over", minute + 3)

    def shares() -> dict[str, float]:
        return {row.id: row.share for row in page.rollouts(Asked()).rows}

    rollouts.store.apply(steps.adopt("a", "1", cause(0)))
    promote("second", "2", 1)
    assert shares() == {"second": 100.0}
    promote("third", "3", 10)
    assert shares() == {"second": 0.0, "third": 100.0}
    fourth = steps.start("fourth", plan_from(Pattern.CANARY, {}), "4", "s", rollouts.traffic("a"), cause(20))
    rollouts.store.apply(fourth)
    rollouts.take(rollouts.store.rollout("fourth"), "open_stage", 21, 0)
    assert shares() == {"second": 0.0, "third": 99.0, "fourth": 1.0}


def test_filters_are_all_of_them_and_pages_are_counted_over_all(rollouts: Rollouts, page: SqlPage) -> None:
    for minute in range(1, 6):
        rollouts.start(f"fraud_{minute}", minute)
    rollouts.start("fraudx1", 6, Pattern.GRADUAL)

    assert ids(page, pattern="gradual") == ["fraudx1-6"]
    assert ids(page, patterns=("gradual",)) == ["fraudx1-6"]
    assert ids(page, patterns=("gradual",), pattern="canary") == []
    assert ids(page, patterns=()) == []
    assert page.rollouts(Asked(patterns=("gradual",))).models == ["fraudx1"]
    assert ids(page, text="FRAUD_1") == ["fraud_1-1"]  # an underscore is no wildcard
    assert ids(page, text="anna", limit=2, offset=2) == ["fraud_4-4", "fraud_3-3"]
    assert ids(page, model="fraud_2", states=("promoted",)) == []
    found = page.rollouts(Asked(states=("pending",), limit=1))
    assert (len(found.rows), found.total) == (1, 6)


def test_a_run_is_found_by_what_it_began(rollouts: Rollouts, page: SqlPage) -> None:
    rollout = rollouts.start("a", 1, run="manual__1")
    rollouts.start("b", 2, run="manual__2")

    assert page.ids_of_run("canary", "manual__1") == [rollout.id]
    assert page.ids_of_run("gradual", "manual__1") == []
    assert page.ids_of_run("canary", "' OR 1=1") == []


def test_looks_are_read_from_where_the_reader_is(rollouts: Rollouts, page: SqlPage) -> None:
    rollout = rollouts.start("a", 1)
    counts, labels = RequestCounts(100, 3, {5: 97}), LabelCounts(97, 90, 9)
    made = [Look(stage, index, counts, counts) for stage in range(2) for index in range(12)]
    made[13] = replace(made[13], champion_labels=labels, challenger_labels=labels)
    rollouts.store.save_looks(rollout.id, made)

    assert page.look_counts(rollout.id) == {0: 12, 1: 12}
    assert page.looks_after(rollout.id, -1, -1, 100) == made
    assert page.looks_after(rollout.id, 0, 10, 3) == made[11:14]
    assert page.looks_after(rollout.id, 1, 11, 3) == []
    assert page.labelled_from(rollout.id, 0, 0, (1, 11), 100) == [made[13]]
    assert page.labelled_from(rollout.id, 0, 0, (1, 0), 100) == []
    assert page.labelled_from(rollout.id, 1, 2, (1, 11), 100) == []
