import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.calendar import DAYS, Calendar
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.drift_plan import DriftPlan, DriftRole
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Gate, Metric, Role
from model_rollouts.core.plan import Advance, Pattern, Plan, Stage, Underpowered
from model_rollouts.core.readiness import Monitored, Readiness

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
        ({"mirror_percent": 101}, "mirror_percent is 101, must be between 0 and 100"),
        ({"mirror_percent": -1}, "mirror_percent is -1, must be between 0 and 100"),
        ({"mirror_percent": 5}, "mirror_percent is 5 and offline is False at a share of 5, must be 0 and false"),
        ({"offline": True}, "mirror_percent is 0 and offline is True at a share of 5, must be 0 and false"),
        ({"offline": "false"}, r"offline is 'false' \(str\), must be true or false"),
        ({"offline": 1}, r"offline is 1 \(int\), must be true or false"),
        ({"share": 0}, "mirror_percent is 0 at a share of 0: the challenger would answer nothing"),
        ({"share": 0, "offline": True, "mirror_percent": 5}, "mirror_percent is 5 in an offline stage, must be 0"),
        ({"control_group": "yes"}, r"control_group is 'yes' \(str\), must be true or false"),
        ({"control_group": True, "share": 50.1}, r"control_group is set at a share of 50\.1, must be at one above 0"),
        (
            {"control_group": True, "share": 0, "mirror_percent": 5},
            "control_group is set at a share of 0, must be at one above 0 and at most 50",
        ),
        (
            {"control_group": True, "share": 100, "control_percent": 5},
            "control_group is set at a share of 100, must be at one above 0 and at most 50",
        ),
        ({"pattern": "canary"}, "pattern of a stage is 'canary', must be of type Pattern or None"),
        ({"pattern": AtDeadline.HOLD}, "pattern of a stage is .*, must be of type Pattern or None"),
        ({"at_deadline": "hold"}, "at_deadline of a stage is 'hold', must be of type AtDeadline or None"),
        ({"at_deadline": True}, "at_deadline of a stage is True, must be of type AtDeadline or None"),
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
        ({"underpowered": "wait"}, "underpowered is 'wait', must be of type Underpowered"),
        ({"underpowered": None}, "underpowered is None, must be of type Underpowered"),
        ({"advance": "at_once"}, "advance is 'at_once', must be of type Advance"),
        ({"calendar": None}, "calendar is None, must be of type Calendar"),
        ({"calendar": {}}, r"calendar is \{\}, must be of type Calendar"),
        ({"readiness": {}}, r"readiness is \{\}, must be of type Readiness"),
        ({"keep_previous_seconds": -1}, "keep_previous_seconds is -1, must be between 0 and"),
        ({"keep_previous_seconds": 4e7}, "keep_previous_seconds is 40000000.0, must be between 0 and"),
        ({"data_rollback": []}, r"data_rollback is \[\], must be a tuple of DataRollback"),
        ({"data_rollback": ("undo",)}, "data_rollback is .*, must be a tuple of DataRollback"),
        ({"data_rollback": None}, "data_rollback is None, must be a tuple of DataRollback"),
    ],
)
def test_a_plan_out_of_bounds_is_refused_with_the_value_and_the_bound(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        replace(PLAN, **values)


NUMBERS = [(STAGE, n) for n in ("share", "control_percent", "bake_seconds", "deadline_seconds", "mirror_percent")] + [
    (PLAN, n)
    for n in ("look_seconds", "grace_seconds", "label_maturity_seconds", "alpha", "beta", "keep_previous_seconds")
]


@pytest.mark.parametrize(("whole", "name"), NUMBERS, ids=[name for _, name in NUMBERS])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "5", None])
def test_what_is_no_number_is_refused_everywhere(whole: Any, name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=f"{name.replace('share', 'challenger share')} is "):
        replace(whole, **{name: value})


