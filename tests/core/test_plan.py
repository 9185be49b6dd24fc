import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage, Underpowered

GATES = (Gate(Metric.ERROR_RATE),)
STAGE = Stage(5, GATES, 60, 600)
PLAN = Plan(Pattern.CANARY, (STAGE,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": -1}, "challenger share is -1, must be between 0 and 100"),
        ({"share": 120}, "challenger share is 120, must be between 0 and 100"),
        ({"control_percent": -1}, "control_percent is -1, must be between 0 and 50"),
        ({"control_percent": 51}, "control_percent is 51, must be between 0 and 50"),
        ({"share": 100}, "control_percent is 0 at a share of 100"),
        ({"bake_seconds": -1}, "bake_seconds is -1, must be between 0 and"),
        ({"deadline_seconds": 60}, r"deadline_seconds is 60, must be above bake_seconds \(60\)"),
        ({"deadline_seconds": 4e8}, "deadline_seconds is 400000000.0, must be between 0 and"),
        ({"approval": "false"}, r"approval is 'false' \(str\), must be true or false"),
        ({"gates": ()}, "no gate that it has to pass"),
        ({"gates": (Gate(Metric.ERROR_RATE, Role.MUTED),)}, "no gate that it has to pass"),
        ({"gates": GATES * 2}, "gates name a metric twice: error_rate, error_rate"),
        ({"gates": list(GATES)}, "must be a tuple of gates"),
        ({"gates": ("error_rate",)}, "must be a tuple of gates"),
    ],
)
def test_a_stage_out_of_bounds_is_refused_with_the_value_and_the_bound(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        replace(STAGE, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": ()}, "the plan has no stages"),
        ({"stages": [STAGE]}, "must be a tuple of stages"),
        ({"stages": (STAGE, STAGE)}, "shares must increase from stage to stage: 5 is followed by 5"),
        ({"stages": (STAGE, replace(STAGE, share=1))}, "5 is followed by 1"),
        ({"look_seconds": 0.4}, "look_seconds is 0.4, must be between 0.5 and 86400"),
        ({"look_seconds": 86_401}, "look_seconds is 86401, must be between 0.5 and 86400"),
        ({"grace_seconds": -1}, "grace_seconds is -1, must be between 0 and 3600"),
        ({"grace_seconds": 3601}, "grace_seconds is 3601, must be between 0 and 3600"),
        ({"label_maturity_seconds": -1}, "label_maturity_seconds is -1, must be between 0 and"),
        ({"label_maturity_seconds": 8e6}, "label_maturity_seconds is 8000000.0, must be between 0 and"),
        ({"alpha": 0}, "alpha is 0, must be between 1e-06 and 0.2"),
        ({"alpha": 0.3}, "alpha is 0.3, must be between 1e-06 and 0.2"),
        ({"beta": 0}, "beta is 0, must be between 1e-06 and 0.2"),
        ({"beta": 0.3}, "beta is 0.3, must be between 1e-06 and 0.2"),
        ({"pattern": "canary"}, "must be a Pattern and an AtDeadline"),
        ({"at_deadline": "hold"}, "must be a Pattern and an AtDeadline"),
    ],
)
def test_a_plan_out_of_bounds_is_refused_with_the_value_and_the_bound(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        replace(PLAN, **values)


NUMBERS = [(STAGE, n) for n in ("share", "control_percent", "bake_seconds", "deadline_seconds")] + [
    (PLAN, n) for n in ("look_seconds", "grace_seconds", "label_maturity_seconds", "alpha", "beta")
]


@pytest.mark.parametrize(("whole", "name"), NUMBERS, ids=[name for _, name in NUMBERS])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "5", None])
def test_what_is_no_number_is_refused_everywhere(whole: Any, name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=f"{name.replace('share', 'challenger share')} is "):
        replace(whole, **{name: value})


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    shares = sorted(draw(st.sets(st.integers(0, 100) | st.floats(0, 100), min_size=1, max_size=6)))
    # the sample ratio can't be judged where all units go one way, nor be asked for a proof
    some = [metric for metric in Metric if metric.is_rate and not metric.matures]
    metrics = draw(st.lists(st.sampled_from(some), min_size=1, unique=True))
    gates = tuple(Gate(m, Role.GUARDRAIL if i == 0 else draw(st.sampled_from(Role))) for i, m in enumerate(metrics))
    bake = draw(st.floats(0, 1e6))
    deadline = draw(st.floats(bake, 2e6, exclude_min=True))
    control = draw(st.floats(0.1, 50))
    return Plan(
        draw(st.sampled_from(Pattern)),
        tuple(
            Stage(s, gates, bake, deadline, control, draw(st.booleans()), mirror_percent=0 if s else 100)
            for s in shares
        ),
        look_seconds=draw(st.floats(0.5, 86_400)),
        alpha=draw(st.floats(1e-6, 0.2)),
        at_deadline=draw(st.sampled_from(AtDeadline)),
        underpowered=draw(st.sampled_from(Underpowered)),
    )


