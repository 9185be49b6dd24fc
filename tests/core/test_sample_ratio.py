"""Units dealt as the share says: exact under the null, and quick to see a leak."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from model_rollouts.core.decision import Action, decide
from model_rollouts.core.evidence import Look, RequestCounts
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.sample_ratio import CONCENTRATIONS, log_e_mismatch, log_e_mismatch_over
from model_rollouts.core.tallies.sample_ratio import SampleRatioTally
from model_rollouts.core.traffic import Traffic
from model_rollouts.core.unit_evidence import UnitCounts
from model_rollouts.gateway.routing import Arm, route

SHARES = [0.01, 0.05, 0.5, 0.9]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("n", [0, 1, 2, 30, 200])
def test_one_period_is_worth_exactly_1_when_units_are_dealt_as_planned(n: int, share: float) -> None:
    def expected(log_e: list[float]) -> float:
        return math.fsum(math.exp(binom.logpmf(k, n, share) + value) for k, value in enumerate(log_e))

    for concentration in CONCENTRATIONS:
        single = [log_e_mismatch(k, n - k, share, concentration) for k in range(n + 1)]
        assert expected(single) == pytest.approx(1, abs=1e-9)
    assert expected([log_e_mismatch_over([(k, n - k, share)]) for k in range(n + 1)]) == pytest.approx(1, abs=1e-9)


def test_two_periods_of_different_shares_are_worth_exactly_1_together() -> None:
    first, second = (12, 0.05), (9, 0.5)
    total = math.fsum(
        binom.pmf(k, *first)
        * binom.pmf(j, *second)
        * math.exp(log_e_mismatch_over([(k, 12 - k, 0.05), (j, 9 - j, 0.5)]))
        for k in range(13)
        for j in range(10)
    )
    assert total == pytest.approx(1, abs=1e-9)


def test_no_stopping_rule_gains_while_units_are_dealt_as_planned() -> None:
    """Backwards over every sequence of 14 units, the share raised after 7: the best that a gambler can do is 1."""

    def value(first: tuple[int, int], second: tuple[int, int]) -> float:
        now = math.exp(log_e_mismatch_over([(*first, 0.1), (*second, 0.5)]))
        (b, a), (d, c) = first, second
        if b + a < 7:
            return max(now, 0.1 * value((b + 1, a), second) + 0.9 * value((b, a + 1), second))
        if d + c < 7:
            return max(now, 0.5 * value(first, (d + 1, c)) + 0.5 * value(first, (d, c + 1)))
        return now

    assert value((0, 0), (0, 0)) <= 1 + 1e-9


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_it_is_the_ratio_of_the_mixture_to_the_plan(concentration: float) -> None:
    for k, n, share in ((0, 40, 0.05), (7, 60, 0.05), (60, 60, 0.5), (300, 1000, 0.25)):
        mixed = betabinom.logpmf(k, n, concentration * share, concentration * (1 - share))
        expected = mixed - binom.logpmf(k, n, share)
        assert log_e_mismatch(k, n - k, share, concentration) == pytest.approx(expected, abs=1e-8)


periods = st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 10**5), st.sampled_from(SHARES)), max_size=4)


@settings(derandomize=True, deadline=None)
@given(periods)
def test_the_order_of_the_periods_does_not_matter(given_periods: list[tuple[int, int, float]]) -> None:
    values = {log_e_mismatch_over(order) for order in permutations(given_periods)}
    assert max(values) - min(values) <= 1e-9 * max(1.0, abs(max(values)))


@settings(derandomize=True)
@given(st.integers(0, 10**4), st.integers(0, 10**4), st.floats(0.001, 0.999))
def test_it_does_not_matter_which_arm_is_called_the_challenger(b: int, a: int, share: float) -> None:
    here, there = log_e_mismatch_over([(b, a, share)]), log_e_mismatch_over([(a, b, 1 - share)])
    assert here == pytest.approx(there, rel=1e-7, abs=1e-7)


def test_no_units_are_no_evidence() -> None:
    assert log_e_mismatch_over([]) == 0
    assert log_e_mismatch_over([(0, 0, 0.05), (0, 0, 0.5)]) == 0


def test_a_leak_is_seen_and_a_fair_deal_is_not() -> None:
    threshold = math.log(1000)
    assert log_e_mismatch_over([(1000, 19_000, 0.05)]) < 0
    assert log_e_mismatch_over([(800, 19_200, 0.05)]) > threshold
    assert log_e_mismatch_over([(0, 400, 0.05)]) > threshold
    # a leak in one period is not outweighed by the innocence of another
    assert log_e_mismatch_over([(50, 950, 0.05), (4500, 5500, 0.5)]) > threshold


def test_the_further_from_the_plan_the_more_evidence() -> None:
    values = [log_e_mismatch_over([(500 + k, 500 - k, 0.5)]) for k in range(0, 500, 10)]
    assert values == sorted(values)


@pytest.mark.parametrize("share", SHARES)
def test_counts_of_a_large_service_stay_finite_and_believable(share: float) -> None:
    n = 10**9
    fair = round(n * share)
    at_plan = log_e_mismatch_over([(fair, n - fair, share)])
    assert -20 < at_plan < 0
    for b in (0, n, fair // 2):
        assert 1000 < log_e_mismatch_over([(b, n - b, share)] * 3) < math.inf
    # one standard error off is nothing, ten are a mismatch, whatever the rounding of the gamma function
    error = math.sqrt(n * share * (1 - share))
    assert log_e_mismatch_over([(fair + round(error), n - fair - round(error), share)]) < 0
    assert log_e_mismatch_over([(fair + round(10 * error), n - fair - round(10 * error), share)]) > math.log(1000)


def test_a_thousand_fair_rollouts_raise_the_alarm_at_most_as_often_as_promised() -> None:
    rng = np.random.default_rng(8)
    alarms = 0
    for _ in range(500):
        units = np.cumsum(rng.binomial(100, 0.05, 60))
        alarms += any(
            log_e_mismatch_over([(int(b), 100 * (k + 1) - int(b), 0.05)]) >= math.log(20) for k, b in enumerate(units)
        )
    assert alarms <= 500 * 0.05


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.1, math.nan])
def test_a_share_that_leaves_nothing_to_deal_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"share is {share}, must be between 0 and 1, both excluded"):
        log_e_mismatch_over([(1, 1, share)])


@pytest.mark.parametrize(("b", "a"), [(-1, 5), (5, -1)])
def test_negative_counts_are_refused(b: int, a: int) -> None:
    with pytest.raises(ValueError, match=f"units are {b} and {a}, must be at least 0"):
        log_e_mismatch(b, a, 0.5, 50.0)


# --- control groups


def dealt(stages: list[tuple[float, bool]], units: int = 20_000) -> list[Look]:
    """One look a stage, as the gateway deals: every unit comes in each stage, and is new where it first counts.

    Args:
        stages: Share in percent, and whether there is a control group.
        units: How many come.
    """
    seen: set[int] = set()
    looks = []
    for position, (share, grouped) in enumerate(stages):
        row = Traffic("m", "1", "2", share, 0.0, "r1", position, "salt", control_group=grouped)
        new = {Arm.CHALLENGER: 0, Arm.CHAMPION: 0}
        for unit in range(units):
            cohort = route(row, f"u{unit}", "", challenger_ready=True).cohort
            if cohort and unit not in seen:
                seen.add(unit)
                new[cohort] += 1
        counts = {arm: (RequestCounts(n), UnitCounts(new=n)) for arm, n in new.items()}
        (a, a_units), (b, b_units) = counts[Arm.CHAMPION], counts[Arm.CHALLENGER]
        looks.append(Look(position, 0, a, b, champion_units=a_units, challenger_units=b_units))
    return looks


def plan(stages: list[tuple[float, bool]]) -> Plan:
    gates = (Gate(Metric.ERROR_RATE), Gate(Metric.SAMPLE_RATIO, Role.SIGNAL))
    return Plan(Pattern.CANARY, tuple(Stage(share, gates, 60, 600, control_group=grouped) for share, grouped in stages))


GROUPED = [(1.0, True), (5.0, True), (25.0, True), (50.0, False)]


@pytest.mark.parametrize("stages", [GROUPED, [(s, s <= 50) for s in (10.0, 20.0, 50.0)], [(5.0, False), (50.0, False)]])
def test_units_dealt_to_control_groups_of_growing_shares_come_as_planned(stages: list[tuple[float, bool]]) -> None:
    looks = dealt(stages)
    made = plan(stages)
    for stage in range(len(stages)):
        signal = decide(made, stage, looks[: stage + 1], 30.0).gates[1].measured
        assert signal.log_e_harm < math.log(1000)
        assert signal.effect == pytest.approx(1, abs=0.15)
    planned = signal.detail
    assert planned is not None
    shares = [50.0 if grouped else share for share, grouped in stages]
    counted = [(k.champion_units, k.challenger_units) for k in looks]
    assert planned["planned_units"] == pytest.approx(
        sum((a.new + b.new) * share / 100 for (a, b), share in zip(counted, shares, strict=True) if a and b)
    )


def test_the_ratio_of_a_control_group_is_half_whatever_the_share() -> None:
    """1,000 of 20,000 is what a share of 5 % would bring without a group; with one it is a leak."""
    look = Look(
        0,
        0,
        RequestCounts(19_000),
        RequestCounts(1_000),
        champion_units=UnitCounts(new=19_000),
        challenger_units=UnitCounts(new=1_000),
    )
    for grouped, action in ((False, Action.WAIT), (True, Action.HOLD)):
        assert decide(plan([(5.0, grouped)]), 0, [look], 30.0).action is action


@pytest.mark.parametrize("lost", [Arm.CHAMPION, Arm.CHALLENGER])
def test_a_leak_out_of_either_half_of_a_control_group_is_seen(lost: Arm) -> None:
    (look,) = dealt([(10.0, True)])
    assert look.champion_units is not None
    assert look.challenger_units is not None
    new = {
        Arm.CHAMPION: look.champion_units.new,
        Arm.CHALLENGER: look.challenger_units.new,
    }
    new[lost] = round(0.8 * new[lost])
    tally = SampleRatioTally([50.0], 0)
    tally.add(
        [
            Look(
                0,
                0,
                RequestCounts(),
                RequestCounts(),
                champion_units=UnitCounts(new=new[Arm.CHAMPION]),
                challenger_units=UnitCounts(new=new[Arm.CHALLENGER]),
            )
        ]
    )
    assert tally.measure().log_e_harm > math.log(1000)


def test_a_share_above_half_after_a_control_group_would_be_taken_for_a_leak_which_is_why_no_plan_has_it() -> None:
    looks = dealt([(10.0, True), (60.0, False)])
    tally = SampleRatioTally([50.0, 60.0], 1)
    tally.add(looks)
    assert tally.measure().log_e_harm > math.log(1000)
