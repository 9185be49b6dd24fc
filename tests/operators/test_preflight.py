import re

import pytest

from model_rollouts.core.errors import PlanError
from model_rollouts.core.plan import Pattern
from model_rollouts.operators.finish import run_id_for
from model_rollouts.operators.preflight import make_plan, rollout_id_for


def test_the_same_run_always_gives_the_same_rollout_and_stage_runs():
    one = rollout_id_for("flights", "2", Pattern.CANARY, "manual__1")
    assert one == rollout_id_for("flights", "2", Pattern.CANARY, "manual__1")
    assert one != rollout_id_for("flights", "2", Pattern.CANARY, "manual__2")
    assert one.startswith("flights-canary-2-")
    assert run_id_for(one, 1) == f"{one}--stage-2"


def test_a_name_that_airflow_would_refuse_in_a_run_id_is_made_harmless():
    name = rollout_id_for("Iris Klassifikator \u00e4..2", "champion/../1", Pattern.CANARY, "manual__1")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", run_id_for(name, 0))
    assert name != rollout_id_for("Iris Klassifikator \u00f6..2", "champion/../1", Pattern.CANARY, "manual__1")


def test_the_form_becomes_a_plan_and_its_own_fields_are_left_out():
    form = {"model": "flights", "challenger": "2", "rollout_id": None, "stage": None, "requested_by": None}
    plan = make_plan(Pattern.CANARY, {**form, "on_drift": "report", "steps": [5, 100]})
    assert [stage.share for stage in plan.stages] == [5, 100]


def test_an_unknown_field_is_refused():
    with pytest.raises(PlanError, match="unknown sharez"):
        make_plan(Pattern.CANARY, {"sharez": 3})


def test_a_pattern_that_cannot_be_planned_is_refused():
    with pytest.raises(PlanError, match="shadow"):
        make_plan(Pattern.SHADOW, {})