@pytest.mark.parametrize("share", [0, 100])
def test_a_sample_ratio_gate_where_nothing_is_dealt_is_refused(share: float) -> None:
    gates = (Gate(Metric.ERROR_RATE), Gate(Metric.SAMPLE_RATIO, Role.SIGNAL))
    with pytest.raises(PlanError, match=f"sample_ratio gate is in a stage with a share of {share}"):
        Stage(share, gates, 0, 1, control_percent=10, mirror_percent=0 if share else 100)


def test_a_gate_may_not_be_later_than_its_stage() -> None:
    with pytest.raises(PlanError, match=r"deadline_seconds is 11, must be at most the stage's \(10\)"):
        Stage(5, (Gate(Metric.ERROR_RATE, deadline_seconds=11),), 0, 10)


@pytest.mark.parametrize("share", [0, 100])
def test_a_value_gate_where_all_callers_get_one_versions_answers_is_refused(share: float) -> None:
    gates = (Gate(Metric.ERROR_RATE), Gate(Metric.VALUE))
    with pytest.raises(PlanError, match=f"the value gate is in a stage with a share of {share}"):
        Stage(share, gates, 0, 1, control_percent=10, mirror_percent=0 if share else 100)


def test_an_agreement_gate_where_no_request_is_answered_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="the agreement gate is in a stage with a share of 50"):
        Stage(50, (Gate(Metric.ERROR_RATE), Gate(Metric.AGREEMENT)), 0, 1)


@pytest.mark.parametrize("role", [Role.SIGNAL, Role.MUTED])
def test_a_stage_that_would_pass_on_nothing_is_refused(role: Role) -> None:
    with pytest.raises(PlanError, match="no gate that it has to pass"):
        Stage(50, (Gate(Metric.ERROR_RATE, role),), 0, 1)


def test_gates_that_could_not_be_judged_before_their_deadline_are_refused() -> None:
    unasked = Stage(50, (Gate(Metric.WRONG_RATE, Role.TRIPWIRE),), 0, 600)
    with pytest.raises(PlanError, match=r"stage 0 is 600 for wrong_rate, must be at least 86465"):
        Plan(Pattern.CANARY, (unasked,), label_maturity_seconds=86_400)
    hasty = Stage(50, (Gate(Metric.ERROR_RATE, deadline_seconds=0),), 0, 600)
    with pytest.raises(PlanError, match=r"stage 0 is 0 for error_rate, must be at least 65 \(look_seconds \+ grace"):
        Plan(Pattern.CANARY, (hasty,))


def test_alpha_is_of_the_rollout_a_test_that_changes_from_stage_to_stage_is_several() -> None:
    same = Plan(Pattern.CANARY, tuple(Stage(s, (Gate(Metric.ERROR_RATE, pass_odds=9 - s),), 0, 10) for s in (1, 2, 3)))
    assert [same.alpha_of(i, stage.gates[0]) for i, stage in enumerate(same.stages)] == [0.01] * 3
    other = tuple(Stage(s, (Gate(Metric.ERROR_RATE, rollback_odds=1 + s / 10),), 0, 10) for s in (1, 2, 3))
    spent = Plan(Pattern.CANARY, other)
    assert sum(spent.alpha_of(i, stage.gates[0]) for i, stage in enumerate(spent.stages)) == pytest.approx(0.01)


