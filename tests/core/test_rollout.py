"""The state machine, in any order of steps, stale and repeated ones included."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_rollouts.core import rollout as steps
from model_rollouts.core.errors import IllegalTransitionError, PlanError
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.rollout import Cause, Change, Event, EventKind, Rollout, State
from model_rollouts.core.traffic import Traffic

PLAN = plan_canary(CanaryParameters(steps=(5, 33.3, 100)))
LAST = len(PLAN.stages) - 1
GATES = (Gate(Metric.ERROR_RATE),)
START = datetime(2026, 1, 1, tzinfo=UTC)


def cause(minute: int = 0, reason: str = "because", **evidence: Any) -> Cause:
    return Cause("tester", START + timedelta(minutes=minute), reason, evidence)


def begun() -> tuple[Rollout, Traffic]:
    change = steps.start("r1", PLAN, "2", "salt", Traffic("m", "1", previous="0", revision=7), cause())
    assert change.rollout is not None
    assert change.traffic is not None
    return change.rollout, change.traffic


def after(rollout: Rollout, traffic: Traffic, change: Change | None) -> tuple[Rollout, Traffic]:
    assert change is not None
    return change.rollout or rollout, change.traffic or traffic


def opened(stage: int) -> tuple[Rollout, Traffic]:
    """A rollout with this stage open, by the legal path."""
    rollout, traffic = begun()
    for position in range(stage + 1):
        if position:
            rollout, traffic = after(rollout, traffic, steps.clear(rollout, traffic, position - 1, cause()))
        rollout, traffic = after(rollout, traffic, steps.open_stage(rollout, traffic, position, cause(position)))
    return rollout, traffic


def promoted() -> tuple[Rollout, Traffic]:
    rollout, traffic = opened(LAST)
    rollout, traffic = after(rollout, traffic, steps.clear(rollout, traffic, LAST, cause()))
    return after(rollout, traffic, steps.cut_over(rollout, traffic, cause(99)))


STEPS: dict[str, Callable[[Rollout, Traffic, int], Change | None]] = {
    "open_stage": lambda r, t, s: steps.open_stage(r, t, s, cause()),
    "clear": lambda r, t, s: steps.clear(r, t, s, cause()),
    "hold": lambda r, t, s: steps.hold(r, t, s, cause()),
    "resume": lambda r, t, s: steps.resume(r, t, s, cause()),
    "cut_over": lambda r, t, _: steps.cut_over(r, t, cause()),
    "roll_back": lambda r, t, _: steps.roll_back(r, t, cause()),
}


class AnyOrder(RuleBasedStateMachine):
    """Takes any step at any time, on the newest state, and checks each change that comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    @initialize()
    def starts(self) -> None:
        self.rollout, self.traffic = begun()

    @rule(
        name=st.sampled_from(sorted(set(STEPS) - {"roll_back"})),
        stage=st.integers(-1, LAST + 1),
        times=st.integers(1, 2),
    )
    def takes_a_step(self, name: str, stage: int, times: int) -> None:
        for _ in range(times):
            self.apply(name, stage)

    @rule()
    def goes_on_as_planned(self) -> None:
        """Without this, random steps seldom get far."""
        state, stage = self.rollout.state, self.rollout.stage
        if state in (State.PENDING, State.CLEARED) and stage < LAST:
            assert self.apply("open_stage", stage + 1)
        elif state is State.CLEARED:
            assert self.apply("cut_over", stage)
        elif state is State.BAKING:
            assert self.apply("clear", stage)
        elif state is State.HOLDING:
            assert self.apply("resume", stage)

    @precondition(lambda self: self.rollout.state is not State.ROLLED_BACK and len(self.events) > 4)
    @rule()
    def rolls_back(self) -> None:
        assert self.apply("roll_back", 0)

    def apply(self, name: str, stage: int) -> bool:
        before, row = self.rollout, self.traffic
        try:
            change = STEPS[name](before, row, stage)
        except (IllegalTransitionError, PlanError):
            return False
        if change is None:
            return False
        self.judge(name, stage, change)
        self.rollout, self.traffic = after(before, row, change)
        self.events.append(change.event)
        assert STEPS[name](self.rollout, self.traffic, stage) is None, "a step that is taken again does nothing"
        return True

    def judge(self, name: str, stage: int, change: Change) -> None:
        before, row, now = self.rollout, self.traffic, change.rollout
        assert now is not None
        undone = before.state is State.PROMOTED and name == "roll_back"
        assert before.active or undone, f"{before.state} is the end, and {name} changed it"
        assert (now.revision, change.expected_rollout_revision) == (before.revision + 1, before.revision)
        assert change.expected_traffic_revision == row.revision
        assert change.traffic is None or change.traffic.revision == row.revision + 1
        assert change.event.before == row.shares()
        assert change.event.after == (change.traffic or row).shares()
        assert change.event.traffic_revision == (change.traffic or row).revision
        if name == "open_stage":
            assert stage == before.stage + 1 == now.stage
            assert before.state is (State.CLEARED if stage else State.PENDING)
        else:
            assert now.stage == before.stage
        if name == "cut_over":
            assert (before.state, before.stage) == (State.CLEARED, LAST)

    @invariant()
    def every_event_sums_to_100(self) -> None:
        for event in self.events:
            assert sum(event.before.values()) == pytest.approx(100, abs=1e-9)
            assert sum(event.after.values()) == pytest.approx(100, abs=1e-9)

    @invariant()
    def stages_open_in_order_and_each_after_a_recorded_pass(self) -> None:
        """In the audit itself: every stage once, from the first on, and a clear right before each but the first."""
        story = [(e.kind, e.stage) for e in self.events]
        shown = [stage for kind, stage in story if kind is EventKind.STAGE_OPENED]
        assert shown == list(range(len(shown)))
        for position, (kind, stage) in enumerate(story):
            if kind in (EventKind.STAGE_OPENED, EventKind.CUT_OVER) and position:
                passed = stage if kind is EventKind.CUT_OVER else shown[shown.index(stage) - 1]
                assert story[position - 1] == (EventKind.CLEARED, passed)

    @invariant()
    def the_traffic_is_what_the_state_says(self) -> None:
        state, stage = self.rollout.state, self.rollout.stage
        if state is State.ROLLED_BACK:
            assert self.traffic.shares() == {"1": 100.0}
            undone = any(event.kind is EventKind.CUT_OVER for event in self.events)
            assert (self.traffic.rollout_id, self.traffic.previous) == (None, None if undone else "0")
        elif state is State.PROMOTED:
            assert self.traffic.shares() == {"2": 100.0}
            assert (self.traffic.rollout_id, self.traffic.previous) == (None, "1")
        else:
            share = PLAN.stages[stage].share if stage >= 0 else 0.0
            assert self.traffic.shares() == {"1": 100.0 - share, "2": share}
            assert (self.traffic.rollout_id, self.traffic.champion) == ("r1", "1")
        assert self.rollout.active is (self.rollout.ended_at is None)

    @invariant()
    def a_rollback_is_always_possible_and_restores_the_champion(self) -> None:
        if self.rollout.state is State.ROLLED_BACK:
            return
        change = steps.roll_back(self.rollout, self.traffic, cause())
        assert change is not None
        assert change.traffic is not None
        assert change.traffic.shares() == {"1": 100.0}
        assert change.traffic.challenger is None


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None, derandomize=True)
TestAnyOrder = AnyOrder.TestCase


