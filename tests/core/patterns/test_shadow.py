"""Shadow: what its plan asks for, and what comes of it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.core.looks import Simulation, Traffic, Version
from tests.core.patterns.wrong import refusal, wrong_values

from model_rollouts.core.decision import Action, Verdict, decide
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Metric, Role
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow
from model_rollouts.core.plan import Pattern, Plan

OPTIONAL = frozenset({"tolerance", "drill_within_days"})
QUICK: dict[str, Any] = {
    "look_seconds": 60.0,
    "grace_seconds": 0.0,
    "label_maturity_seconds": 600.0,
    "bake_seconds": 600.0,
    "deadline_seconds": 2 * 3600.0,
}
MIRRORED = Traffic(champion=200, challenger=200, agreement=0.995)


def plan(**values: Any) -> Plan:
    return plan_shadow(ShadowParameters(**values))


def test_the_defaults_make_a_plan_of_one_stage_with_no_live_traffic() -> None:
    made = plan()
    (stage,) = made.stages
    assert made.pattern is Pattern.SHADOW
    assert (stage.share, stage.mirror_percent, stage.offline, stage.control_percent) == (0, 100, False, 0)
    assert {gate.metric: gate.role for gate in stage.gates} == {
        Metric.AGREEMENT: Role.OBJECTIVE,
        Metric.ERROR_RATE: Role.GUARDRAIL,
        Metric.WRONG_RATE: Role.SIGNAL,
        Metric.LATENCY_P50: Role.SIGNAL,
        Metric.LATENCY_P95: Role.GUARDRAIL,
        Metric.LATENCY_P99: Role.TRIPWIRE,
    }
    agreement = stage.gates[0]
    assert (agreement.floor, agreement.coverage, agreement.min_requests) == (0.98, 0.5, 50)
    assert made.at_deadline is AtDeadline.HOLD
    assert plan_from(Pattern.SHADOW, {}) == made


@pytest.mark.parametrize("values", [{}, {"offline": True}, {"mirror_percent": 5, "tolerance": 0.1, "approval": True}])
def test_it_survives_json_unchanged(values: dict[str, Any]) -> None:
    made = plan(**values)
    assert Plan.from_dict(made.to_dict()) == made
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_coverage_is_of_the_requests_that_are_mirrored() -> None:
    """The champion's answers are all counted; a fifth of them is asked of the challenger, half of that must come."""
    assert plan(mirror_percent=20).stages[0].gates[0].coverage == pytest.approx(0.1)


def test_offline_nothing_is_live_nothing_bakes_and_latency_is_shown_only() -> None:
    made = plan(offline=True, mirror_percent=20, approval=True)
    (stage,) = made.stages
    assert (stage.offline, stage.mirror_percent, stage.bake_seconds, stage.approval) == (True, 0, 0, True)
    roles = {gate.metric: gate.role for gate in stage.gates}
    assert {roles[m] for m in (Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.LATENCY_P99)} == {Role.MUTED}
    assert (roles[Metric.ERROR_RATE], roles[Metric.AGREEMENT]) == (Role.GUARDRAIL, Role.OBJECTIVE)
    assert stage.gates[0].coverage == 0.5