calendars = st.builds(
    Calendar,
    expand_days=st.sets(st.sampled_from(DAYS), min_size=1).map(tuple),
    expand_from=st.sampled_from(["00:00", "08:30"]),
    expand_until=st.sampled_from(["17:00", "24:00"]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
    blackout_dates=st.lists(st.dates().map(str), max_size=2).map(tuple),
)
checklists = st.builds(
    Readiness,
    on_call=st.just(("ops@example.org",)),
    acknowledge=st.booleans(),
    may_be_missing=st.sets(st.sampled_from(Monitored)).map(tuple),
    golden_requests=st.integers(1, 1000),
    golden_agreement=st.floats(0, 1),
    rehearse=st.booleans(),
    drill_within_days=st.none() | st.floats(0.001, 366),
)
undone = st.sampled_from(
    [
        DataRollback(DataRollbackKind.DAG, "undo", arguments={"hours": [1, None]}),
        DataRollback(DataRollbackKind.DELTA_RESTORE, "/lake/features", version=3),
        DataRollback(DataRollbackKind.CALLABLE, "shop.undo:features", timeout_seconds=5),
    ]
)


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
    offline = draw(st.booleans())
    stages = tuple(
        Stage(
            share,
            gates,
            bake,
            deadline,
            control,
            draw(st.booleans()),
            mirror_percent=0 if share or offline else draw(st.floats(0.1, 100)),
            offline=offline and not share,
            control_group=0 < share <= 50 and draw(st.booleans()),
            pattern=draw(st.none() | st.sampled_from(Pattern)),
            at_deadline=draw(st.none() | st.sampled_from(AtDeadline)),
        )
        for share in shares
    )
    return Plan(
        draw(st.sampled_from(Pattern)),
        stages,
        look_seconds=draw(st.floats(0.5, 86_400)),
        alpha=draw(st.floats(1e-6, 0.2)),
        at_deadline=draw(st.sampled_from(AtDeadline)),
        underpowered=draw(st.sampled_from(Underpowered)),
        advance=draw(st.sampled_from(Advance)),
        calendar=draw(calendars),
        keep_previous_seconds=draw(st.floats(0, 1e7)),
        readiness=draw(checklists),
        data_rollback=tuple(draw(st.lists(undone, max_size=2))),
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


def test_offline_labels_may_be_due_after_the_deadline_since_they_have_come_already() -> None:
    known = Stage(0, (Gate(Metric.WRONG_RATE, coverage=0.5),), 0, 600, offline=True)
    assert Plan(Pattern.SHADOW, (known,), label_maturity_seconds=86_400).stages == (known,)
    live = replace(known, offline=False, mirror_percent=100)
    with pytest.raises(PlanError, match=r"stage 0 is 600 for wrong_rate, must be at least 86465"):
        Plan(Pattern.SHADOW, (live,), label_maturity_seconds=86_400)


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
        (as_json(advance="soon"), "advance is 'soon', must be one of at_once, on_schedule"),
        (as_json(underpowered="panic"), "underpowered is 'panic', must be one of wait, hold, ask"),
        (as_json(calendar=None), "calendar is None"),
        (as_json(calendar={"expand_day": "mon"}), "calendar has unknown expand_day"),
        (as_json(readiness=None), "readiness is None"),
        (as_json(readiness={"may_be_missing": ["luck"]}), "may_be_missing is 'luck', must be one of"),
        (as_json(data_rollback={"kind": "dag"}), r"data_rollback is .* \(dict\), must be a list"),
        (as_json(data_rollback=[{"kind": "dag"}]), "data rollback lacks target"),
        (as_json(stages=[PLAN.to_dict()["stages"][0] | {"pattern": "x"}]), "pattern of a stage is 'x', must be one of"),
        (
            as_json(stages=[PLAN.to_dict()["stages"][0] | {"at_deadline": "x"}]),
            "at_deadline of a stage is 'x', must be",
        ),
        (
            as_json(stages=[{"share": 5, "bake_seconds": 1, "deadline_seconds": 9, "pattern": 5}]),
            "pattern of a stage is 5",
        ),
        ({"pattern": "canary"}, "plan lacks stages"),
        (None, "plan is None"),
    ],
)
def test_json_that_is_no_plan_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_dict(data)


@pytest.mark.parametrize("field", [f.name for f in fields(Plan)])
def test_no_value_of_a_stored_plan_is_dropped_on_the_way_back(field: str) -> None:
    odd = Plan(
        Pattern.SHADOW,
        (replace(STAGE, control_group=True, pattern=Pattern.AB_TEST, at_deadline=AtDeadline.ASK),),
        61.0,
        7.0,
        8.0,
        0.02,
        0.03,
        AtDeadline.ROLL_BACK,
        Underpowered.ASK,
        Advance.ON_SCHEDULE,
        Calendar(expand_days=("mon",), blackout_dates=("2026-12-24",)),
        5.0,
        Readiness(on_call=("Ada",), may_be_missing=(Monitored.DRIFT,)),
        (DataRollback(DataRollbackKind.DAG, "undo"),),
        DriftPlan(role=DriftRole.HOLD),
    )
    assert getattr(Plan.from_dict(odd.to_dict()), field) == getattr(odd, field) != getattr(PLAN, field)


