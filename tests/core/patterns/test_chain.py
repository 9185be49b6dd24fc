"""Several patterns as one rollout."""

import json
from dataclasses import fields
from typing import Any

import pytest
from tests.core.looks import Simulation, Traffic, Version

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.decision import Action, Verdict, action_at_deadline, decide
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Metric, Role
from model_rollouts.core.patterns import parameters_of, plan_from
from model_rollouts.core.patterns.ab_test import ABTestParameters, horizon
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.patterns.common import CommonParameters
from model_rollouts.core.patterns.shadow import ShadowParameters
from model_rollouts.core.plan import Advance, Pattern, Plan

DAY = 86_400.0
CANARY: dict[str, Any] = {"pattern": "canary", "steps": [1, 5, 50], "deadline_seconds": 50_000}
AB: dict[str, Any] = {"pattern": "ab-test", "horizon_seconds": 3 * DAY}
ALL_THREE: dict[str, Any] = {"deadline_seconds": 40_000, "then": [CANARY, AB]}
TRAFFIC = Baseline(864_000, 8_640, DAY, 800_000, 760_000, 76_000, 864_000, 720_000, 10.0, 10.0)


def chain(*then: Any, **values: Any) -> Plan:
    return plan_from(Pattern.SHADOW, values | {"then": list(then)})


def test_shadow_then_canary_then_ab_test_is_one_plan() -> None:
    made = plan_from(Pattern.SHADOW, ALL_THREE)
    assert made.pattern is Pattern.SHADOW
    assert [made.pattern_of(stage) for stage in range(5)] == [Pattern.SHADOW, *[Pattern.CANARY] * 3, Pattern.AB_TEST]
    assert [stage.share for stage in made.stages] == [0, 1, 5, 50, 50]
    assert [stage.deadline_seconds for stage in made.stages] == [40_000, *[50_000] * 3, 3 * DAY]
    assert [stage.at_deadline for stage in made.stages] == [*[AtDeadline.HOLD] * 4, AtDeadline.ROLL_BACK]
    assert [bool(stage.gate(Metric.AGREEMENT)) for stage in made.stages] == [True, *[False] * 4]
    assert [bool(stage.gate(Metric.VALUE)) for stage in made.stages] == [*[False] * 4, True]


def test_each_part_is_what_its_pattern_alone_would_be() -> None:
    made = plan_from(Pattern.SHADOW, ALL_THREE)
    for part, own in (
        (made.stages[:1], plan_from(Pattern.SHADOW, {"deadline_seconds": 40_000})),
        (made.stages[1:4], plan_from(Pattern.CANARY, {k: v for k, v in CANARY.items() if k != "pattern"})),
        (made.stages[4:], plan_from(Pattern.AB_TEST, {"horizon_seconds": 3 * DAY})),
    ):
        assert [stage.gates for stage in part] == [stage.gates for stage in own.stages]
        assert [stage.bake_seconds for stage in part] == [stage.bake_seconds for stage in own.stages]


def test_it_survives_json_unchanged() -> None:
    made = plan_from(Pattern.SHADOW, ALL_THREE)
    assert Plan.from_dict(made.to_dict()) == made
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_all_tests_of_all_patterns_share_one_alpha() -> None:
    made = plan_from(Pattern.SHADOW, ALL_THREE)
    tests = {
        (gate.metric, gate.rollback_odds, gate.latency_margin): made.alpha_of(position, gate)
        for position, stage in enumerate(made.stages)
        for gate in stage.rolling_back
    }
    assert len(tests) == 4
    assert sum(tests.values()) == pytest.approx(made.alpha)
    odd = plan_from(Pattern.SHADOW, ALL_THREE | {"then": [CANARY | {"rollback_odds": 1.3}, AB]})
    assert odd.alpha_of(0, odd.stages[0].rolling_back[0]) < made.alpha_of(0, made.stages[0].rolling_back[0])


def test_what_follows_has_the_margins_of_the_first_or_its_own_and_always_its_own_deadline_policy() -> None:
    made = plan_from(
        Pattern.SHADOW,
        {
            "rollback_odds": 1.1,
            "min_requests": 77,
            "look_seconds": 60.0,
            "advance": "on_schedule",
            "at_deadline": "roll_back",
            "then": [CANARY | {"min_requests": 99}, AB | {"at_deadline": "ask"}],
        },
    )
    errors = [stage.gate(Metric.ERROR_RATE) for stage in made.stages]
    assert [gate.rollback_odds for gate in errors if gate] == [1.1] * 5
    assert [gate.min_requests for gate in errors if gate] == [77, 99, 99, 99, 77]
    policies = [AtDeadline.ROLL_BACK, *[AtDeadline.HOLD] * 3, AtDeadline.ASK]
    assert [stage.at_deadline for stage in made.stages] == policies
    assert (made.look_seconds, made.advance, made.at_deadline) == (60, Advance.ON_SCHEDULE, AtDeadline.ROLL_BACK)