def test_the_legal_path_reaches_promoted_and_leaves_the_old_champion_warm() -> None:
    rollout, traffic = promoted()
    assert (rollout.state, rollout.stage, rollout.active) == (State.PROMOTED, LAST, False)
    assert traffic == Traffic("m", "2", previous="1", revision=7 + 1 + 3 + 1)
    assert rollout.revision == 1 + 3 + 3 + 1
    assert rollout.ended_at == START + timedelta(minutes=99)


def test_starting_loads_the_challenger_and_moves_nobody() -> None:
    rollout, traffic = begun()
    assert (rollout.state, rollout.stage) == (State.PENDING, -1)
    assert (traffic.shares(), traffic.challenger, traffic.salt) == ({"1": 100.0, "2": 0.0}, "2", "salt")


def test_opening_a_stage_moves_the_share_and_the_clock() -> None:
    rollout, traffic = opened(LAST)
    assert (traffic.share, traffic.control_percent, traffic.stage) == (100.0, 10.0, LAST)
    assert rollout.opened_at == rollout.judged_from == START + timedelta(minutes=LAST)


def test_resuming_judges_anew_and_keeps_the_looks() -> None:
    rollout, traffic = opened(1)
    held, _ = after(rollout, traffic, steps.hold(rollout, traffic, 1, cause(5)))
    resumed, row = after(held, traffic, steps.resume(held, traffic, 1, cause(9)))
    assert resumed.state is State.BAKING
    assert resumed.opened_at == rollout.opened_at
    assert resumed.judged_from == START + timedelta(minutes=9)
    assert row == traffic


