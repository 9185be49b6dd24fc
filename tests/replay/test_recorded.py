"""A rollout on record, counted again from the log, decides what it decided."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.replay.past import BAD, GOOD, Live, quick_plan

from model_rollouts.core.decision import Verdict
from model_rollouts.core.gates import Gate
from model_rollouts.core.plan import Plan
from model_rollouts.replay.recorded import replay_recorded


def with_gates(plan: Plan, **changes: Any) -> Plan:
    def changed(gate: Gate) -> Gate:
        return replace(gate, **changes) if gate.metric.is_rate else gate

    return replace(plan, stages=tuple(replace(s, gates=tuple(changed(g) for g in s.gates)) for s in plan.stages))


@pytest.mark.parametrize(("challenger", "state"), [(GOOD, "promoted"), (BAD, "rolled_back")], ids=["good", "bad"])
def test_every_live_decision_is_reproduced_to_the_last_digit(
    live: Live, challenger: dict[str, float], state: str
) -> None:
    live.past.rates["2"] = challenger
    rollout = live.store.rollout(live.roll_out(quick_plan()))
    assert rollout.state == state
    live.clock.now += timedelta(hours=1)  # labels that had not matured then have by now
    replay = replay_recorded(live.service, rollout)
    assert replay.changed_looks == ()
    assert [str(c.event) for c in replay.comparisons] == (
        ["cleared", "cleared", "cleared", "cut_over"] if state == "promoted" else ["rolled_back"]
    )
    for comparison in replay.comparisons:
        assert comparison.differences == ()
        assert comparison.again == comparison.recorded
    ends = [step for step in replay.steps if step.decision.verdict is not Verdict.WAIT]
    live_ends = [c.recorded for c in replay.comparisons if c.event != "cut_over"]
    assert [(s.stage, s.decision.verdict, s.decision.action) for s in ends] == [
        (d.stage, d.verdict, d.action) for d in live_ends
    ]
    assert {step.stage for step in replay.steps} == set(range(rollout.stage + 1))
    # looking at every look, it decides no later than whoever polled
    for step, decided in zip(ends, live_ends, strict=True):
        assert step.decision.looks <= decided.looks


def test_looks_of_a_stage_that_are_closed_in_the_next_one_count_there(live: Live) -> None:
    """A stage that passes while its last looks are still open to late rows: the next stage begins with them."""
    rollout = live.store.rollout(live.roll_out(quick_plan(grace_seconds=12)))
    second = [step for step in replay_recorded(live.service, rollout).steps if step.stage == 1]
    opened = live.service.spans(rollout)[1][0]
    assert second[0].at == opened
    own = [step.decision.looks for step in second if step.at < opened + timedelta(seconds=17)]
    assert own == sorted(own)
    assert own[-1] > own[0]


def test_other_margins_on_the_same_traffic_decide_otherwise(live: Live) -> None:
    live.past.rates["2"] = {"errors": 0.02, "wrong": 0.16}
    rollout = live.store.rollout(live.roll_out(quick_plan(steps=[50, 100], bake_seconds=200)))
    assert rollout.state == "rolled_back"
    lax = replay_recorded(live.service, rollout, with_gates(rollout.plan, rollback_odds=2.2))
    assert all(step.decision.verdict is not Verdict.FAIL for step in lax.steps)
    assert lax.comparisons == ()
    with pytest.raises(ValueError, match="the plan has other shares, looks, grace or maturity than the rollout had"):
        replay_recorded(live.service, rollout, replace(rollout.plan, look_seconds=6))


def test_rows_that_came_after_their_look_was_closed_are_told_and_the_decision_differs(live: Live) -> None:
    rollout = live.store.rollout(live.roll_out(quick_plan(grace_seconds=0), seconds=60, late=1))
    live.clock.now += timedelta(hours=1)
    replay = replay_recorded(live.service, rollout)
    assert replay.changed_looks


def test_a_log_that_is_gone_reproduces_nothing(live: Live) -> None:
    import shutil

    live.past.rates["2"] = BAD
    rollout = live.store.rollout(live.roll_out(quick_plan()))
    shutil.rmtree(live.past.root)
    replay = replay_recorded(live.service, rollout)
    assert len(replay.changed_looks) == len(live.store.looks(rollout.id))
    assert all(c.differences for c in replay.comparisons)
    assert all(step.decision.verdict is Verdict.WAIT for step in replay.steps)


@pytest.mark.parametrize("broken", ["unit_counts", "label_evidence"])
def test_harm_is_acted_on_though_a_part_of_the_looks_can_not_be_counted(
    live: Live, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    live.past.rates["2"] = {"errors": 0.5, "wrong": 0.1}

    def fails(*_: Any) -> None:
        raise MemoryError("too many units")

    monkeypatch.setattr(live.service.log, broken, fails)
    rollout = live.store.rollout(live.roll_out(quick_plan()))
    assert rollout.state == "rolled_back"
    assert "error rate" in rollout.reason


def test_wrong_answers_are_acted_on_though_what_units_did_before_can_not_be_counted(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.past.rates["2"] = {"errors": 0.0, "wrong": 0.7}
    count = live.service.log.label_evidence

    def fails(model: str, rollout: str, windows: Any, fresh: int, maturity: Any) -> Any:
        if fresh:
            raise MemoryError("too many units")
        return count(model, rollout, windows, fresh, maturity)

    monkeypatch.setattr(live.service.log, "label_evidence", fails)
    rollout = live.store.rollout(live.roll_out(quick_plan()))
    assert rollout.state == "rolled_back"
    assert "wrong" in rollout.reason
    assert sum(look.matured for look in live.store.looks(rollout.id)) <= 1


@pytest.mark.parametrize("broken", ["unit_counts", "label_evidence"])
def test_without_harm_nothing_passes_on_looks_that_can_not_be_counted_whole_and_none_is_kept(
    live: Live, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError("too many units")

    monkeypatch.setattr(live.service.log, broken, fails)
    rollout = live.store.rollout(live.roll_out(quick_plan(), seconds=80))
    assert rollout.state == "baking"
    kept = live.store.looks(rollout.id)
    assert not any(look.champion_units is None or look.matured for look in kept)
    assert live.service.look(rollout.id).unreadable == "MemoryError: too many units"
