"""A/B test: its plan, its horizon, and what comes of a lift, of none and of a loss."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.looks import Simulation, Traffic, Version
from tests.core.patterns.wrong import refusal, wrong_values

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.decision import Action, Verdict, decide
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Metric, Role
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.patterns.ab_test import ABTestParameters, horizon, plan_ab_test
from model_rollouts.core.plan import Pattern, Plan

DAY = 86_400.0
WEEK = 7 * DAY
OPTIONAL = frozenset({"horizon_seconds", "drill_within_days"})
# Ten requests a second, nine of ten answers with a value; the values' standard deviation is their mean.
TRAFFIC = Baseline(864_000, 8_640, DAY, 800_000, 760_000, 76_000, 864_000, 720_000, 10.0, 10.0)


def plan(**values: Any) -> Plan:
    return plan_ab_test(ABTestParameters(**({"horizon_seconds": WEEK} | values)))


def seconds(baseline: Baseline = TRAFFIC, **values: Any) -> float:
    return horizon(ABTestParameters(**values), baseline)


def test_the_defaults_make_a_plan_of_one_stage_in_which_value_must_be_proven_and_nothing_else_harmed() -> None:
    made = plan()
    (stage,) = made.stages
    assert made.pattern is Pattern.AB_TEST
    assert (stage.share, stage.bake_seconds, stage.deadline_seconds) == (50, DAY, WEEK)
    assert (stage.control_percent, stage.mirror_percent, stage.approval) == (0, 0, False)
    assert {gate.metric: gate.role for gate in stage.gates} == {
        Metric.VALUE: Role.OBJECTIVE,
        Metric.ERROR_RATE: Role.TRIPWIRE,
        Metric.WRONG_RATE: Role.TRIPWIRE,
        Metric.LATENCY_P50: Role.SIGNAL,
        Metric.LATENCY_P95: Role.TRIPWIRE,
        Metric.LATENCY_P99: Role.TRIPWIRE,
        Metric.SAMPLE_RATIO: Role.SIGNAL,
    }
    value = stage.gates[0]
    assert (value.pass_lift, value.rollback_lift, value.min_units, value.coverage) == (0, -0.01, 400, 0.8)
    assert made.at_deadline is AtDeadline.ROLL_BACK, "no winner: the champion stays"


def test_it_survives_json_unchanged() -> None:
    for made in (plan(), plan(share=20, approval=True, at_deadline="ask", label_coverage=0)):
        assert Plan.from_dict(made.to_dict()) == made
        assert Plan.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_what_was_set_reaches_the_stage_and_its_gate() -> None:
    made = plan(share=20, bake_seconds=60, pass_lift=0.01, rollback_lift=-0.1, min_units=99, label_coverage=0.3)
    (stage,) = made.stages
    value = stage.gates[0]
    assert (stage.share, stage.bake_seconds) == (20, 60)
    assert (value.pass_lift, value.rollback_lift, value.min_units, value.coverage) == (0.01, -0.1, 99, 0.3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0}, "share is 0, must be above 0 and below 100: both versions need units"),
        ({"share": 100}, "share is 100, must be above 0 and below 100"),
        ({"share": 101}, "share is 101, must be between 0 and 100"),
        ({"detectable_lift": 0}, r"detectable_lift is 0, must be between 0\.0001 and 10"),
        ({"detectable_lift": 11}, "detectable_lift is 11, must be between"),
        ({"horizon_seconds": 4e7}, "horizon_seconds is 40000000.0, must be between 0 and"),
        ({"horizon_seconds": DAY}, r"deadline_seconds is 86400, must be above bake_seconds \(86400\)"),
        ({"min_units": 1}, "min_units is 1, must be between 2 and"),
        ({"pass_lift": -1}, "pass_lift is -1, must be between -0.99 and 10"),
        ({"label_maturity_seconds": WEEK}, "deadline_seconds of stage 0 is 604800 for value, must be at least"),
        ({"at_deadline": "promote"}, "at_deadline is 'promote', must be one of hold, roll_back, ask"),
        ({"steps": [1]}, "the form has unknown steps"),
    ],
)
def test_parameters_out_of_bounds_are_refused_with_the_value_and_the_bound(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from(Pattern.AB_TEST, {"horizon_seconds": WEEK} | values)


WRONG = wrong_values(ABTestParameters, OPTIONAL)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_a_form_sends_of_the_wrong_kind_is_refused_with_name_and_value(name: str, value: Any) -> None:
    assert refusal(Pattern.AB_TEST, {"horizon_seconds": WEEK}, name, value)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in WRONG if n != "horizon_seconds"])
def test_it_is_refused_as_well_before_a_horizon_is_reckoned_with_it(name: str, value: Any) -> None:
    with pytest.raises(PlanError):
        plan_from(Pattern.AB_TEST, {name: value}, lambda: TRAFFIC)
    if name not in ("then", "golden_file"):
        with pytest.raises(PlanError):
            horizon(ABTestParameters(**{name: value}), TRAFFIC)


# --- the horizon


def test_it_is_what_a_hand_calculation_gives() -> None:
    """Boundary sqrt(2 ln 20 + 2) = 2.8269, and 0.8416 for four of five: 3.6685 standard errors.

    A lift of 5 % of a mean as large as the standard deviation: (3.6685 / 0.05)^2 = 5383 / (0.5 * 0.5) = 21,533 values.
    Nine a second: 2,393 s. And an hour until the last label, a look of 300 s, 10 s of grace.
    """
    assert seconds(bake_seconds=0.0) == pytest.approx(21_533 / 9 + 3600 + 300 + 10, abs=1)
    third = seconds(bake_seconds=0.0, share=25.0, label_maturity_seconds=0.0)
    assert third == pytest.approx(5383.3 / (0.25 * 0.75) / 9 + 310, abs=1)
    loud = replace(TRAFFIC, value_sd=30.0)
    assert seconds(loud, bake_seconds=0.0) == pytest.approx(9 * 21_533 / 9 + 3910, abs=2)
    strict = seconds(bake_seconds=0.0, beta=0.001)
    wide = math.sqrt(2 * math.log(1000) + 2) + 0.8416
    assert strict == pytest.approx((wide / 0.05) ** 2 * 4 / 9 + 3910, abs=2)


def test_a_plan_without_a_horizon_gets_it_from_the_baseline_and_one_that_has_its_own_keeps_it() -> None:
    made = plan_from(Pattern.AB_TEST, {"detectable_lift": 0.005}, lambda: TRAFFIC)
    assert made.stages[0].deadline_seconds == seconds(detectable_lift=0.005) > DAY
    own = plan_from(Pattern.AB_TEST, {"horizon_seconds": WEEK}, lambda: pytest.fail("the log was asked"))
    assert own == plan()
    with pytest.raises(PlanError, match="horizon_seconds is not set; set it, or have it worked out"):
        plan_from(Pattern.AB_TEST, {})


def test_it_is_never_shorter_than_the_bake_time_and_a_look() -> None:
    assert seconds(bake_seconds=WEEK) == WEEK + 300


def test_it_brings_the_units_that_the_gate_asks_for_however_large_the_lift() -> None:
    """400 units in the smaller arm, of a fifth of the requests: 2,000 values."""
    quick: dict[str, Any] = {
        "bake_seconds": 0.0,
        "label_maturity_seconds": 0.0,
        "look_seconds": 60.0,
        "grace_seconds": 0.0,
    }
    assert seconds(detectable_lift=10.0, share=20.0, **quick) == pytest.approx(2_000 / 9 + 60)
    assert seconds(detectable_lift=10.0, share=80.0, **quick) == pytest.approx(2_000 / 9 + 60)
    same = replace(TRAFFIC, value_sd=0.0)
    assert seconds(same, **quick) == pytest.approx(800 / 9 + 60)


@settings(derandomize=True, deadline=None)
@given(st.floats(0.0001, 10), st.floats(0.0001, 10), st.floats(1, 99), st.floats(0, 5))
def test_it_falls_as_the_lift_grows_and_makes_a_plan_or_is_refused(
    one: float, other: float, share: float, spread: float
) -> None:
    rich = replace(TRAFFIC, requests=10**9, errors=0, due=10**9, valued=10**9, value_sd=10 * spread)
    found = []
    for lift in sorted((one, other)):
        try:
            found.append(seconds(rich, detectable_lift=lift, share=share))
        except PlanError:  # beyond a year
            found.append(math.inf)
        else:
            assert plan(detectable_lift=lift, share=share, horizon_seconds=found[-1]).stages[0].deadline_seconds > DAY
    assert found[0] >= found[1]


@pytest.mark.parametrize(
    "values",
    [
        {"valued": 0, "value_mean": None, "value_sd": None},
        {"valued": 1, "value_mean": 5.0, "value_sd": None},
        {"value_mean": 0.0},
        {"value_mean": -10.0},
        {"due": 0, "labelled": 0, "wrong": 0, "valued": 0, "value_mean": None, "value_sd": None},
    ],
)
def test_without_values_to_plan_by_it_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"no horizon can be worked out: the champion has [\d,]+ logged values"):
        seconds(replace(TRAFFIC, **values))


@pytest.mark.parametrize(
    "poor",
    [
        replace(TRAFFIC, requests=100, errors=0, due=100, labelled=0, wrong=0, units=100, valued=10),
        replace(TRAFFIC, value_mean=1e-5),
        replace(TRAFFIC, value_mean=1e-300),
    ],
    ids=["little traffic", "a mean next to nothing", "a mean that is nothing"],
)
def test_beyond_a_year_it_is_refused_and_what_would_help_is_said(poor: Baseline) -> None:
    with pytest.raises(PlanError, match="days at this traffic, must be at most 366; look for a larger lift"):
        seconds(poor)


# --- what comes of it

QUICK: dict[str, Any] = {
    "look_seconds": 60.0,
    "grace_seconds": 0.0,
    "label_maturity_seconds": 300.0,
    "bake_seconds": 600.0,
}
HALVES = Traffic(champion=300, challenger=300, valued=True)  # ten requests a second, as in the baseline


def quick(**values: Any) -> Plan:
    """A test for a lift of 5 %: 21,533 values, that is 40 min and the delay of the labels."""
    return plan_from(Pattern.AB_TEST, QUICK | values, lambda: TRAFFIC)


@pytest.mark.parametrize("seed", range(5))
def test_a_lift_wins_before_the_horizon_and_after_the_bake_time(seed: int) -> None:
    made = quick()
    decision = Simulation(seed, made).outcome(0, HALVES, Version(), Version(value=12.0))
    assert (decision.verdict, decision.action) == (Verdict.PASS, Action.CUT_OVER)
    assert 600 <= decision.elapsed_seconds < made.stages[0].deadline_seconds


@pytest.mark.parametrize("seed", range(2))
def test_without_a_lift_the_champion_stays_at_the_horizon_and_not_before(seed: int) -> None:
    made = quick()
    deadline = made.stages[0].deadline_seconds
    decision = Simulation(seed, made).outcome(0, HALVES, Version(), Version())
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, Action.ROLL_BACK)
    assert deadline <= decision.elapsed_seconds < deadline + 60
    assert "reached at 50 % without proof" in decision.reason


@pytest.mark.parametrize("policy", [AtDeadline.HOLD, AtDeadline.ASK])
def test_without_a_winner_it_does_as_the_plan_says(policy: AtDeadline) -> None:
    decision = Simulation(0, quick(at_deadline=policy)).outcome(0, HALVES, Version(), Version())
    assert decision.action == Action(policy)


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_is_rolled_back_before_the_horizon(seed: int) -> None:
    made = quick()
    decision = Simulation(seed, made).outcome(0, HALVES, Version(), Version(value=8.0))
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, Action.ROLL_BACK)
    assert decision.elapsed_seconds < made.stages[0].deadline_seconds
    assert decision.gates[0].verdict is Verdict.FAIL


@pytest.mark.parametrize("challenger", [Version(errors=0.04, value=12.0), Version(wrong=0.2, value=12.0)])
def test_a_lift_that_harms_something_else_is_rolled_back(challenger: Version) -> None:
    decision = Simulation(0, quick()).outcome(0, HALVES, Version(), challenger)
    assert (decision.verdict, decision.action) == (Verdict.FAIL, Action.ROLL_BACK)


def test_units_that_do_not_come_as_they_are_dealt_hold_whatever_is_won() -> None:
    leaking = replace(HALVES, challenger=200)
    decision = Simulation(0, quick()).outcome(0, leaking, Version(), Version(value=12.0))
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, Action.HOLD)


def test_values_that_never_come_win_nothing() -> None:
    for silent in (replace(HALVES, labelled=0.0), replace(HALVES, valued=False), replace(HALVES, challenger=0)):
        decision = Simulation(0, quick()).outcome(0, silent, Version(), Version(value=12.0))
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert decision.action in (Action.ROLL_BACK, Action.HOLD)
    made = quick()
    assert decide(made, 0, [], made.stages[0].deadline_seconds).action is Action.ROLL_BACK


def coarse(seed: int, value: float) -> Action:
    """Looks of five minutes: few enough for many runs."""
    looks = Traffic(champion=1500, challenger=1500, valued=True)
    return Simulation(seed, quick(look_seconds=300.0)).outcome(0, looks, Version(), Version(value=value)).action


def test_the_lift_that_the_horizon_was_made_for_wins_in_four_of_five_tests() -> None:
    won = [coarse(seed, 10.5) for seed in range(25)].count(Action.CUT_OVER)
    assert won >= 20


def test_a_version_worth_the_same_hardly_ever_wins() -> None:
    """Beta is 5 %: more than four of 25 would come of it in one of 140 such tests."""
    won = [coarse(seed, 10.0) for seed in range(25)].count(Action.CUT_OVER)
    assert won <= 4