WHOLE = {
    "look_seconds": 10.0, "grace_seconds": 1.0, "label_maturity_seconds": 60.0, "alpha": 0.02, "beta": 0.1,
    "underpowered": "hold", "advance": "on_schedule", "expand_days": ["mon"], "expand_from": "09:00",
    "expand_until": "17:00", "timezone": "Europe/Berlin", "blackout_dates": ["2026-12-24"],
    "keep_previous_seconds": 60.0, "on_call": ["Ada"], "acknowledge": False, "may_be_missing": ["drift"],
    "golden_requests": 5, "golden_file": "x", "golden_agreement": 0.5, "rehearse": False, "drill_within_days": 7,
    "data_rollback": [{"kind": "dag", "target": "undo"}], "on_drift": "hold", "drift": {"default": {"psi": 0.1}},
}  # fmt: skip
OF_STAGES = {
    "label_coverage": 0.5, "rollback_odds": 1.1, "pass_odds": 1.4, "negligible_error_rate": 0.01,
    "latency_margin": 0.5, "latency_slack_ms": 1.0, "min_requests": 60, "at_deadline": "ask",
}  # fmt: skip


def test_every_common_value_is_either_of_a_stage_or_of_the_whole_rollout() -> None:
    assert set(WHOLE) | set(OF_STAGES) | {"then"} == {f.name for f in fields(CommonParameters)}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_of_the_whole_rollout_is_not_lost_in_a_part_but_refused(name: str) -> None:
    with pytest.raises(PlanError, match=f"then sets {name} for canary: of the whole rollout, must be set once"):
        chain(CANARY | {name: WHOLE[name]})
    assert chain(CANARY, **{name: WHOLE[name]} | ({"on_call": ["Ada"]} if name == "acknowledge" else {}))


