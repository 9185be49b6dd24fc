import re

import pytest

from model_rollouts.core.errors import PlanError
from model_rollouts.core.names import rollout_id_for, stage_run_id
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern
from model_rollouts.operators.forms import form
from model_rollouts.operators.preflight import make_plan


def test_the_same_run_always_gives_the_same_rollout_and_stage_runs():
    one = rollout_id_for("flights", "2", Pattern.CANARY, "manual__1")
    assert one == rollout_id_for("flights", "2", Pattern.CANARY, "manual__1")
    assert one != rollout_id_for("flights", "2", Pattern.CANARY, "manual__2")
    assert one.startswith("flights-canary-2-")
    assert stage_run_id(one, 1) == f"{one}--stage-2"


def test_a_name_that_airflow_would_refuse_in_a_run_id_is_made_harmless():
    name = rollout_id_for("Iris Klassifikator \u00e4..2", "champion/../1", Pattern.CANARY, "manual__1")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", stage_run_id(name, 0))
    assert name != rollout_id_for("Iris Klassifikator \u00f6..2", "champion/../1", Pattern.CANARY, "manual__1")


def test_the_form_becomes_a_plan_and_its_own_fields_are_left_out():
    form = {"model": "flights", "challenger": "2", "rollout_id": None, "stage": None, "requested_by": None}
    plan = make_plan(Pattern.CANARY, {**form, "on_drift": "report", "steps": [5, 100]})
    assert [stage.share for stage in plan.stages] == [5, 100]


def test_an_unknown_field_is_refused():
    with pytest.raises(PlanError, match="unknown sharez"):
        make_plan(Pattern.CANARY, {"sharez": 3})


@pytest.mark.parametrize("pattern", list(Pattern))
def test_every_form_makes_a_plan_of_its_pattern_with_the_defaults_that_the_pattern_has(pattern: Pattern):
    offered = {name: param.value for name, param in form(pattern).items()}
    own = {"horizon_seconds": 86_400 * 14} if pattern is Pattern.AB_TEST else {}
    plan = make_plan(pattern, {**offered, **own})
    assert plan == plan_from(pattern, own)
    assert plan.pattern is pattern


@pytest.mark.parametrize("pattern", list(Pattern))
def test_every_field_is_explained_titled_and_bounded(pattern: Pattern):
    for name, param in form(pattern).items():
        assert param.description, name
        assert param.schema.get("title"), name
        kinds = param.schema.get("type", "")
        if "number" in kinds or "integer" in kinds:
            assert "minimum" in param.schema, name
            assert "maximum" in param.schema or name == "stage", name


@pytest.mark.parametrize(("pattern", "name", "value"), [
    (Pattern.CANARY, "steps", []), (Pattern.CANARY, "bake_seconds", -1), (Pattern.SHADOW, "agreement", 2),
    (Pattern.AB_TEST, "share", 100), (Pattern.BLUE_GREEN, "mirror_percent", 0), (Pattern.GRADUAL, "alpha", "x"),
    (Pattern.GRADUAL, "may_be_missing", ["nothing"]), (Pattern.CANARY, "expand_from", "25:00"),
])  # fmt: skip
def test_a_wrong_value_is_refused_by_the_form_itself(pattern: Pattern, name: str, value: object):
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        form(pattern)[name].resolve(value)
