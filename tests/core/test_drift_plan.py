"""Limits and roles of drift in a plan."""

import json

import pytest

from model_rollouts.core.drift_plan import Comparison, DriftLimits, DriftPlan, DriftRole
from model_rollouts.core.errors import PlanError
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern, Plan

GIVEN = {
    "default": {"psi": 0.25, "js": 0.1},
    "columns": {"f_x": {"psi": 0.1, "role": "hold"}, "f_y": {"role": "ignore"}, "score": {"missing": None}},
    "holds": ["champion", "training"],
    "reference_seconds": 3600,
}


def test_a_column_has_its_own_limits_and_role_and_else_the_plans() -> None:
    plan = DriftPlan.from_dict(GIVEN)
    assert plan.limits_of("f_x") == DriftLimits(psi=0.1, js=0.1)
    assert plan.limits_of("score") == DriftLimits(psi=0.25, js=0.1, missing=None)
    assert plan.limits_of("f_other") == DriftLimits(psi=0.25, js=0.1)
    assert [plan.role_of(c) for c in ("f_x", "f_y", "f_other")] == [DriftRole.HOLD, DriftRole.IGNORE, DriftRole.REPORT]
    assert plan.holds == (Comparison.CHAMPION, Comparison.TRAINING)


def test_it_comes_back_from_the_store_as_it_was() -> None:
    plan = DriftPlan.from_dict(GIVEN)
    assert DriftPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("pattern", list(Pattern))
def test_the_form_puts_it_into_the_plan_of_every_pattern(pattern: Pattern) -> None:
    horizon = {"horizon_seconds": 604_800.0} if pattern is Pattern.AB_TEST else {}
    plan = plan_from(pattern, {"on_drift": "hold", "drift": GIVEN, **horizon})
    assert plan.drift == DriftPlan.from_dict({**GIVEN, "role": "hold"})
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_plan_from_before_there_was_drift_reports_it() -> None:
    old = plan_from(Pattern.CANARY, {}).to_dict()
    del old["drift"]
    assert Plan.from_dict(old).drift == DriftPlan()
    assert DriftPlan().role is DriftRole.REPORT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"columns": {"x": {"psi": 0.1}}}, "must name columns of the log"),
        ({"columns": {"f_x": {"pis": 0.1}}}, "unknown pis; known are js, missing, psi, wasserstein"),
        ({"columns": {"f_x": {"role": "halt"}}}, "must be one of hold, report, ignore"),
        ({"columns": {"f_x": {"psi": "0.1"}}}, "must be a number"),
        ({"columns": {"f_x": {"psi": float("nan")}}}, "drift limit psi is nan"),
        ({"columns": {"f_x": 0.1}}, "must be an object of limits and a role"),
        ({"columns": ["f_x"]}, "must be an object of rules by column"),
        ({"default": {"psi": 0}}, "drift limit psi is 0, must be between"),
        ({"default": {"js": 1.5}}, "drift limit js is 1.5, must be between"),
        ({"holds": []}, "must name at least one of"),
        ({"holds": ["yesterday"]}, "must be one of training, before, champion"),
        ({"holds": "champion"}, "must be a list"),
        ({"level": 0.5}, "drift.level is 0.5"),
        ({"reference_seconds": 0}, "drift.reference_seconds is 0"),
        ({"colums": {}}, "unknown colums"),
    ],
)
def test_what_is_wrong_is_refused_with_what_is_right(data: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        DriftPlan.from_dict(data)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"on_drift": "ignore"}, "must be report or hold"),
        ({"on_drift": "halt"}, "must be one of"),
        ({"drift": {"role": "report"}}, "on_drift says it"),
        ({"drift": []}, "must be an object"),
    ],
)
def test_a_form_that_contradicts_itself_is_refused(form: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from(Pattern.CANARY, form)
