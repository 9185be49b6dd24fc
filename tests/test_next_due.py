"""When the next look at a rollout is due: never later than there is something new, and never for nothing."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.looks import Spans, next_due, windows

T0 = datetime(2026, 5, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def plan_of(look: float, grace: float, maturity: float, gate_deadline: float | None = None) -> Plan:
    gates = (Gate(Metric.ERROR_RATE, deadline_seconds=gate_deadline),)
    stages = tuple(
        Stage(share=share, gates=gates, bake_seconds=100, deadline_seconds=5000, control_percent=10 * (share == 100))
        for share in (5, 50, 100)
    )
    return Plan(Pattern.CANARY, stages, look_seconds=look, grace_seconds=grace, label_maturity_seconds=maturity)


def known(plan: Plan, spans: Spans, now: datetime) -> tuple[int, int]:
    """How many looks can be closed by now, and how many of them have matured."""
    grace, maturity = timedelta(seconds=plan.grace_seconds), timedelta(seconds=plan.label_maturity_seconds)
    ends = [
        w.end for opened, closed in spans.values() for w in windows(opened, min(closed or now, now), plan.look_seconds)
    ]
    return sum(end + grace <= now for end in ends), sum(end + grace + maturity <= now for end in ends)


@pytest.mark.parametrize("seed", range(25))
def test_it_is_the_first_time_that_anything_can_be_new(seed: int) -> None:
    rng = random.Random(seed)
    plan = plan_of(rng.choice([7.5, 30, 60, 61.3]), rng.choice([0, 2.25]), rng.choice([0, 90, 601.5]), 400)
    spans: Spans = {0: (T0, at(777.7)), 1: (at(777.7), None)}
    now, times = at(rng.uniform(780, 1100)), []
    verdict_times = [at(777.7 + seconds) for seconds in (100, 400, 5000)]

    while len(times) < 30:
        due = next_due(plan, 1, at(777.7), spans, now)
        assert due > now
        just_before = known(plan, spans, due - timedelta(microseconds=1))
        assert just_before == known(plan, spans, now)  # nothing was missed on the way
        assert due in verdict_times or known(plan, spans, due) != just_before  # and it is worth looking
        times.append(due)
        now = due


def test_a_rollout_that_has_ended_is_looked_at_until_its_last_labels_have_matured() -> None:
    plan = plan_of(60, 2, 600)
    spans: Spans = {0: (T0, at(300))}

    due = now = at(301)
    while due <= at(300 + 600 + 60 + 2):
        now, due = due, next_due(plan, 0, T0, spans, due)

    assert now == at(300 + 600 + 60 + 2)  # when `matured` says so


def test_before_the_first_look_it_is_the_first_look() -> None:
    assert next_due(plan_of(60, 2, 600), 0, T0, {0: (T0, None)}, T0) == at(62)
