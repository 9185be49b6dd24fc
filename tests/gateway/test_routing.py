"""Assignment of rows to arms and cohorts."""

import pytest

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.routing import Arm, Route, route

BASE = {"model": "m", "champion": "1", "challenger": "2", "rollout_id": "r", "stage": 0, "salt": "salt"}
CHAMPION, CHALLENGER = Arm.CHAMPION, Arm.CHALLENGER
UNITS = [f"unit{i}" for i in range(2000)]


def traffic(**more: object) -> Traffic:
    return Traffic(**(BASE | more))  # type: ignore[arg-type]


def arms(share: float, **more: object) -> dict[str, Route]:
    row = traffic(share=share, **more)
    return {unit: route(row, unit, f"request of {unit}", challenger_ready=True) for unit in UNITS}


def test_without_a_rollout_the_champion_answers_and_nothing_is_evidence() -> None:
    assert route(Traffic("m", "1"), "u", "r", challenger_ready=False) == Route(CHAMPION, None)


def test_a_unit_keeps_its_arm_whatever_the_request() -> None:
    row = traffic(share=50.0)
    for unit in UNITS[:100]:
        assert len({route(row, unit, f"request{i}", challenger_ready=True) for i in range(5)}) == 1


def test_units_only_move_towards_the_challenger_as_the_share_grows() -> None:
    before = arms(5.0)
    for share in (25.0, 50.0, 100.0):
        now = arms(share)
        assert all(now[u].arm is CHALLENGER for u in UNITS if before[u].arm is CHALLENGER)
        assert abs(sum(r.arm is CHALLENGER for r in now.values()) / len(UNITS) * 100 - share) < 4
        before = now


def test_arm_is_cohort_below_a_share_of_100() -> None:
    assert all(r.arm is r.cohort and not r.control for r in arms(50.0).values())


def test_a_request_of_nobody_is_dealt_by_its_own_id() -> None:
    row = traffic(share=50.0)
    for i in range(50):
        assert route(row, None, f"id{i}", challenger_ready=True) == route(row, f"id{i}", "x", challenger_ready=True)


@pytest.mark.parametrize("share", [0.0, 5.0, 50.0, 100.0])
def test_while_the_challenger_is_not_loaded_nobody_is_evidence_for_either_side(share: float) -> None:
    away = traffic(share=share, control_percent=50.0)
    for unit in UNITS[:200]:
        assert route(away, unit, f"request of {unit}", challenger_ready=False) == Route(CHAMPION, None)


def test_at_100_percent_a_random_control_sample_counts_as_the_champions() -> None:
    routes = arms(100.0, control_percent=10.0)
    control = {u for u, r in routes.items() if r.control}
    assert abs(len(control) / len(UNITS) - 0.1) < 0.03
    assert all(routes[u] == Route(CHALLENGER, CHAMPION, control=True) for u in control)
    assert all(routes[u] == Route(CHALLENGER, CHALLENGER) for u in UNITS if u not in control)
