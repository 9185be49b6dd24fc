"""What is offered in each state, and that an offer is what the step then does."""

from datetime import UTC, datetime

import pytest

from model_rollouts.core import rollout as steps
from model_rollouts.core.by_hand import Deed, offer, offers, step
from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, Change, Rollout, State
from model_rollouts.core.traffic import Traffic

CAUSE = Cause("anna", datetime(2026, 1, 1, tzinfo=UTC), "because")


def _at(*path: str, advance: str = "at_once") -> tuple[Rollout, Traffic]:
    """A rollout of two stages after these steps."""
    change: Change | None = steps.start(
        "r1", plan_canary(CanaryParameters(steps=(5, 100), advance=advance)), "2", "s", Traffic("m", "1"), CAUSE
    )
    rollout, traffic = change.rollout, change.traffic
    assert rollout is not None
    assert traffic is not None
    for name in path:
        stage = max(rollout.stage, 0) + (name == "open" and rollout.state is State.CLEARED)
        change = {
            "open": lambda r, t, s: steps.open_stage(r, t, s, CAUSE),
            "clear": lambda r, t, s: steps.clear(r, t, s, CAUSE),
            "hold": lambda r, t, s: steps.hold(r, t, s, CAUSE),
            "cut": lambda r, t, _: steps.cut_over(r, t, CAUSE),
            "back": lambda r, t, _: steps.roll_back(r, t, CAUSE),
        }[name](rollout, traffic, stage)
        assert change is not None
        rollout, traffic = change.rollout or rollout, change.traffic or traffic
    return rollout, traffic


@pytest.mark.parametrize(
    ("path", "offered"),
    [
        ((), {Deed.ROLL_BACK}),
        (("open",), {Deed.HOLD, Deed.EXPAND, Deed.ROLL_BACK}),
        (("open", "hold"), {Deed.RESUME, Deed.EXPAND, Deed.ROLL_BACK}),
        (("open", "clear"), {Deed.HOLD, Deed.ROLL_BACK}),
        (("open", "clear", "open"), {Deed.HOLD, Deed.CUT_OVER, Deed.ROLL_BACK}),
        (("open", "clear", "open", "hold"), {Deed.RESUME, Deed.CUT_OVER, Deed.ROLL_BACK}),
        (("open", "clear", "open", "clear"), {Deed.HOLD, Deed.CUT_OVER, Deed.ROLL_BACK}),
        (("open", "clear", "open", "clear", "cut"), {Deed.ROLL_BACK}),
        (("open", "back"), set()),
    ],
)
def test_a_deed_is_offered_where_its_step_is_legal_and_nowhere_else(path: tuple[str, ...], offered: set[Deed]) -> None:
    rollout, traffic = _at(*path)

    assert {each.deed for each in offers(rollout, traffic) if not each.refusal} == offered
    for deed in Deed:
        if deed in offered:
            change = step(deed, rollout, traffic, CAUSE)
            assert change.rollout is None or change.rollout.revision == rollout.revision + 1
        else:
            with pytest.raises(IllegalTransitionError, match=r"\w"):
                step(deed, rollout, traffic, CAUSE)


def test_a_stage_that_waits_for_the_schedule_may_be_opened_ahead_of_it() -> None:
    rollout, traffic = _at("open", "clear", advance="on_schedule")

    assert offer(Deed.EXPAND, rollout, traffic).refusal == ""
    assert step(Deed.EXPAND, rollout, traffic, CAUSE).event.kind == "answered"


def test_an_offer_says_what_it_changes() -> None:
    rollout, traffic = _at("open")

    said = {each.deed: each.change for each in offers(rollout, traffic)}

    assert "2 goes from 5 % to 100 %" in said[Deed.EXPAND]
    assert "without proof" in said[Deed.EXPAND]
    assert said[Deed.HOLD].startswith("version 2 keeps 5 %")
    assert said[Deed.ROLL_BACK] == "version 1 answers all requests at once; version 2 gets none"


def test_only_a_person_lets_a_stage_that_holds_pass() -> None:
    rollout, traffic = _at("open", "hold")

    with pytest.raises(IllegalTransitionError):
        steps.clear(rollout, traffic, 0, CAUSE)
    change = steps.clear(rollout, traffic, 0, CAUSE, by_hand=True)
    assert change is not None
    assert change.rollout is not None
    assert change.rollout.state is State.CLEARED
