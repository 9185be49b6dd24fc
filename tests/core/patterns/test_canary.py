import json
import math
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.calendar import Calendar
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Metric, Role
from model_rollouts.core.patterns.canary import DEFAULT_NEED, CanaryParameters, plan_canary
from model_rollouts.core.plan import Advance, Pattern, Plan
from model_rollouts.core.readiness import Monitored, Readiness
from model_rollouts.core.stage_power import plan_power


def plan(**values: Any) -> Plan:
    return plan_canary(CanaryParameters(**values))


def test_the_defaults_make_a_plan() -> None:
    made = plan()
    assert made.pattern is Pattern.CANARY
    assert [stage.share for stage in made.stages] == [1, 5, 25, 50, 100]
    assert [stage.control_percent for stage in made.stages] == [0, 0, 0, 0, 10]
    roles = {gate.metric: gate.role for gate in made.stages[0].gates}
    assert roles == {
        Metric.ERROR_RATE: Role.GUARDRAIL,
        Metric.WRONG_RATE: Role.GUARDRAIL,
        Metric.LATENCY_P50: Role.SIGNAL,
        Metric.LATENCY_P95: Role.GUARDRAIL,
        Metric.LATENCY_P99: Role.TRIPWIRE,
        Metric.SAMPLE_RATIO: Role.SIGNAL,
    }
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize("steps", [(1, 5, 25, 50, 100), (3, 60), (10, 20, 30)])
def test_margins_tighten_geometrically_to_the_last_step(steps: tuple[float, ...]) -> None:
    odds = [stage.gates[0].pass_odds for stage in plan(steps=steps).stages]
    assert odds[0] == pytest.approx(4.0)
    assert odds[-1] == 1.5
    ratios = [after / before for before, after in pairwise(odds)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert {gate.rollback_odds for stage in plan(steps=steps).stages for gate in stage.gates} == {1.25}
    negligible = [stage.gates[0].negligible for stage in plan(steps=steps).stages]
    assert negligible == pytest.approx([0.02 * o / 1.5 for o in odds])


def test_a_single_step_is_judged_by_the_last_margin() -> None:
    assert [gate.pass_odds for gate in plan(steps=[100]).stages[0].gates] == [1.5] * 5


@settings(derandomize=True)
@given(st.floats(1.26, 1000), st.floats(1, 800), st.integers(1, 12))
def test_no_margin_is_rounded_out_of_what_was_asked_for(pass_odds: float, factor: float, steps: int) -> None:
    first = min(pass_odds * factor, 1000.0)
    made = plan(steps=list(range(1, steps + 1)), pass_odds=pass_odds, first_pass_odds=first)
    assert all(pass_odds * (1 - 1e-9) <= s.gates[0].pass_odds <= first for s in made.stages)


def test_without_label_coverage_accuracy_is_shown_and_not_judged() -> None:
    roles = {gate.metric: gate.role for gate in plan(label_coverage=0).stages[0].gates}
    assert roles[Metric.WRONG_RATE] is Role.MUTED


@pytest.mark.parametrize(("share", "expected"), [(None, [False] * 3), (25, [False, True, True]), (0, [True] * 3)])
def test_a_person_is_asked_from_the_given_share_on(share: float | None, expected: list[bool]) -> None:
    stages = plan(steps=[5, 25, 50], approval_from_share=share).stages
    assert [stage.approval for stage in stages] == expected


def test_negligible_never_widens_past_a_half() -> None:
    assert plan(negligible_error_rate=0.4, first_pass_odds=100).stages[0].gates[0].negligible == 0.5


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "steps has 0 shares, must have 1 to 100"),
        (list(range(101)), "steps has 101 shares, must have 1 to 100"),
        ([5, 1], "shares must increase from stage to stage: 5 is followed by 1"),
        ([5, 5], "5 is followed by 5"),
        ([5, 100.1], "a step is 100.1, must be between 0 and 100"),
        ([0, 5], "a step is 0, must be above 0"),
        ([-1, 5], "a step is -1, must be between 0 and 100"),
        ("1,5,25", r"steps is '1,5,25' \(str\), must be a list of shares"),
        (["1", "5"], r"a step is '1' \(str\), must be a number between 0 and 100"),
        ([True], "a step is True"),
        ([math.nan], "a step is nan"),
        ([None], "a step is None"),
        (25, r"steps is 25 \(int\), must be a list of shares"),
        (None, "steps is None"),
        ({1, 5}, "must be a list of shares"),
    ],
)
def test_steps_that_make_no_ladder_are_refused(steps: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(steps=steps)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first_pass_odds": 1.4}, r"first_pass_odds is 1.4, must be at least pass_odds \(1.5\)"),
        ({"pass_odds": 1.2}, r"pass_odds is 1.2, must be above rollback_odds \(1.25\)"),
        ({"first_pass_odds": 1001}, "first_pass_odds is 1001, must be between 1 and 1000"),
        ({"label_coverage": 80}, "label_coverage is 80, must be between 0 and 1"),
        ({"negligible_error_rate": 0}, "negligible is 0.0, must be between 0 and 1, both excluded"),
        ({"approval_from_share": 101}, "approval_from_share is 101, must be between 0 and 100"),
        ({"at_deadline": "panic"}, "at_deadline is 'panic', must be one of hold, roll_back"),
        ({"at_deadline": None}, "at_deadline is None"),
        ({"control_percent": 0}, "control_percent is 0 at a share of 100"),
        ({"bake_seconds": 90_000}, "deadline_seconds is 86400, must be above bake_seconds"),
        ({"min_requests": 0}, "min_requests is 0, must be between 1 and"),
    ],
)
def test_parameters_out_of_bounds_are_refused_with_the_value_and_the_bound(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan(**values)


NUMBERS = sorted({f.name for f in fields(CanaryParameters)} - {"steps", "at_deadline"})


TAKES = {"control_group": True, "rehearse": True, "golden_file": "5"}  # what is right for some of them
WRONG = [
    (name, value) for name in NUMBERS for value in (math.nan, math.inf, True, "5", [5]) if TAKES.get(name) != value
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_a_form_sends_instead_of_a_number_is_refused(name: str, value: Any) -> None:
    shown = {"negligible_error_rate": "negligible", "label_coverage": "coverage"}.get(name, name)
    with pytest.raises(PlanError, match=shown):
        plan(**{name: value})


def test_plain_text_from_a_form_names_the_deadline_policy() -> None:
    assert plan(at_deadline="roll_back").at_deadline is AtDeadline.ROLL_BACK


def test_a_form_with_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(PlanError, match="the form has unknown bake_minutes; known are acknowledge, advance, alpha"):
        CanaryParameters.from_dict({"bake_minutes": 5})
    assert CanaryParameters.from_dict({"steps": [1, 2]}).steps == [1, 2]


def test_what_the_form_says_of_the_default_steps_is_what_they_need() -> None:
    made = plan()
    traffic = Baseline(864_000, 17_280, 86_400.0, 800_000, 800_000, 80_000, 1000, 0, None, None)
    needed = [
        next(gate.need.to_pass for gate in stage.gates if gate.need.metric is Metric.ERROR_RATE)
        for stage in plan_power(made, traffic)
    ]
    assert list(DEFAULT_NEED) == pytest.approx(needed, rel=0.05)


def test_business_value_is_watched_at_every_step_and_proven_at_the_last() -> None:
    stages = plan(value_loss=0.06).stages
    gates = [stage.gate(Metric.VALUE) for stage in stages]
    assert [gate.role for gate in gates if gate] == [Role.TRIPWIRE] * 3 + [Role.GUARDRAIL]
    assert gates[-1] is None  # all callers get the challenger's answer
    last = gates[-2]
    assert last is not None
    assert (last.pass_lift, last.rollback_lift, last.coverage) == (-0.06, -0.03, 0.8)
    assert plan().stages[0].gate(Metric.VALUE) is None


def test_a_control_group_is_kept_where_there_is_room_for_one() -> None:
    stages = plan(control_group=True).stages
    assert [stage.control_group for stage in stages] == [True] * 4 + [False]
    assert [stage.dealt_percent for stage in stages] == [50.0] * 4 + [100.0]
    assert not any(stage.control_group for stage in plan().stages)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([60, 100], "control_group is set and no step is up to 50, where there is room for one"),
        ([10, 60, 100], "share of stage 1 is 60 without a control group and after a stage with one, must be 50 or 100"),
    ],
)
def test_a_control_group_that_no_step_could_have_or_a_later_one_would_spoil_is_refused(
    steps: list[float], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan(steps=steps, control_group=True)


def test_a_plan_that_moves_on_by_the_schedule_has_its_calendar() -> None:
    made = plan(advance="on_schedule", expand_days=["mon"], expand_until="17:00", blackout_dates=["2026-12-24"])
    assert made.advance is Advance.ON_SCHEDULE
    assert made.calendar == Calendar(("mon",), "00:00", "17:00", "UTC", ("2026-12-24",))


def test_the_checklist_and_what_is_undone_reach_the_plan() -> None:
    made = plan(
        on_call=["Ada"],
        acknowledge=True,
        may_be_missing=["business"],
        golden_agreement=0.9,
        drill_within_days=7,
        data_rollback=[{"kind": "delta_restore", "target": "/lake/features"}],
    )
    assert made.readiness == Readiness(("Ada",), True, (Monitored.BUSINESS,), golden_agreement=0.9, drill_within_days=7)
    assert made.data_rollback == (DataRollback(DataRollbackKind.DELTA_RESTORE, "/lake/features"),)
