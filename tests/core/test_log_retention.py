"""Which days of the log stay: what a rollout may still be judged by is never dropped."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from model_rollouts.core.drift_plan import DriftPlan
from model_rollouts.core.log_retention import kept
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Rollout, State
from model_rollouts.core.traffic import Traffic

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
TRAFFIC = Traffic(model="m", champion="2")


def rollout(state: State, began: float, ended: float | None = None, maturity: float = 0.0) -> Rollout:
    """A rollout that began, and ended, so many days ago."""
    plan = replace(plan_canary(CanaryParameters(label_coverage=0)), label_maturity_seconds=maturity)
    created, end = NOW - timedelta(days=began), None if ended is None else NOW - timedelta(days=ended)
    return Rollout("r1", "m", "1", "2", plan, state, 0, "salt", 1, created, "test", created, created, end)


def test_without_a_setting_everything_stays() -> None:
    assert kept(0, [], TRAFFIC, NOW).since is None


def test_old_days_go_where_no_rollout_needs_them() -> None:
    found = kept(10, [], TRAFFIC, NOW)
    assert (found.since, found.outcomes_since) == (date(2026, 6, 20), date(2026, 6, 19))


def test_a_model_that_the_store_does_not_know_loses_nothing() -> None:
    assert kept(10, [], None, NOW).since is None


@pytest.mark.parametrize("state", [State.PENDING, State.BAKING, State.HOLDING, State.CLEARED])
def test_an_active_rollout_holds_its_time_the_month_before_and_the_maturity_of_labels(state: State) -> None:
    found = kept(10, [rollout(state, began=20, maturity=5 * 86_400)], TRAFFIC, NOW)
    assert found.since == (NOW - timedelta(days=20 + 30 + 5 + 1)).date()
    assert "r1" in found.reason


def test_a_rollout_whose_drift_is_measured_from_longer_ago_holds_that_too() -> None:
    one = rollout(State.BAKING, began=20)
    plan = replace(one.plan, drift=DriftPlan(reference_seconds=90 * 86_400.0))
    assert kept(10, [replace(one, plan=plan)], TRAFFIC, NOW).since == (NOW - timedelta(days=20 + 90 + 1)).date()


def test_a_promotion_holds_its_time_for_as_long_as_the_old_champion_is_kept() -> None:
    promoted = rollout(State.PROMOTED, began=60, ended=50)
    assert kept(10, [promoted], TRAFFIC, NOW).since == date(2026, 6, 20)
    assert kept(10, [promoted], replace(TRAFFIC, previous="1"), NOW).since == (NOW - timedelta(days=91)).date()


def test_a_promotion_holds_its_time_until_keep_previous_would_be_over() -> None:
    assert kept(10, [rollout(State.PROMOTED, began=9, ended=6)], TRAFFIC, NOW).since == (NOW - timedelta(40)).date()
    assert kept(10, [rollout(State.PROMOTED, began=11, ended=8.1)], TRAFFIC, NOW).since == date(2026, 6, 20)


def test_an_ended_rollout_holds_its_time_until_its_labels_have_matured() -> None:
    thirty = 30 * 86_400
    assert kept(10, [rollout(State.ROLLED_BACK, 40, 29, thirty)], TRAFFIC, NOW).since == (NOW - timedelta(101)).date()
    assert kept(10, [rollout(State.ROLLED_BACK, 40, 32, thirty)], TRAFFIC, NOW).since == date(2026, 6, 20)


def test_a_longer_retention_is_not_shortened_by_a_rollout() -> None:
    assert kept(365, [rollout(State.BAKING, began=1)], TRAFFIC, NOW).since == (NOW - timedelta(365)).date()


def test_a_negative_retention_is_refused() -> None:
    with pytest.raises(ValueError, match="retention_days is -1"):
        kept(-1, [], TRAFFIC, NOW)