def test_what_was_set_reaches_the_stage() -> None:
    made = plan(agreement=0.9, tolerance=0.5, min_requests=77, bake_seconds=5, deadline_seconds=90_000, approval=True)
    (stage,) = made.stages
    assert (stage.bake_seconds, stage.deadline_seconds, stage.approval) == (5, 90_000, True)
    assert (stage.gates[0].floor, stage.gates[0].tolerance) == (0.9, 0.5)
    assert {gate.min_requests for gate in stage.gates} == {77}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mirror_percent": 0}, "mirror_percent is 0 at a share of 0: the challenger would answer nothing"),
        ({"mirror_percent": 101}, "mirror_percent is 101, must be between 0 and 100"),
        ({"mirror_percent": 101, "offline": True}, "mirror_percent is 101, must be between 0 and 100"),
        ({"pair_coverage": 1.1, "mirror_percent": 10}, r"pair_coverage is 1\.1, must be between 0 and 1"),
        ({"agreement": 1}, "floor is 1, must be between 0 and 1, both excluded"),
        ({"agreement": 0}, "floor is 0, must be between 0 and 1, both excluded"),
        ({"agreement": 98}, "floor is 98, must be between 0 and 1"),
        ({"tolerance": -1}, "tolerance is -1, must be between 0"),
        ({"deadline_seconds": 3600}, r"deadline_seconds is 3600, must be above bake_seconds \(3600\)"),
        ({"bake_seconds": -1, "offline": True}, "bake_seconds is -1, must be between 0 and"),
        ({"offline": "no"}, "offline is 'no'"),
        ({"steps": [5]}, "the form has unknown steps"),
    ],
)
def test_parameters_out_of_bounds_are_refused_with_the_value_and_the_bound(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from(Pattern.SHADOW, values)


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(("name", "value"), wrong_values(ShadowParameters, OPTIONAL))
def test_what_a_form_sends_of_the_wrong_kind_is_refused_with_name_and_value(
    name: str, value: Any, offline: bool
) -> None:
    if name == "offline":
        offline = False
    assert refusal(Pattern.SHADOW, {"offline": offline}, name, value)


# --- what comes of it


def test_a_version_that_agrees_cuts_over_after_the_bake_time_on_proof() -> None:
    made = plan(**QUICK)
    decision = Simulation(1, made).outcome(0, MIRRORED, Version(), Version())
    assert (decision.verdict, decision.action) == (Verdict.PASS, Action.CUT_OVER)
    assert decision.elapsed_seconds >= 600
    assert decision.gates[0].measured.log_e_pass >= decision.gates[0].pass_threshold


def test_a_version_that_does_not_agree_is_held_and_never_rolled_back_for_it() -> None:
    made = plan(**QUICK)
    decision = Simulation(2, made).outcome(0, replace(MIRRORED, agreement=0.9), Version(), Version())
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert "agree" in decision.reason


def test_an_agreement_that_can_not_be_told_from_the_floor_holds_at_the_deadline_or_does_as_the_plan_says() -> None:
    for policy, action in ((AtDeadline.HOLD, Action.HOLD), (AtDeadline.ROLL_BACK, Action.ROLL_BACK)):
        made = plan(**QUICK, at_deadline=policy)
        decision = Simulation(3, made).outcome(0, replace(MIRRORED, agreement=0.98), Version(), Version())
        assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, action)
        assert decision.elapsed_seconds == 2 * 3600
        assert "deadline of 7200 s reached at 0 % without proof" in decision.reason


@pytest.mark.parametrize(
    ("challenger", "metric"), [(Version(errors=0.08), Metric.ERROR_RATE), (Version(slower=1.5), Metric.LATENCY_P95)]
)
def test_what_callers_would_suffer_from_is_harm_however_well_it_agrees(challenger: Version, metric: Metric) -> None:
    decisions = Simulation(4, plan(**QUICK)).stage(0, MIRRORED, Version(), challenger)
    # the median is a signal: it may hold first
    rolled = next(d for d in decisions if d.action not in (Action.WAIT, Action.HOLD))
    assert (rolled.verdict, rolled.action) == (Verdict.FAIL, Action.ROLL_BACK)
    assert next(gate for gate in rolled.gates if gate.metric is metric).verdict is Verdict.FAIL


def test_wrong_answers_hold_for_a_person_to_look_and_are_not_waited_for() -> None:
    similar, wrong = replace(MIRRORED, agreement=0.8), Version(wrong=0.25)
    patient = QUICK | {"bake_seconds": 5400.0, "agreement": 0.6}
    decision = Simulation(5, plan(**patient)).outcome(0, similar, Version(), wrong)
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert "wrong predictions" in decision.reason
    hasty = QUICK | {"label_maturity_seconds": 3600.0, "agreement": 0.6}
    assert Simulation(5, plan(**hasty)).outcome(0, similar, Version(), wrong).action is Action.CUT_OVER


def test_a_mirror_that_brings_too_few_pairs_never_passes() -> None:
    """A tenth of the requests arrives where all should."""
    few = replace(MIRRORED, challenger=20)
    *_, last = Simulation(6, plan(**QUICK)).stage(0, few, Version(), Version())
    assert (last.verdict, last.action) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert last.gates[0].measured.coverage == pytest.approx(0.1, rel=0.05)
    fair = plan(**QUICK, mirror_percent=10)
    assert Simulation(6, fair).outcome(0, few, Version(), Version()).action is Action.CUT_OVER


def test_silence_waits_and_holds_at_the_deadline() -> None:
    made = plan(**QUICK)
    for elapsed, action in ((0.0, Action.WAIT), (3600.0, Action.WAIT), (2 * 3600.0, Action.HOLD)):
        assert decide(made, 0, [], elapsed).action is action
    mute = Simulation(7, made).outcome(0, replace(MIRRORED, challenger=0), Version(), Version())
    assert (mute.verdict, mute.action) == (Verdict.INCONCLUSIVE, Action.HOLD)