def test_gates_that_ask_for_more_than_the_plans_alpha_are_refused() -> None:
    greedy = (Gate(Metric.ERROR_RATE, alpha=0.008), Gate(Metric.LATENCY_P95, alpha=0.003))
    with pytest.raises(PlanError, match=r"own alphas add up to 0\.011, must be at most the plan's alpha \(0\.01\)"):
        Plan(Pattern.CANARY, (Stage(5, greedy, 0, 10),))
    nothing_left = (Gate(Metric.ERROR_RATE, alpha=0.01), Gate(Metric.LATENCY_P95))
    with pytest.raises(PlanError, match=r"add up to 0\.01, must be below the plan's alpha"):
        Plan(Pattern.CANARY, (Stage(5, nothing_left, 0, 10),))
    shared = Plan(Pattern.CANARY, (Stage(5, (greedy[0], Gate(Metric.LATENCY_P95), Gate(Metric.LATENCY_P99)), 0, 10),))
    assert [shared.alpha_of(0, gate) for gate in shared.stages[0].gates] == pytest.approx([0.008, 0.001, 0.001])


def test_a_stage_that_ends_before_its_first_labels_are_due_is_refused() -> None:
    labelled = replace(STAGE, gates=(Gate(Metric.WRONG_RATE, coverage=0.5),))
    with pytest.raises(PlanError, match=r"deadline_seconds of stage 0 is 664\.9 for wrong_rate, must be at least 665"):
        Plan(Pattern.CANARY, (replace(labelled, deadline_seconds=664.9),), label_maturity_seconds=600)
    Plan(Pattern.CANARY, (replace(labelled, deadline_seconds=665),), label_maturity_seconds=600)
    Plan(Pattern.CANARY, (STAGE,), label_maturity_seconds=600)  # without labels there is nothing to wait for


@settings(derandomize=True, deadline=None)
@given(plans())
def test_a_plan_survives_json_unchanged(plan: Plan) -> None:
    text = json.dumps(plan.to_dict(), allow_nan=False)
    assert Plan.from_dict(json.loads(text)) == plan
    assert json.dumps(Plan.from_dict(json.loads(text)).to_dict()) == text


def as_json(**values: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(PLAN.to_dict()))
    return data | values


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (as_json(pattern="big-bang"), "pattern is 'big-bang', must be one of blue-green, shadow, canary"),
        (as_json(at_deadline="shrug"), "at_deadline is 'shrug', must be one of hold, roll_back"),
        (as_json(stages="1,5"), r"stages is '1,5' \(str\), must be a list"),
        (as_json(stages=[5]), r"stage is 5 \(int\), must be a mapping"),
        (as_json(stages=[{"share": 5}]), "stage lacks bake_seconds, deadline_seconds"),
        (as_json(stages=[PLAN.to_dict()["stages"][0] | {"gates": None}]), "gates is None"),
        (as_json(stages=[PLAN.to_dict()["stages"][0] | {"sahre": 5}]), "stage has unknown sahre"),
        (as_json(speed=1), "plan has unknown speed; known are advance, alpha"),
        (as_json(alpha="0.01"), r"alpha is '0.01' \(str\), must be a number"),
        ({"pattern": "canary"}, "plan lacks stages"),
        (None, "plan is None"),
    ],
)
def test_json_that_is_no_plan_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_dict(data)


@pytest.mark.parametrize("field", [f.name for f in fields(Plan)])
def test_no_value_of_a_stored_plan_is_dropped_on_the_way_back(field: str) -> None:
    odd = Plan(Pattern.SHADOW, (STAGE,), 61.0, 7.0, 8.0, 0.02, 0.03, AtDeadline.ROLL_BACK)
    assert getattr(Plan.from_dict(odd.to_dict()), field) == getattr(odd, field)


@pytest.mark.parametrize("index", [-1, 1, 99])
def test_a_stage_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(PlanError, match=f"stage is {index}, must be between 0 and 0"):
        PLAN.stage(index)