def test_a_cleared_stage_that_is_held_must_pass_again() -> None:
    rollout, traffic = opened(0)
    rollout, traffic = after(rollout, traffic, steps.clear(rollout, traffic, 0, cause()))
    rollout, traffic = after(rollout, traffic, steps.hold(rollout, traffic, 0, cause()))
    with pytest.raises(
        IllegalTransitionError, match="stage 1 of r1 can't be opened: the rollout is holding at stage 0"
    ):
        steps.open_stage(rollout, traffic, 1, cause())
    rollout, traffic = after(rollout, traffic, steps.resume(rollout, traffic, 0, cause()))
    with pytest.raises(IllegalTransitionError, match="the rollout is baking at stage 0"):
        steps.open_stage(rollout, traffic, 1, cause())


@pytest.mark.parametrize("stale", [0, LAST])
def test_steps_of_another_stage_than_the_open_one_are_refused(stale: int) -> None:
    rollout, traffic = opened(1)
    for step in (steps.clear, steps.hold, steps.resume, steps.open_stage):
        with pytest.raises(IllegalTransitionError, match=f"stage {stale} of r1 can't be"):
            step(rollout, traffic, stale, cause())


@pytest.mark.parametrize("step", sorted(set(STEPS) - {"cut_over", "roll_back"}))
def test_nothing_but_a_rollback_follows_a_promotion(step: str) -> None:
    rollout, traffic = promoted()
    with pytest.raises(IllegalTransitionError, match="promoted"):
        STEPS[step](rollout, traffic, LAST)
    assert STEPS["cut_over"](rollout, traffic, LAST) is None


def test_a_promotion_can_be_undone_in_one_revision_while_the_old_champion_is_kept() -> None:
    rollout, traffic = promoted()
    undone, back = after(rollout, traffic, steps.roll_back(rollout, traffic, cause()))
    assert (undone.state, back.champion, back.previous, back.challenger) == ("rolled_back", "1", None, None)
    assert (back.shares(), back.revision) == ({"1": 100.0}, traffic.revision + 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"previous": None}, "version none is kept as previous"),
        ({"champion": "7"}, "version 7 serves"),
        ({"rollout_id": "r2", "challenger": "9"}, "r2 has followed it"),
    ],
)
def test_a_promotion_that_something_has_followed_is_not_undone(change: dict[str, Any], said: str) -> None:
    rollout, traffic = promoted()
    with pytest.raises(IllegalTransitionError, match=f"{said}.*start a rollout of version 1"):
        steps.roll_back(rollout, replace(traffic, **change), cause())


@pytest.mark.parametrize("step", sorted(set(STEPS) - {"roll_back"}))
def test_nothing_follows_a_rollback(step: str) -> None:
    rollout, traffic = opened(0)
    rollout, traffic = after(rollout, traffic, steps.roll_back(rollout, traffic, cause()))
    with pytest.raises(IllegalTransitionError, match="rolled_back"):
        STEPS[step](rollout, traffic, 0)
    assert STEPS["roll_back"](rollout, traffic, 0) is None


def rehearsing() -> tuple[Rollout, Traffic]:
    """A rehearsal has taken the challenger out of the traffic, and keeps it loaded in the place of `previous`."""
    rollout, traffic = begun()
    return rollout, replace(traffic, challenger=None, previous="2", revision=traffic.revision + 1)