@pytest.mark.parametrize("name", OF_STAGES)
def test_what_is_of_a_stage_reaches_the_stages_of_its_part_alone(name: str) -> None:
    made, plain = chain(CANARY | {name: OF_STAGES[name]}), chain(CANARY)
    assert made.stages[0] == plain.stages[0]
    assert all(one != other for one, other in zip(made.stages[1:], plain.stages[1:], strict=True))


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ([{"pattern": "blue-green"}, CANARY], "shares must increase from stage to stage: 100 is followed by 1"),
        ([CANARY, AB | {"share": 20}], "shares must increase from stage to stage: 50 is followed by 20"),
        ([CANARY, CANARY], "shares must increase from stage to stage: 50 is followed by 1"),
        ([CANARY, {"pattern": "shadow"}], "50 is followed by 0"),
        ([{"pattern": "canary", "steps": [5]}] * 2, "5 is followed by 5; only another pattern may go on at the same"),
        ([{"pattern": "shadow"}], "0 is followed by 0; only another pattern may go on at the same share"),
        ([CANARY | {"then": [AB]}], "then holds a pattern with a `then` of its own; list them one after the other"),
        ([{"pattern": "big-bang"}], "pattern in then is 'big-bang', must be one of blue-green, shadow, canary"),
        ([{"pattern": None}], "pattern in then is None, must be one of"),
        ([{"pattern": 5}], "pattern in then is 5, must be one of"),
        ([{"steps": [5]}], "then holds .*, must be an object with the name of a `pattern`"),
        (["canary"], "then holds 'canary', must be an object with the name of a `pattern`"),
        ([None], "then holds None, must be an object"),
        ([CANARY] * 6, "then is .*, must be a list of at most 5 patterns"),
        ("canary", "then is 'canary', must be a list of at most 5 patterns"),
        ("", "then is '', must be a list"),
        (CANARY, "then is .*, must be a list"),
        (5, "then is 5, must be a list"),
        (None, "then is None, must be a list"),
        (True, "then is True, must be a list"),
        ({}, r"then is \{\}, must be a list"),
        ([CANARY | {"stepz": [5]}], "the form has unknown stepz"),
        ([CANARY | {"steps": "5"}], "steps is '5'"),
        ([{"pattern": "ab-test"}], "horizon_seconds is not set"),
    ],
)
def test_what_is_no_chain_is_refused(then: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from(Pattern.SHADOW, {"then": then})


def test_six_patterns_are_the_most() -> None:
    steps = [{"pattern": p, **({"steps": [s]} if p == "canary" else {"share": s, "horizon_seconds": 3 * DAY})}
             for p, s in (("canary", 1), ("ab-test", 1), ("canary", 5), ("ab-test", 5), ("canary", 100))]  # fmt: skip
    assert [stage.share for stage in chain(*steps).stages] == [0, 1, 1, 5, 5, 100]


def test_without_anything_that_follows_it_is_the_pattern_alone() -> None:
    assert plan_from(Pattern.CANARY, {"then": []}) == plan_canary(CanaryParameters())
    assert plan_from(Pattern.CANARY, {}).stages[0].pattern is None


def test_a_chain_that_is_asked_of_one_pattern_is_refused_and_not_cut_off() -> None:
    with pytest.raises(PlanError, match=r"then is .*, must be empty for a pattern alone; plan_from makes chains"):
        plan_canary(CanaryParameters(then=[AB]))


def test_the_horizon_of_a_part_is_worked_out_with_what_it_shares_with_the_first() -> None:
    asked = []

    def baseline() -> Baseline:
        asked.append(1)
        return TRAFFIC

    values = {"label_maturity_seconds": 40_000.0, "deadline_seconds": 90_000.0, "look_seconds": 60.0, "beta": 0.01}
    follows = [CANARY | {"deadline_seconds": 90_000}, {"pattern": "ab-test", "detectable_lift": 0.01}]
    made = plan_from(Pattern.SHADOW, values | {"then": follows}, baseline)
    wanted = ABTestParameters(detectable_lift=0.01, label_maturity_seconds=40_000.0, look_seconds=60.0, beta=0.01)
    assert made.stages[-1].deadline_seconds == horizon(wanted, TRAFFIC)
    assert len(asked) == 1
    plan_from(Pattern.SHADOW, ALL_THREE, baseline)
    assert len(asked) == 1, "a test that has its horizon needs no baseline"


def test_a_control_group_may_only_be_followed_by_a_share_at_which_it_keeps_the_ratio() -> None:
    grouped = {"pattern": "canary", "steps": [1, 5], "control_group": True}
    assert chain(grouped, AB).stages[-1].share == 50
    with pytest.raises(PlanError, match="share of stage 3 is 60 without a control group and after a stage with one"):
        chain(grouped, AB | {"share": 60})


@pytest.mark.parametrize("pattern", Pattern)
def test_each_pattern_has_its_parameters(pattern: Pattern) -> None:
    made = parameters_of(pattern)()
    assert type(made).__module__.endswith(pattern.replace("-", "_"))
    assert parameters_of(Pattern.SHADOW) is ShadowParameters


# --- what comes of it


def test_at_its_deadline_each_stage_does_what_its_own_pattern_says() -> None:
    made = plan_from(Pattern.SHADOW, ALL_THREE | {"then": [CANARY | {"at_deadline": "ask"}, AB]})
    wanted = [Action.HOLD, *[Action.ASK] * 3, Action.ROLL_BACK]
    for position, action in enumerate(wanted):
        deadline = made.stages[position].deadline_seconds
        assert decide(made, position, [], deadline - 1).action is Action.WAIT
        late = decide(made, position, [], deadline)
        assert (late.verdict, late.action) == (Verdict.INCONCLUSIVE, action)
        assert action_at_deadline(made, position) is action


def test_a_good_version_goes_through_all_three_and_a_lift_ends_it() -> None:
    made = plan_from(
        Pattern.SHADOW,
        {
            "look_seconds": 60.0,
            "grace_seconds": 0.0,
            "label_maturity_seconds": 300.0,
            "bake_seconds": 600.0,
            "then": [CANARY | {"bake_seconds": 600.0}, {"pattern": "ab-test", "bake_seconds": 600.0}],
        },
        lambda: TRAFFIC,
    )
    run = Simulation(1, made)
    everybody = 40_000
    actions = [run.outcome(0, Traffic(2_000, 2_000, agreement=0.997, valued=True), Version(), Version()).action]
    for position, share in ((1, 0.01), (2, 0.05), (3, 0.5)):
        dealt = Traffic(round(everybody * (1 - share)), round(everybody * share), valued=True)
        actions.append(run.outcome(position, dealt, Version(), Version()).action)
    assert actions == [Action.EXPAND] * 4
    won = run.outcome(4, Traffic(300, 300, valued=True), Version(), Version(value=12.0))
    assert (won.verdict, won.action) == (Verdict.PASS, Action.CUT_OVER)


def test_harm_in_a_later_pattern_rolls_back_whatever_was_proven_before() -> None:
    values = {"look_seconds": 60.0, "grace_seconds": 0.0, "label_maturity_seconds": 300.0, "bake_seconds": 600.0}
    made = plan_from(Pattern.SHADOW, values | {"then": [CANARY, AB]})
    run = Simulation(2, made)
    assert run.outcome(0, Traffic(500, 500, agreement=0.997), Version(), Version()).action is Action.EXPAND
    bad = run.outcome(1, Traffic(39_600, 400), Version(), Version(errors=0.05))
    assert (bad.verdict, bad.action) == (Verdict.FAIL, Action.ROLL_BACK)


def test_wrong_answers_only_hold_while_nobody_sees_them_and_roll_back_once_somebody_does() -> None:
    made = plan_from(Pattern.SHADOW, ALL_THREE)
    roles = [gate.role for stage in made.stages if (gate := stage.gate(Metric.WRONG_RATE))]
    assert roles == [Role.SIGNAL, *[Role.GUARDRAIL] * 3, Role.TRIPWIRE]
