"""Blue-green: tested beside the old version, then everything in one revision."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.core.looks import Simulation, Traffic, Version
from tests.core.patterns.wrong import refusal, wrong_values

from model_rollouts.core import rollout as steps
from model_rollouts.core.decision import Action, Verdict, decide
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Metric, Role
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.patterns.blue_green import BlueGreenParameters, plan_blue_green
from model_rollouts.core.plan import Pattern, Plan
from model_rollouts.core.traffic import Traffic as Row

QUICK: dict[str, Any] = {
    "look_seconds": 60.0,
    "grace_seconds": 0.0,
    "label_maturity_seconds": 300.0,
    "green_seconds": 600.0,
    "green_deadline_seconds": 2 * 3600.0,
    "bake_seconds": 900.0,
    "deadline_seconds": 2 * 3600.0,
}
GREEN = Traffic(champion=500, challenger=100)  # a fifth of the requests is mirrored
SWITCHED = Traffic(champion=100, challenger=900)
PASSED = (Verdict.PASS, Action.EXPAND)
ROLLED = (Verdict.FAIL, Action.ROLL_BACK)


def plan(**values: Any) -> Plan:
    return plan_blue_green(BlueGreenParameters(**values))


def test_the_defaults_make_a_plan_of_the_green_tests_and_the_switch() -> None:
    made = plan()
    green, switched = made.stages
    assert made.pattern is Pattern.BLUE_GREEN
    assert (green.share, green.mirror_percent, green.control_percent, green.approval) == (0, 20, 0, False)
    assert (switched.share, switched.mirror_percent, switched.control_percent, switched.approval) == (100, 0, 10, False)
    roles = {
        Metric.ERROR_RATE: Role.GUARDRAIL,
        Metric.WRONG_RATE: Role.TRIPWIRE,
        Metric.LATENCY_P50: Role.SIGNAL,
        Metric.LATENCY_P95: Role.GUARDRAIL,
        Metric.LATENCY_P99: Role.TRIPWIRE,
    }
    assert {gate.metric: gate.role for gate in green.gates} == roles
    assert {gate.metric: gate.role for gate in switched.gates} == roles | {Metric.LATENCY_P50: Role.TRIPWIRE}
    assert made.at_deadline is AtDeadline.HOLD
    assert made.keep_previous_seconds == 7 * 86_400
    assert plan_from(Pattern.BLUE_GREEN, {}) == made


def test_it_survives_json_unchanged() -> None:
    for made in (plan(), plan(switch_approval=True, label_coverage=0, data_rollback=[{"kind": "dag", "target": "x"}])):
        assert Plan.from_dict(made.to_dict()) == made
        assert Plan.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_what_was_set_reaches_its_own_stage_and_no_other() -> None:
    made = plan(
        mirror_percent=50,
        green_seconds=60,
        green_deadline_seconds=8_000,
        switch_approval=True,
        bake_seconds=120,
        deadline_seconds=9_000,
        control_percent=25,
        keep_previous_seconds=3600,
    )
    green, switched = made.stages
    assert (green.mirror_percent, green.bake_seconds, green.deadline_seconds, green.approval) == (50, 60, 8_000, True)
    assert (switched.control_percent, switched.bake_seconds, switched.deadline_seconds) == (25, 120, 9_000)
    assert not switched.approval, "the person is asked before the switch, not after it"
    assert made.keep_previous_seconds == 3600


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mirror_percent": 0}, "mirror_percent is 0 at a share of 0"),
        ({"mirror_percent": 101}, "mirror_percent is 101, must be between 0 and 100"),
        ({"green_seconds": -1}, "green_seconds is -1, must be between 0 and"),
        ({"green_deadline_seconds": 900}, r"green_deadline_seconds is 900, must be above green_seconds \(900\)"),
        ({"green_deadline_seconds": 4e7}, "green_deadline_seconds is 40000000.0, must be between 0 and"),
        ({"bake_seconds": 86_400}, r"deadline_seconds is 86400, must be above bake_seconds \(86400\)"),
        ({"control_percent": 0}, "control_percent is 0 at a share of 100"),
        ({"label_maturity_seconds": 86_400}, "deadline_seconds of stage 0 is 21600 for wrong_rate, must be at least"),
        ({"keep_previous_seconds": -1}, "keep_previous_seconds is -1, must be between 0 and"),
        ({"steps": [1]}, "the form has unknown steps"),
    ],
)
def test_parameters_out_of_bounds_are_refused_with_the_value_and_the_bound(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from(Pattern.BLUE_GREEN, values)


@pytest.mark.parametrize(("name", "value"), wrong_values(BlueGreenParameters, frozenset({"drill_within_days"})))
def test_what_a_form_sends_of_the_wrong_kind_is_refused_with_name_and_value(name: str, value: Any) -> None:
    assert refusal(Pattern.BLUE_GREEN, {}, name, value)


# --- what comes of it


def test_green_passes_on_mirrored_requests_and_the_switch_on_everybodys() -> None:
    run = Simulation(1, plan(**QUICK))
    tested = run.outcome(0, GREEN, Version(), Version())
    assert (tested.verdict, tested.action) == PASSED
    assert tested.elapsed_seconds >= 600
    watched = run.outcome(1, SWITCHED, Version(), Version())
    assert (watched.verdict, watched.action) == (Verdict.PASS, Action.CUT_OVER)
    assert watched.elapsed_seconds >= 900


@pytest.mark.parametrize("challenger", [Version(errors=0.08), Version(wrong=0.3)])
def test_a_version_that_fails_the_green_tests_is_never_switched_to(challenger: Version) -> None:
    decision = Simulation(2, plan(**QUICK)).outcome(0, GREEN, Version(), challenger)
    assert (decision.verdict, decision.action) == ROLLED


@pytest.mark.parametrize("challenger", [Version(errors=0.05), Version(slower=1.9), Version(wrong=0.2)])
def test_what_shows_only_under_full_traffic_rolls_back_after_the_switch(challenger: Version) -> None:
    run = Simulation(3, plan(**QUICK))
    tested = run.outcome(0, GREEN, Version(), Version())
    assert (tested.verdict, tested.action) == PASSED
    decision = run.outcome(1, SWITCHED, Version(), challenger)
    assert (decision.verdict, decision.action) == ROLLED
    assert decision.elapsed_seconds < 900


def test_the_switch_is_not_passed_on_what_green_has_proven() -> None:
    made = plan(**QUICK)
    run = Simulation(4, made)
    run.outcome(0, GREEN, Version(), Version())
    assert decide(made, 1, run.looks, 2 * 3600.0 - 1).action is Action.WAIT
    assert decide(made, 1, run.looks, 2 * 3600.0).action is Action.HOLD


@pytest.mark.parametrize("arm", ["champion", "challenger"])
def test_a_green_slot_that_nothing_is_mirrored_to_is_held_at_its_deadline(arm: str) -> None:
    quiet = replace(GREEN, **{arm: 0})  # type: ignore[arg-type]
    decision = Simulation(5, plan(**QUICK)).outcome(0, quiet, Version(), Version())
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert decision.elapsed_seconds == 2 * 3600


def test_some_labels_are_waited_for_unless_the_plan_goes_without() -> None:
    unheard = Traffic(champion=500, challenger=100, labelled=0.0)
    held = Simulation(6, plan(**QUICK)).outcome(0, unheard, Version(), Version())
    assert (held.verdict, held.action) == (Verdict.INCONCLUSIVE, Action.HOLD)
    without = Simulation(6, plan(**QUICK, label_coverage=0)).outcome(0, unheard, Version(), Version())
    assert (without.verdict, without.action) == PASSED


def test_the_switch_moves_everybody_in_one_revision() -> None:
    cause = steps.Cause("tester", datetime(2026, 1, 1, tzinfo=UTC), "because")
    change = steps.start("r1", plan(), "2", "salt", Row("m", "1", revision=4), cause)
    assert change.rollout is not None
    assert change.traffic is not None
    green = steps.open_stage(change.rollout, change.traffic, 0, cause)
    assert green is not None
    assert green.rollout is not None
    assert green.traffic is not None
    assert green.traffic.shares() == {"1": 100.0, "2": 0.0}
    assert (green.traffic.mirror_percent, green.traffic.control_percent) == (20, 0)
    cleared = steps.clear(green.rollout, green.traffic, 0, cause)
    assert cleared is not None
    assert cleared.rollout is not None
    switched = steps.open_stage(cleared.rollout, green.traffic, 1, cause)
    assert switched is not None
    assert switched.traffic is not None
    assert switched.traffic.shares() == {"1": 0.0, "2": 100.0}
    assert (switched.traffic.mirror_percent, switched.traffic.control_percent) == (0, 10)
    assert switched.traffic.revision == green.traffic.revision + 1