def test_a_rollback_amid_a_rehearsal_leaves_no_challenger_as_the_target_of_the_next_one() -> None:
    rollout, traffic = rehearsing()
    gone, row = after(rollout, traffic, steps.roll_back(rollout, traffic, cause()))
    assert (gone.state, row.champion, row.challenger, row.previous) == (State.ROLLED_BACK, "1", None, None)


@pytest.mark.parametrize("beside", [None, "3"])
def test_no_stage_opens_while_another_version_or_none_is_beside_the_champion(beside: str | None) -> None:
    rollout, traffic = rehearsing()
    odd = replace(traffic, challenger=beside)
    with pytest.raises(IllegalTransitionError, match=f"version 2 is not beside the champion but {beside or 'none'}"):
        steps.open_stage(rollout, odd, 0, cause())
    assert steps.open_stage(rollout, replace(traffic, challenger="2"), 0, cause())


STAGES = {
    "mirrored": (Stage(0, GATES, 0, 60, mirror_percent=30), (0, 0, 30, False)),
    "offline": (Stage(0, GATES, 0, 60, offline=True), (0, 0, 0, False)),
    "grouped": (Stage(5, GATES, 0, 60, control_group=True), (5, 0, 0, True)),
    "dealt": (Stage(50, GATES, 0, 60), (50, 0, 0, False)),
    "all": (Stage(100, GATES, 0, 60, control_percent=20), (100, 20, 0, False)),
}


@pytest.mark.parametrize(("first", "second"), list(pairwise(STAGES)))
def test_a_stage_sets_all_of_the_traffic_and_leaves_nothing_of_the_one_before(first: str, second: str) -> None:
    chained = [replace(STAGES[n][0], pattern=p) for n, p in ((first, Pattern.SHADOW), (second, Pattern.CANARY))]
    change = steps.start("r1", Plan(Pattern.SHADOW, tuple(chained)), "2", "s", Traffic("m", "1"), cause())
    rollout, traffic = change.rollout, change.traffic
    for position, name in enumerate((first, second)):
        assert rollout is not None
        assert traffic is not None
        if position:
            rollout, traffic = after(rollout, traffic, steps.clear(rollout, traffic, position - 1, cause()))
        rollout, traffic = after(rollout, traffic, steps.open_stage(rollout, traffic, position, cause()))
        shown = (traffic.share, traffic.control_percent, traffic.mirror_percent, traffic.control_group)
        assert shown == STAGES[name][1]
        assert sum(traffic.shares().values()) == 100


def test_a_start_begins_with_nothing_that_an_earlier_rollout_or_drill_left() -> None:
    left = Traffic("m", "1", "9", 0.0, 0.0, None, 3, "drill", "0", 7, mirror_percent=40.0, control_group=True)
    row = steps.start("r1", PLAN, "2", "salt", left, cause()).traffic
    assert row == Traffic("m", "1", "2", rollout_id="r1", salt="salt", previous="0", revision=8)


@pytest.mark.parametrize("end", ["roll_back", "cut_over"])
def test_an_end_leaves_no_mirror_and_no_control_group(end: str) -> None:
    rollout, traffic = opened(LAST)
    rollout, traffic = after(rollout, traffic, steps.clear(rollout, traffic, LAST, cause()))
    odd = replace(traffic, mirror_percent=40.0, control_group=True)
    change = STEPS[end](rollout, odd, LAST)
    assert change is not None
    assert change.traffic is not None
    assert (change.traffic.mirror_percent, change.traffic.control_group, change.traffic.control_percent) == (
        0,
        False,
        0,
    )


def test_a_promotion_that_is_undone_ends_then_and_keeps_no_target() -> None:
    rollout, traffic = promoted()
    change = steps.roll_back(rollout, traffic, cause(200, "labels tell otherwise"))
    back, row = after(rollout, traffic, change)
    assert change is not None
    assert (back.state, back.ended_at, back.reason) == (
        State.ROLLED_BACK,
        START + timedelta(minutes=200),
        "labels tell otherwise",
    )
    assert (change.event.before, change.event.after) == ({"2": 100.0}, {"1": 100.0})
    assert (change.expected_rollout_revision, back.revision) == (rollout.revision, rollout.revision + 1)
    assert (row.champion, row.previous, row.rollout_id) == ("1", None, None)
    assert steps.roll_back(back, row, cause()) is None


