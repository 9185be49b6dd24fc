"""Changes are recorded once, decided once and handled once, on each engine, whoever comes at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest

from model_rollouts.adapters.sql_migrate import SchemaError
from model_rollouts.adapters.sql_registry_changes import SqlRegistryChanges
from model_rollouts.core.errors import StaleRevisionError
from model_rollouts.core.registry_events import Intention, Response
from model_rollouts.core.registry_snapshot import ChangeKind, RegistryChange, Snapshot, VersionSeen

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEFORE = Snapshot("m", AT, champion="1")
AFTER = Snapshot("m", AT, champion="1", challenger="2", versions={"2": VersionSeen("Staging", "canary", '{"a": 1}')})
SET = RegistryChange("m", ChangeKind.ALIAS_SET, "2", {"from": ""})
START = Intention(Response.START, "because", "canary", {"model": "m", "steps": [5, 100]})


@pytest.fixture
def changes(store_url: str) -> Iterator[SqlRegistryChanges]:
    made = SqlRegistryChanges(store_url)
    yield made
    made.close()


def at_once(*calls: Any) -> list[Any]:
    """What each call gave, or the error that it raised, when all of them began together."""
    start = Barrier(len(calls))

    def run(call: Any) -> Any:
        start.wait(timeout=10)
        try:
            return call()
        except StaleRevisionError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_nothing_is_seen_before_the_first_look(changes: SqlRegistryChanges) -> None:
    assert changes.seen() == {}
    assert changes.began() is None
    assert changes.pending() == []


def test_what_was_seen_comes_back(changes: SqlRegistryChanges) -> None:
    changes.see(AFTER, [SET], 0, AT)
    changes.see(Snapshot("n", AT), [], 0, AT + timedelta(hours=1))

    assert changes.seen(["m"])["m"].snapshot == AFTER
    assert set(changes.seen()) == {"m", "n"}
    assert changes.began() == AT
    (found,) = changes.pending()
    assert (found.change, found.seen_at, found.intention, found.run_id, found.outcome) == (SET, AT, None, "", "")


def test_a_look_that_another_one_was_faster_than_records_nothing(changes: SqlRegistryChanges) -> None:
    changes.see(BEFORE, [], 0, AT)
    changes.see(AFTER, [SET], 1, AT)

    with pytest.raises(StaleRevisionError, match="revision 1"):
        changes.see(BEFORE, [RegistryChange("m", ChangeKind.ALIAS_REMOVED, "2")], 1, AT)

    assert [each.change for each in changes.pending()] == [SET]
    assert changes.seen()["m"].snapshot == AFTER


@pytest.mark.parametrize("first_look", [True, False])
def test_two_that_look_at_once_record_a_change_once(store_url: str, first_look: bool) -> None:
    one, other = SqlRegistryChanges(store_url), SqlRegistryChanges(store_url)
    if not first_look:
        one.see(BEFORE, [], 0, AT)
    expected = 0 if first_look else 1

    results = at_once(*[lambda watcher=w: watcher.see(AFTER, [SET], expected, AT) for w in (one, other)])

    assert sorted(type(result).__name__ for result in results) == ["NoneType", "StaleRevisionError"]
    assert [each.change for each in one.pending()] == [SET]
    one.close()
    other.close()


def test_two_that_decide_at_once_decide_once(store_url: str) -> None:
    one, other = SqlRegistryChanges(store_url), SqlRegistryChanges(store_url)
    one.see(AFTER, [SET], 0, AT)
    number = one.pending()[0].id

    results = at_once(
        lambda: one.decide("m", 1, {number: (START, "run-of-one")}),
        lambda: other.decide("m", 1, {number: (START, "run-of-the-other")}),
    )

    winner = "run-of-one" if results[0] is None else "run-of-the-other"
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "StaleRevisionError"]
    assert [each.run_id for each in one.pending()] == [winner]
    one.close()
    other.close()


def test_a_look_makes_a_decision_on_an_older_one_stale(changes: SqlRegistryChanges) -> None:
    changes.see(AFTER, [SET], 0, AT)
    number = changes.pending()[0].id
    changes.see(BEFORE, [], 1, AT)

    with pytest.raises(StaleRevisionError):
        changes.decide("m", 1, {number: (START, "r")})

    assert changes.pending()[0].intention is None


def test_a_decision_comes_back_and_is_found_among_those_with_runs(changes: SqlRegistryChanges) -> None:
    changes.see(AFTER, [SET, SET], 0, AT)
    first, second = (each.id for each in changes.pending())

    changes.decide("m", 1, {first: (START, "run"), second: (Intention(Response.NOTHING, "no"), "")})

    assert [(c.intention and c.intention.response, c.run_id) for c in changes.pending("m")] == [
        (Response.START, "run"),
        (Response.NOTHING, ""),
    ]
    assert changes.pending()[0].intention == START
    assert [each.id for each in changes.with_runs("m")] == [first]
    assert changes.with_runs("n") == []


def test_a_change_is_handled_once(changes: SqlRegistryChanges) -> None:
    changes.see(AFTER, [SET], 0, AT)
    number = changes.pending()[0].id

    results = at_once(lambda: changes.handle(number, "mine", AT), lambda: changes.handle(number, "theirs", AT))

    assert sorted(results) == [False, True]
    assert changes.pending() == []


def test_an_outcome_that_is_no_text_to_a_database_is_kept_as_well_as_can_be(changes: SqlRegistryChanges) -> None:
    changes.see(AFTER, [SET], 0, AT)
    number = changes.pending()[0].id
    changes.decide("m", 1, {number: (START, "run")})

    assert changes.handle(number, "zero \x00 and half \ud800 " + "x" * 5000, AT)

    (kept,) = changes.with_runs("m")
    assert kept.outcome.startswith("zero \ufffd and half ? x")
    assert len(kept.outcome) == 2000
    assert kept.handled_at == AT


def test_numbers_are_never_given_twice(changes: SqlRegistryChanges) -> None:
    changes.see(AFTER, [SET], 0, AT)
    first = changes.pending()[0].id
    changes.see(BEFORE, [SET], 1, AT)

    assert changes.pending()[-1].id > first


def test_a_store_without_tables_is_refused(empty_url: str) -> None:
    with pytest.raises(SchemaError, match="no tables yet"):
        SqlRegistryChanges(empty_url).pending()
