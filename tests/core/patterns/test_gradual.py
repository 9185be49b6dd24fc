"""Gradual: everything at once, and an instant way back."""

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
from model_rollouts.core.patterns.gradual import GradualParameters, plan_gradual
from model_rollouts.core.plan import Pattern, Plan

QUICK: dict[str, Any] = {
    "grace_seconds": 0.0,
    "label_maturity_seconds": 300.0,
    "bake_seconds": 900.0,
    "deadline_seconds": 3600.0,
}
EVERYBODY = Traffic(champion=100, challenger=400)  # a fifth of the requests is the control sample


def plan(**values: Any) -> Plan:
    return plan_gradual(GradualParameters(**values))


def test_the_defaults_make_a_plan_of_one_stage_with_all_the_traffic_and_short_looks() -> None:
    made = plan()
    (stage,) = made.stages
    assert made.pattern is Pattern.GRADUAL
    assert (stage.share, stage.control_percent, stage.mirror_percent, stage.approval) == (100, 20, 0, False)
    assert (made.look_seconds, made.at_deadline) == (30, AtDeadline.HOLD)
    assert {gate.metric: gate.role for gate in stage.gates} == {
        Metric.ERROR_RATE: Role.GUARDRAIL,
        Metric.WRONG_RATE: Role.GUARDRAIL,
        Metric.LATENCY_P50: Role.TRIPWIRE,
        Metric.LATENCY_P95: Role.GUARDRAIL,
        Metric.LATENCY_P99: Role.TRIPWIRE,
    }
    assert plan_from(Pattern.GRADUAL, {}) == made


def test_it_survives_json_unchanged() -> None:
    for made in (plan(), plan(approval=True, label_coverage=0, control_percent=50, expand_days=["mon"], on_call=["a"])):
        assert Plan.from_dict(made.to_dict()) == made
        assert Plan.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_what_was_set_reaches_the_stage() -> None:
    made = plan(bake_seconds=60, deadline_seconds=90_000, control_percent=5, approval=True, look_seconds=10)
    (stage,) = made.stages
    assert (stage.bake_seconds, stage.deadline_seconds, stage.control_percent, stage.approval) == (60, 90_000, 5, True)
    assert made.look_seconds == 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"control_percent": 0}, "control_percent is 0 at a share of 100"),
        ({"control_percent": 51}, "control_percent is 51, must be between 0 and 50"),
        ({"bake_seconds": 86_400}, r"deadline_seconds is 86400, must be above bake_seconds \(86400\)"),
        ({"deadline_seconds": 3601}, r"deadline_seconds of stage 0 is 3601 for wrong_rate, must be at least 3640"),
        ({"pass_odds": 1.2}, r"pass_odds is 1\.2, must be above rollback_odds"),
        ({"share": 50}, "the form has unknown share"),
    ],
)
def test_parameters_out_of_bounds_are_refused_with_the_value_and_the_bound(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from(Pattern.GRADUAL, values)


@pytest.mark.parametrize(("name", "value"), wrong_values(GradualParameters, frozenset({"drill_within_days"})))
def test_what_a_form_sends_of_the_wrong_kind_is_refused_with_name_and_value(name: str, value: Any) -> None:
    assert refusal(Pattern.GRADUAL, {}, name, value)


# --- what comes of it


def test_a_version_as_good_as_the_old_one_cuts_over_once_the_bake_time_is_over_and_labels_have_proven_it() -> None:
    decision = Simulation(1, plan(**QUICK)).outcome(0, EVERYBODY, Version(), Version())
    assert (decision.verdict, decision.action) == (Verdict.PASS, Action.CUT_OVER)
    assert decision.elapsed_seconds >= 900
    assert all(gate.verdict is Verdict.PASS for gate in decision.gates)


@pytest.mark.parametrize(
    ("challenger", "metric"),
    [
        (Version(errors=0.05), Metric.ERROR_RATE),
        (Version(slower=1.9), Metric.LATENCY_P50),
        (Version(wrong=0.2), Metric.WRONG_RATE),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_worse_version_is_rolled_back_before_the_bake_time_is_over(
    seed: int, challenger: Version, metric: Metric
) -> None:
    decision = Simulation(seed, plan(**QUICK)).outcome(0, EVERYBODY, Version(), challenger)
    assert (decision.verdict, decision.action) == (Verdict.FAIL, Action.ROLL_BACK)
    assert next(gate for gate in decision.gates if gate.metric is metric).verdict is Verdict.FAIL
    assert decision.elapsed_seconds < 900


def test_nothing_about_a_slow_version_holds_while_everybody_waits_for_it() -> None:
    actions = {d.action for d in Simulation(9, plan(**QUICK)).stage(0, EVERYBODY, Version(), Version(slower=1.9))}
    assert Action.HOLD not in actions
    assert Action.ROLL_BACK in actions


def test_without_labels_it_waits_for_them_and_does_as_the_plan_says_at_the_deadline() -> None:
    unheard = replace(EVERYBODY, labelled=0.5)
    for policy, action in ((AtDeadline.HOLD, Action.HOLD), (AtDeadline.ROLL_BACK, Action.ROLL_BACK)):
        decision = Simulation(2, plan(**QUICK, at_deadline=policy)).outcome(0, unheard, Version(), Version())
        assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, action)
        assert "of the due labels have arrived, needed 80%" in decision.reason
    blind = plan(**QUICK, label_coverage=0)
    assert Simulation(2, blind).outcome(0, unheard, Version(), Version()).action is Action.CUT_OVER


@pytest.mark.parametrize("silent", [{"champion": 0}, {"challenger": 0}])
def test_nothing_is_won_without_the_control_sample_or_without_the_challenger(silent: dict[str, Any]) -> None:
    made = plan(**QUICK, label_coverage=0)
    decision = Simulation(3, made).outcome(0, replace(EVERYBODY, **silent), Version(), Version())
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert decide(made, 0, [], 3600.0).action is Action.HOLD
