"""Assignment of rows to arms and cohorts."""

from itertools import pairwise

import pytest

from model_rollouts.core.bucketing import position
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


def test_at_a_share_of_0_the_champion_answers_and_counts_and_a_random_sample_is_mirrored() -> None:
    routes = arms(0.0, mirror_percent=20.0)
    mirrored = {u for u, r in routes.items() if r.mirror}
    assert abs(len(mirrored) / len(UNITS) - 0.2) < 0.03
    assert all(routes[u] == Route(CHAMPION, CHAMPION, mirror=u in mirrored) for u in UNITS)


def test_the_mirrored_sample_is_dealt_by_request_and_only_grows_with_its_percentage() -> None:
    before: set[str] = set()
    for percent in (0.0, 5.0, 50.0, 100.0):
        row = traffic(mirror_percent=percent)
        now = {f"r{i}" for i in range(500) if route(row, "one unit", f"r{i}", challenger_ready=True).mirror}
        assert before <= now
        assert abs(len(now) / 5 - percent) < 5
        before = now
    assert len(before) == 500


@pytest.mark.parametrize("share", [0.0, 50.0, 100.0])
def test_before_the_first_stage_opens_nothing_is_evidence_and_nothing_is_mirrored(share: float) -> None:
    leased = traffic(share=share, stage=None, mirror_percent=100.0, control_percent=50.0)
    for unit in UNITS[:200]:
        assert route(leased, unit, f"request of {unit}", challenger_ready=True) == Route(CHAMPION, None)


@pytest.mark.parametrize("share", [0.0, 5.0, 50.0, 100.0])
def test_a_drill_which_is_of_no_rollout_brings_no_evidence(share: float) -> None:
    drill = traffic(share=share, rollout_id=None, mirror_percent=100.0, control_percent=50.0)
    assert all(route(drill, u, u, challenger_ready=True) == Route(CHAMPION, None) for u in UNITS[:200])


@pytest.mark.parametrize("share", [1.0, 10.0, 50.0])
def test_a_control_group_is_as_large_as_the_challengers_and_nobody_else_counts(share: float) -> None:
    plain, grouped = arms(share), arms(share, control_group=True)
    assert {u: r.arm for u, r in plain.items()} == {u: r.arm for u, r in grouped.items()}, "answers are the same"
    counted = {cohort: {u for u, r in grouped.items() if r.cohort is cohort} for cohort in (CHAMPION, CHALLENGER, None)}
    assert counted[CHALLENGER] == {u for u in UNITS if grouped[u].arm is CHALLENGER}
    assert counted[CHAMPION] == {u for u in UNITS if position("salt", u) >= 100 - share}
    assert abs(len(counted[CHAMPION]) - len(counted[CHALLENGER])) < 0.05 * len(UNITS)
    assert all(grouped[u] == Route(CHAMPION, None) for u in counted[None])
    assert bool(counted[None]) == (share < 50)


def test_a_control_group_only_grows_with_the_share_and_never_meets_the_challengers() -> None:
    groups = []
    for share in (1.0, 10.0, 25.0, 50.0):
        routes = arms(share, control_group=True)
        groups.append({c: {u for u in UNITS if routes[u].cohort is c} for c in (CHAMPION, CHALLENGER)})
    for small, large in pairwise(groups):
        assert small[CHAMPION] <= large[CHAMPION]
        assert not small[CHAMPION] & large[CHALLENGER]
