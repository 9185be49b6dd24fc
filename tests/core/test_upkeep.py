"""Steps outside of a rollout: none of them ever moves a unit, or touches what a rollout owns."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core import upkeep
from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.core.rollout import Cause, Change, EventKind
from model_rollouts.core.traffic import Traffic

CAUSE = Cause("tester", datetime(2026, 1, 1, tzinfo=UTC), "because", {"n": 1})
ALONE = Traffic("m", "1", previous="0", revision=7)
DRILLED = Traffic("m", "1", "2", salt="drill", previous="0", revision=8)
OWNED = Traffic("m", "1", "2", 25.0, rollout_id="r1", stage=2, salt="s", previous="0", revision=9, control_group=True)

STEPS: dict[str, Callable[[Traffic], Change | None]] = {
    "drill_out": lambda t: upkeep.drill_out(t, "2", CAUSE),
    "drill_back": lambda t: upkeep.drill_back(t, CAUSE),
    "release_previous": lambda t: upkeep.release_previous(t, CAUSE),
    "repair": lambda t: upkeep.repair(t, CAUSE),
}


def moved(change: Change | None) -> Traffic:
    assert change is not None
    assert change.traffic is not None
    return change.traffic


def test_a_drill_puts_a_version_beside_the_champion_for_no_unit_and_takes_it_away_again() -> None:
    out = upkeep.drill_out(ALONE, "2", CAUSE)
    assert moved(out) == DRILLED
    assert (out.event.kind, out.event.after) == (EventKind.DRILL_BEGAN, {"1": 100.0, "2": 0.0})
    back = upkeep.drill_back(DRILLED, CAUSE)
    assert moved(back) == replace(ALONE, revision=9)
    assert (back.event.kind, back.event.after) == (EventKind.DRILL_ENDED, {"1": 100.0})


def test_the_old_champion_can_be_drilled_and_is_kept() -> None:
    assert moved(upkeep.drill_out(ALONE, "0", CAUSE)) == replace(DRILLED, challenger="0")


def test_a_drill_that_begins_amid_another_takes_its_place() -> None:
    assert moved(upkeep.drill_out(DRILLED, "3", CAUSE)) == replace(DRILLED, challenger="3", revision=9)


def test_the_champion_can_not_be_drilled() -> None:
    with pytest.raises(IllegalTransitionError, match="version 1 of m is the champion; name another version"):
        upkeep.drill_out(ALONE, "1", CAUSE)


@pytest.mark.parametrize("step", ["drill_out", "drill_back", "repair"])
@pytest.mark.parametrize("row", [OWNED, replace(OWNED, challenger=None, share=0.0, control_group=False, stage=None)])
def test_traffic_that_a_rollout_owns_is_left_alone(step: str, row: Traffic) -> None:
    with pytest.raises(IllegalTransitionError, match="the traffic of m belongs to rollout r1"):
        STEPS[step](row)


def test_releasing_the_old_champion_takes_nothing_else_away() -> None:
    for row in (ALONE, DRILLED, OWNED):
        change = upkeep.release_previous(row, CAUSE)
        assert moved(change) == replace(row, previous=None, revision=row.revision + 1)
        assert change is not None
        assert (change.event.kind, change.event.before) == (EventKind.PREVIOUS_RELEASED, change.event.after)
        assert (change.event.rollout_id, change.event.stage) == (row.rollout_id, row.stage)


def test_a_rehearsal_that_keeps_the_challenger_as_previous_is_not_robbed_of_it() -> None:
    rehearsing = Traffic("m", "1", None, rollout_id="r1", salt="s", previous="2", revision=9)
    assert upkeep.release_previous(rehearsing, CAUSE) is None


def test_a_repair_takes_out_a_challenger_of_no_rollout() -> None:
    stray = Traffic("m", "1", "2", 30.0, salt="s", previous="0", revision=7, mirror_percent=5.0)
    change = upkeep.repair(stray, CAUSE)
    assert moved(change) == replace(ALONE, revision=8)
    assert change is not None
    assert (change.event.kind, change.event.before) == (EventKind.REPAIRED, {"1": 70.0, "2": 30.0})


def test_where_nothing_is_there_a_release_and_a_repair_do_nothing() -> None:
    assert upkeep.release_previous(replace(ALONE, previous=None), CAUSE) is None
    assert upkeep.repair(ALONE, CAUSE) is None


@pytest.mark.parametrize("step", ["release_previous", "repair"])
def test_a_release_or_repair_that_is_repeated_does_nothing(step: str) -> None:
    assert STEPS[step](moved(STEPS[step](DRILLED))) is None


def test_a_report_is_an_audit_line_and_nothing_more() -> None:
    for row in (ALONE, OWNED):
        change = upkeep.report(row, EventKind.REPORTED, CAUSE)
        assert (change.traffic, change.rollout) == (None, None)
        assert change.expected_traffic_revision == change.event.traffic_revision == row.revision
        assert change.event.before == change.event.after == row.shares()
        assert (change.event.rollout_id, change.event.reason, change.event.evidence) == (
            row.rollout_id,
            "because",
            {"n": 1},
        )


def test_the_numbers_of_an_event_are_its_own() -> None:
    evidence: dict[str, Any] = {"n": 1}
    change = upkeep.report(ALONE, EventKind.REPORTED, replace(CAUSE, evidence=evidence))
    evidence["n"] = 2
    assert change.event.evidence == {"n": 1}


@st.composite
def rows(draw: st.DrawFn) -> Traffic:
    challenger = draw(st.none() | st.sampled_from(["2", "3"]))
    return Traffic(
        "m",
        "1",
        challenger,
        draw(st.floats(0, 100)) if challenger else 0.0,
        control_percent=draw(st.floats(0, 50)),
        rollout_id=draw(st.none() | st.just("r1")),
        stage=draw(st.none() | st.integers(0, 4)),
        salt=draw(st.text(max_size=3)),
        previous=draw(st.none() | st.sampled_from(["0", "2"])),
        revision=draw(st.integers(1, 10**9)),
        mirror_percent=draw(st.floats(0, 100)),
        control_group=draw(st.booleans()),
    )


@settings(derandomize=True, deadline=None, max_examples=300)
@given(rows(), st.sampled_from(sorted(STEPS)))
def test_every_step_is_one_revision_keeps_the_champion_sums_to_100_and_moves_no_unit_of_a_rollout(
    row: Traffic, step: str
) -> None:
    try:
        change = STEPS[step](row)
    except IllegalTransitionError:
        assert row.rollout_id is not None
        return
    if change is None:
        return
    assert (change.expected_traffic_revision, change.expected_rollout_revision) == (row.revision, 0)
    after = moved(change)
    assert (after.revision, change.event.traffic_revision) == (row.revision + 1, row.revision + 1)
    assert change.rollout is None
    assert (after.model, after.champion, change.event.model) == ("m", "1", "m")
    for shares in (change.event.before, change.event.after):
        assert sum(shares.values()) == pytest.approx(100, abs=1e-9)
    assert change.event.after == after.shares()
    if row.rollout_id is not None:
        assert after == replace(row, previous=None, revision=row.revision + 1)
    elif step != "release_previous":
        assert after.share == after.mirror_percent == after.control_percent == 0
        assert (after.rollout_id, after.stage, after.previous) == (None, None, row.previous)
