import re
from datetime import UTC, datetime, timedelta

import pytest

from model_rollouts.core.drift_plan import DriftRole
from model_rollouts.core.errors import PlanError
from model_rollouts.operators.monitoring import drift_plan_of, limits_of, run_id_for, windows

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
FORM = {"window_seconds": 3600, "grace_seconds": 60, "reference": "day_before"}


def test_the_window_hangs_on_the_run_and_ends_before_it():
    end = NOW - timedelta(seconds=60)
    assert windows(FORM, NOW) == ((end - HOUR, end), (end - DAY - HOUR, end - DAY))
    assert windows({**FORM, "reference": "window_before"}, NOW)[1] == (end - 2 * HOUR, end - HOUR)


def test_a_window_that_overlaps_with_the_day_before_is_refused():
    with pytest.raises(PlanError, match="window_seconds is 86401, must be at most 86400"):
        windows({**FORM, "window_seconds": 86401}, NOW)
    windows({**FORM, "window_seconds": 86401, "reference": "window_before"}, NOW)


def test_the_forms_limits_are_taken_and_its_other_fields_left_out():
    limits = limits_of({**FORM, "max_error_rate": 0.1, "may_be_missing": ["drift"], "model": "m"})
    assert (limits.max_error_rate, limits.may_be_missing) == (0.1, ("drift",))


def test_the_forms_columns_are_ignored_and_a_wrong_name_is_refused():
    plan = drift_plan_of({"level": 0.999, "ignored_columns": ["f_note"]})
    assert (plan.role_of("f_note"), plan.role_of("f_x")) == (DriftRole.IGNORE, DriftRole.REPORT)
    assert drift_plan_of({"level": 0.999}).columns == {}
    with pytest.raises(PlanError, match="names 'note', must name columns of the log: f_<input>, prediction or score"):
        drift_plan_of({"level": 0.999, "ignored_columns": ["note"]})
    with pytest.raises(PlanError, match="ignored_columns is 'f_note', must be a list"):
        drift_plan_of({"level": 0.999, "ignored_columns": "f_note"})


def test_the_same_run_always_starts_the_same_runs():
    one = run_id_for("scheduled__2026-03-08T12:00:00+00:00", "flights")
    assert one == run_id_for("scheduled__2026-03-08T12:00:00+00:00", "flights")
    assert one != run_id_for("scheduled__2026-03-08T13:00:00+00:00", "flights")


def test_models_whose_names_airflow_would_refuse_get_runs_of_their_own():
    names = {run_id_for("manual__1", model) for model in ("Iris \u00e4/1", "Iris \u00f6/1", "x" * 300, "x" * 301)}
    assert len(names) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,250}", name) for name in names)