def test_a_note_changes_nothing_and_stands_under_the_revision_that_it_was_made_at() -> None:
    rollout, traffic = opened(1)
    change = steps.note(EventKind.CHECKED, rollout, traffic, cause(5, "fine", asked=20))
    assert (change.traffic, change.rollout) == (None, None)
    assert (change.event.before, change.event.after) == (traffic.shares(), traffic.shares())
    assert (change.event.stage, change.event.rollout_id, change.event.evidence) == (1, "r1", {"asked": 20})
    assert change.expected_traffic_revision == change.event.traffic_revision == traffic.revision


@pytest.mark.parametrize("owner", [None, "r2"])
def test_traffic_of_another_rollout_is_never_moved(owner: str | None) -> None:
    rollout, traffic = opened(0)
    cleared, _ = after(rollout, traffic, steps.clear(rollout, traffic, 0, cause()))
    foreign = replace(traffic, rollout_id=owner)
    for move in (
        lambda: steps.roll_back(rollout, foreign, cause()),
        lambda: steps.open_stage(cleared, foreign, 1, cause()),
        lambda: steps.cut_over(replace(cleared, stage=LAST), foreign, cause()),
    ):
        with pytest.raises(IllegalTransitionError, match=f"belongs to {owner or 'no rollout'}, not to r1"):
            move()


def test_the_champion_can_not_challenge_itself() -> None:
    with pytest.raises(IllegalTransitionError, match="version 1 of m is the champion already"):
        steps.start("r1", PLAN, "1", "salt", Traffic("m", "1"), cause())


def test_a_stage_that_is_not_in_the_plan_is_refused() -> None:
    rollout, traffic = begun()
    with pytest.raises(PlanError, match=f"stage is {LAST + 1}, must be between 0 and {LAST}"):
        steps.open_stage(rollout, traffic, LAST + 1, cause())


def test_adopting_writes_the_first_row() -> None:
    change = steps.adopt("m", "1", cause())
    assert (change.traffic, change.rollout) == (Traffic("m", "1"), None)
    assert (change.expected_traffic_revision, change.expected_rollout_revision) == (0, 0)
    assert (change.event.kind, change.event.before, change.event.after) == (EventKind.ADOPTED, {}, {"1": 100.0})


def test_an_event_keeps_who_when_why_and_the_numbers() -> None:
    rollout, traffic = opened(0)
    change = steps.clear(rollout, traffic, 0, cause(3, "proven", log_e=4.2))
    assert change is not None
    event = change.event
    assert (event.actor, event.at, event.reason) == ("tester", START + timedelta(minutes=3), "proven")
    assert (event.stage, event.rollout_id, event.evidence) == (0, "r1", {"log_e": 4.2})
    assert change.traffic is None
    assert change.rollout is not None
    assert change.rollout.reason == "proven"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 101.0}, "share is 101.0, must be between 0 and 100"),
        ({"share": -1.0}, "share is -1.0, must be between 0 and 100"),
        ({"share": float("nan")}, "share is nan, must be between 0 and 100"),
        ({"mirror_percent": 101.0}, "mirror_percent is 101.0, must be between 0 and 100"),
        ({"mirror_percent": float("nan")}, "mirror_percent is nan, must be between 0 and 100"),
        ({"control_percent": 51.0}, "control_percent is 51.0, must be between 0 and 50"),
        ({"challenger": None, "share": 5.0}, "share is 5.0 without a challenger, must be 0"),
        ({"challenger": "1"}, "version 1 is champion and challenger at once"),
    ],
)
def test_a_traffic_row_that_does_not_sum_to_100_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"traffic of m: {message}"):
        Traffic(**({"model": "m", "champion": "1", "challenger": "2"} | values))
