"""Looks that a clock which was ahead has closed: the gates don't see what is asked meanwhile, and that is told."""

from datetime import UTC, datetime, timedelta

import pytest

from model_rollouts.core.evidence import Look, RequestCounts
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.looks import closed_ahead

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
PLAN = Plan(Pattern.CANARY, (Stage(5, (Gate(Metric.ERROR_RATE),), 60.0, 3600.0),), look_seconds=60.0)
NOTHING = RequestCounts(0, 0, {})


def looks(count: int) -> list[Look]:
    return [Look(0, index, NOTHING, NOTHING) for index in range(count)]


@pytest.mark.parametrize(("closed", "minutes"), [(0, 0), (3, 2), (3, 3), (3, 60)])
def test_looks_of_the_past_and_of_a_clock_that_differs_a_little_are_no_news(closed: int, minutes: int) -> None:
    assert closed_ahead(PLAN, {0: (T0, None)}, looks(closed), T0 + timedelta(minutes=minutes)) == ""


def test_looks_of_times_to_come_are_told_until_their_time_has_come() -> None:
    spans = {0: (T0, None)}
    said = closed_ahead(PLAN, spans, looks(120), T0 + timedelta(minutes=3))
    assert "looks until 2026-11-26 14:00:00 are closed and it is 2026-11-26 12:03:00" in said
    assert closed_ahead(PLAN, spans, looks(120), T0 + timedelta(minutes=118, seconds=59))
    assert closed_ahead(PLAN, spans, looks(120), T0 + timedelta(minutes=119)) == ""