def test_a_plan_on_record_from_before_its_newer_fields_has_their_defaults() -> None:
    record = as_json()
    for name in ("underpowered", "advance", "calendar", "keep_previous_seconds", "readiness", "data_rollback"):
        del record[name]
    for name in ("mirror_percent", "control_group", "offline", "pattern", "at_deadline"):
        del record["stages"][0][name]
    assert Plan.from_dict(record) == PLAN
    assert (PLAN.advance, PLAN.calendar, PLAN.readiness) == (Advance.AT_ONCE, Calendar(), Readiness())
    assert (PLAN.keep_previous_seconds, PLAN.data_rollback) == (7 * 86_400, ())


@pytest.mark.parametrize("part", ["calendar", "readiness"])
def test_a_part_that_says_only_some_of_its_values_has_the_defaults_of_the_rest(part: str) -> None:
    assert Plan.from_dict(as_json(**{part: {}})) == PLAN


def test_an_offline_stage_without_gates_of_its_own_is_not_judged_by_a_latency_that_nobody_met() -> None:
    plain = {"share": 0, "offline": True, "bake_seconds": 0, "deadline_seconds": 600}
    (stage,) = Plan.from_dict({"pattern": "shadow", "stages": [plain]}).stages
    roles = {gate.metric: gate.role for gate in stage.gates}
    assert (roles[Metric.LATENCY_P95], roles[Metric.LATENCY_P99]) == (Role.MUTED, Role.MUTED)
    assert (roles[Metric.AGREEMENT], roles[Metric.ERROR_RATE]) == (Role.OBJECTIVE, Role.GUARDRAIL)


def test_a_stage_of_another_pattern_without_gates_gets_those_of_its_own() -> None:
    times = {"bake_seconds": 60, "deadline_seconds": 86_400}
    stages = [{"share": 0, "mirror_percent": 50, **times}, {"share": 50, "pattern": "ab-test", **times}]
    made = Plan.from_dict({"pattern": "shadow", "stages": stages})
    assert made.stages[0].gate(Metric.AGREEMENT)
    assert made.stages[1].gate(Metric.VALUE)
    assert [made.pattern_of(stage) for stage in (0, 1)] == [Pattern.SHADOW, Pattern.AB_TEST]


def test_another_pattern_may_go_on_at_the_same_share_and_no_pattern_may_go_back() -> None:
    test = replace(STAGE, pattern=Pattern.AB_TEST)
    assert len(Plan(Pattern.CANARY, (STAGE, test)).stages) == 2
    for other in (STAGE, replace(STAGE, pattern=Pattern.CANARY)):
        with pytest.raises(PlanError, match="5 is followed by 5; only another pattern may go on at the same share"):
            Plan(Pattern.CANARY, (STAGE, other))
    with pytest.raises(PlanError, match="shares must increase from stage to stage: 5 is followed by 4"):
        Plan(Pattern.CANARY, (STAGE, replace(test, share=4)))


def test_a_control_group_makes_two_equal_parts_of_those_who_count() -> None:
    assert (STAGE.dealt_percent, replace(STAGE, control_group=True).dealt_percent) == (5, 50)


DEALT = (*GATES, Gate(Metric.SAMPLE_RATIO, Role.SIGNAL))


@pytest.mark.parametrize("share", [20, 60, 99])
def test_a_sample_ratio_after_a_control_group_that_nobody_could_know_is_refused(share: float) -> None:
    """At 10 % the middle 80 counted for nobody; of them 10 to 60 % then come to the challenger: 62.5 %, not 60."""
    grouped = replace(STAGE, share=10, control_group=True)
    with pytest.raises(PlanError, match=f"share of stage 1 is {share} without a control group and after a stage with"):
        Plan(Pattern.CANARY, (grouped, replace(STAGE, share=share, gates=DEALT)))
    Plan(Pattern.CANARY, (grouped, replace(STAGE, share=share)))  # nobody asks for the ratio
    Plan(Pattern.CANARY, (replace(STAGE, share=10), replace(STAGE, share=share, gates=DEALT)))
    between = replace(STAGE, share=15)
    with pytest.raises(PlanError, match=f"share of stage 2 is {share} without a control group"):
        Plan(Pattern.CANARY, (grouped, between, replace(STAGE, share=share, gates=DEALT)))


def test_after_a_control_group_the_ratio_is_known_with_another_group_and_at_half() -> None:
    grouped = replace(STAGE, share=10, control_group=True, gates=DEALT)
    further = replace(STAGE, share=20, control_group=True, gates=DEALT)
    whole = Stage(100, GATES, 60, 600, control_percent=10)
    assert len(Plan(Pattern.CANARY, (grouped, further, replace(STAGE, share=50, gates=DEALT), whole)).stages) == 4


@pytest.mark.parametrize("index", [-1, 1, 99])
def test_a_stage_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(PlanError, match=f"stage is {index}, must be between 0 and 0"):
        PLAN.stage(index)
