"""What is told before a stage begins, held against simulated rollouts."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc, betaln

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.odds_ratio import (
    Stratum,
    better_than,
    count_log_likelihood_ratios,
    log_e_process,
    worse_than,
)
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.power import POWER, need
from model_rollouts.core.stage_power import StagePower, plan_power, shortfall
from model_rollouts.core.verdict import GateResult, Measured, Verdict

Floats = npt.NDArray[np.float64]
ALPHA, BETA = 0.0025, 0.05
ROLLOUTS, LOOKS = 250, 100
CASES = [(rate, share) for rate in (0.005, 0.02, 0.1) for share in (0.05, 0.25, 0.5)]


def simulated(
    seed: int, rate: float, odds_ratio: float, share: float, a_look: int, null: float, grid: tuple[float, ...]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Log e-value and challenger's bad count after each look, shape (rollouts, looks)."""
    rng = np.random.default_rng(seed)
    shape, champion_n = (ROLLOUTS, LOOKS), round(a_look * (1 - share) / share)
    odds = odds_ratio * rate / (1 - rate)
    bad, champion_bad = rng.binomial(a_look, odds / (1 + odds), shape), rng.binomial(champion_n, rate, shape)
    sizes = np.broadcast_to([[a_look], [champion_n]], (2, bad.size))
    counts = np.stack([bad.ravel(), sizes[0], champion_bad.ravel(), sizes[1]], axis=1).astype(np.int64)
    gains = count_log_likelihood_ratios(counts, null, grid).reshape(*shape, -1).cumsum(axis=1)
    return np.logaddexp.reduce(gains, axis=2) - math.log(len(grid)), bad.cumsum(axis=1)


def log_e_below(bad: npt.NDArray[np.int64], a_look: int, ceiling: float) -> Floats:
    """`log_e_rate_below` for arrays."""
    good = a_look * np.arange(1, LOOKS + 1) - bad
    mass = np.log(betainc(1.0 + bad, 1.0 + good, ceiling)) + betaln(1.0 + bad, 1.0 + good)
    result: Floats = mass - math.log(ceiling) - bad * math.log(ceiling) - good * math.log1p(-ceiling)
    return result


def stopped(log_e: Floats, a_look: int, level: float) -> float:
    """Challenger requests by which the wanted part of the rollouts has stopped."""
    hit = log_e >= -math.log(level)
    look = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 10**9)
    return float(np.quantile(look, POWER, method="higher")) * a_look


def a_look_for(told: float | None) -> int:
    assert told is not None
    return max(1, round(told / 40))


@pytest.mark.parametrize("pass_odds", [1.5, 4.0])
@pytest.mark.parametrize(("rate", "share"), CASES)
def test_the_requests_to_pass_are_those_of_simulated_rollouts(rate: float, share: float, pass_odds: float) -> None:
    told = need(Gate(Metric.ERROR_RATE, pass_odds=pass_odds, min_requests=1), rate, share, ALPHA, BETA).to_pass
    a_look = a_look_for(told)
    log_e, _ = simulated(1, rate, 1.0, share, a_look, pass_odds, better_than(pass_odds))
    assert told == pytest.approx(stopped(log_e, a_look, BETA), rel=0.3)


@pytest.mark.parametrize("rollback_odds", [1.0, 1.25, 1.5])
@pytest.mark.parametrize(("rate", "share"), CASES)
def test_the_requests_to_fail_are_those_of_simulated_rollouts(rate: float, share: float, rollback_odds: float) -> None:
    told = need(Gate(Metric.ERROR_RATE, rollback_odds=rollback_odds, pass_odds=4), rate, share, ALPHA, BETA).to_fail
    a_look = a_look_for(told)
    log_e, _ = simulated(2, rate, 2.0, share, a_look, rollback_odds, worse_than(rollback_odds))
    assert told == pytest.approx(stopped(log_e, a_look, ALPHA), rel=0.3)


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("metric", [Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.LATENCY_P99])
def test_latency_gates_know_their_rate(metric: Metric, share: float) -> None:
    told = need(Gate(metric, min_requests=1), 0.0, share, ALPHA, BETA)
    assert metric.quantile is not None
    rate = 1 - metric.quantile
    a_look = a_look_for(told.to_pass)
    log_e, _ = simulated(3, rate, 1.0, share, a_look, 1.5, better_than(1.5))
    assert told.to_pass == pytest.approx(stopped(log_e, a_look, BETA), rel=0.3)


@pytest.mark.parametrize("pass_odds", [1.5, 4.0])
@pytest.mark.parametrize("rate", [0.001, 0.005, 0.03])
def test_a_negligible_rate_is_proof_too(rate: float, pass_odds: float) -> None:
    """The mean of the two e-values, as the gate takes it."""
    gate = Gate(Metric.ERROR_RATE, pass_odds=pass_odds, negligible=0.02, min_requests=1)
    told = need(gate, rate, 0.25, ALPHA, BETA).to_pass
    a_look = a_look_for(told)
    by_ratio, bad = simulated(4, rate, 1.0, 0.25, a_look, pass_odds, better_than(pass_odds))
    log_e = np.logaddexp(by_ratio, log_e_below(bad, a_look, 0.02)) - math.log(2)
    assert told == pytest.approx(stopped(log_e, a_look, BETA), rel=0.3)


def test_a_negligible_rate_helps_where_there_is_little_to_compare_and_costs_little_where_there_is_much() -> None:
    def to_pass(rate: float, negligible: float | None) -> float:
        found = need(Gate(Metric.ERROR_RATE, negligible=negligible), rate, 0.25, ALPHA, BETA).to_pass
        assert found is not None
        return found

    assert to_pass(0.002, 0.02) < to_pass(0.002, None) / 20
    assert to_pass(0.1, None) < to_pass(0.1, 0.02) < 1.3 * to_pass(0.1, None)


@pytest.mark.parametrize("floor", [0.9, 0.98, 0.999])
def test_the_pairs_that_prove_agreement_are_those_of_simulated_rollouts(floor: float) -> None:
    """A good challenger is one that disagrees a quarter as often as it may."""
    told = need(Gate(Metric.AGREEMENT, Role.OBJECTIVE, floor=floor, min_requests=1), 0.0, 0.5, ALPHA, BETA)
    assert told.to_fail is None
    a_look = a_look_for(told.to_pass)
    bad = np.random.default_rng(5).binomial(a_look, (1 - floor) / 4, (ROLLOUTS, LOOKS)).cumsum(axis=1)
    assert told.to_pass == pytest.approx(stopped(log_e_below(bad, a_look, 1 - floor), a_look, BETA), rel=0.3)


def test_repeat_requests_stretch_what_is_needed() -> None:
    gate = Gate(Metric.ERROR_RATE, negligible=0.02)
    one, four = (need(gate, 0.01, 0.25, ALPHA, BETA, effect) for effect in (1.0, 4.0))
    assert one.to_pass is not None
    assert one.to_fail is not None
    assert (four.to_pass, four.to_fail) == (4 * one.to_pass, 4 * one.to_fail)


def test_no_gate_passes_below_its_least_number_of_requests() -> None:
    gate = Gate(Metric.ERROR_RATE, pass_odds=1000, min_requests=5000)
    assert need(gate, 0.1, 0.25, ALPHA, BETA).to_pass == 5000
    assert need(Gate(Metric.AGREEMENT, min_requests=5000), 0.1, 0.25, ALPHA, BETA).to_pass == 5000


def test_what_has_nothing_to_prove_needs_its_minimum_alone_and_what_holds_nothing_up_needs_nothing() -> None:
    told = need(Gate(Metric.ERROR_RATE, Role.TRIPWIRE, min_requests=30), 0.02, 0.25, ALPHA, BETA)
    assert told.to_pass == 30
    assert need(Gate(Metric.ERROR_RATE, Role.SIGNAL), 0.02, 0.25, ALPHA, BETA).to_pass == 0
    assert told.to_fail == need(Gate(Metric.ERROR_RATE), 0.02, 0.25, ALPHA, BETA).to_fail


def test_of_other_metrics_nothing_is_known_beforehand() -> None:
    value = Gate(Metric.VALUE, Role.OBJECTIVE)
    told = need(value, 0.02, 0.25, ALPHA, BETA)
    assert (told.to_pass, told.to_fail) == (None, None)
    assert need(replace(value, role=Role.TRIPWIRE), 0.02, 0.25, ALPHA, BETA).to_pass == value.min_requests


@pytest.mark.parametrize("pass_odds", [1.05, 1.1])
def test_a_margin_too_tight_for_the_grid_is_never_proven_and_that_is_told(pass_odds: float) -> None:
    gate = Gate(Metric.ERROR_RATE, rollback_odds=1, pass_odds=pass_odds)
    assert need(gate, 0.1, 0.5, ALPHA, BETA).to_pass is None
    many = Stratum(10**6, 10**7, 10**6, 10**7)
    assert log_e_process([many], pass_odds, better_than(pass_odds)) < 0


@pytest.mark.parametrize("rollback_odds", [1.9, 2.0, 5.0])
def test_twice_the_odds_are_never_seen_as_harm_beyond_a_margin_near_or_above_them(rollback_odds: float) -> None:
    gate = Gate(Metric.ERROR_RATE, rollback_odds=rollback_odds, pass_odds=10)
    assert need(gate, 0.1, 0.5, ALPHA, BETA).to_fail is None
    odds = Stratum(2 * 10**6, 12 * 10**6, 10**6, 11 * 10**6)  # 0.2 against 0.1
    assert log_e_process([odds], rollback_odds, worse_than(rollback_odds)) < 0


@settings(derandomize=True, deadline=None)
@given(
    st.sampled_from([Metric.ERROR_RATE, Metric.LATENCY_P99, Metric.AGREEMENT]),
    st.floats(0, 1),
    st.floats(1e-6, 1 - 1e-6),
    st.floats(1e-6, 0.2),
    st.floats(1, 1e4),
    st.none() | st.floats(1e-6, 0.999),
)
def test_it_is_a_positive_number_or_none(
    metric: Metric, rate: float, share: float, level: float, effect: float, negligible: float | None
) -> None:
    gate = Gate(metric) if metric is Metric.AGREEMENT else Gate(metric, negligible=negligible)
    told = need(gate, rate, share, level, level, effect)
    for value in (told.to_pass, told.to_fail):
        assert value is None or 0 < value < math.inf


def test_an_unlucky_path_of_a_high_rate_has_no_more_bad_outcomes_than_requests() -> None:
    assert (need(Gate(Metric.ERROR_RATE, negligible=0.99), 0.9, 0.25, ALPHA, BETA).to_pass or 0) > 20


def test_a_rate_that_was_never_seen_is_taken_for_a_rare_one() -> None:
    gate = Gate(Metric.ERROR_RATE)
    assert need(gate, 0.0, 0.25, ALPHA, BETA) == need(gate, 1e-4, 0.25, ALPHA, BETA)


def test_the_stricter_the_level_and_the_smaller_the_champions_part_the_more_is_needed() -> None:
    gate = Gate(Metric.ERROR_RATE)
    by_level = [need(gate, 0.02, 0.25, level, level).to_pass or 0.0 for level in (0.2, 0.05, 0.01, 1e-6)]
    by_share = [need(gate, 0.02, share, ALPHA, BETA).to_fail or 0.0 for share in (0.01, 0.25, 0.5, 0.9, 0.999)]
    assert by_level == sorted(set(by_level))
    assert by_share == sorted(set(by_share))


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate is {rate}, must be between 0 and 1"):
        need(Gate(Metric.ERROR_RATE), rate, 0.5, ALPHA, BETA)


@pytest.mark.parametrize("share", [0, 1, -0.1, math.nan])
def test_a_share_that_leaves_nothing_to_compare_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"share is {share}, must be between 0 and 1, both excluded"):
        need(Gate(Metric.ERROR_RATE), 0.02, share, ALPHA, BETA)


# --- stages, before they begin

DAY = 86_400.0
TRAFFIC = Baseline(864_000, 17_280, DAY, 800_000, 640_000, 64_000, 5_000, 0, None, None)  # 10 a second, 2 % errors
ERRORS, WRONG = Gate(Metric.ERROR_RATE), Gate(Metric.WRONG_RATE)


def plan(*gates: Gate, share: float = 10, deadline: float = DAY, **values: Any) -> Plan:
    control = {0: {"mirror_percent": 100.0}, 100: {"control_percent": 10.0}}.get(share, {})
    return Plan(Pattern.CANARY, (Stage(share, gates, 60, deadline, **control),), **values)


def power(*gates: Gate, baseline: Baseline = TRAFFIC, **values: Any) -> StagePower:
    return plan_power(plan(*gates, **values), baseline)[0]


def test_the_time_to_pass_is_the_need_at_the_measured_traffic_and_the_delay_of_a_look() -> None:
    made = plan(ERRORS, look_seconds=30, grace_seconds=5)
    found = plan_power(made, TRAFFIC)[0]
    (gate,) = found.gates
    assert found.requests_per_second == pytest.approx(1.0)
    assert gate.need == need(ERRORS, 0.02, 0.1, made.alpha, made.beta)
    assert gate.need.to_pass is not None
    assert gate.need.to_fail is not None
    assert gate.seconds_to_pass == pytest.approx(gate.need.to_pass / 1.0 + 35)
    assert gate.seconds_to_fail == pytest.approx(gate.need.to_fail / 1.0 + 35)
    assert not found.underpowered
    assert found.summary == "at 10 %, 1 challenger requests a second: a proof takes about 60 min (error_rate)"


def test_a_gate_is_told_at_its_own_part_of_the_errors_that_the_plan_allows() -> None:
    gates = power(ERRORS, replace(WRONG, beta=0.001)).gates
    assert gates[0].need == need(ERRORS, 0.02, 0.1, 0.005, 0.05)
    assert gates[1].need == need(replace(WRONG, beta=0.001), 0.1, 0.1, 0.005, 0.001)


def test_labels_come_later_and_not_for_every_request() -> None:
    """8 of 10 have one."""
    gate = power(WRONG, look_seconds=30, grace_seconds=5, label_maturity_seconds=7200).gates[0]
    assert gate.need.to_pass is not None
    assert gate.seconds_to_pass == pytest.approx(gate.need.to_pass / 0.8 + 35 + 7200)


def test_without_labels_a_gate_on_them_is_underpowered() -> None:
    for baseline in (replace(TRAFFIC, labelled=0, wrong=0), replace(TRAFFIC, due=0, labelled=0, wrong=0)):
        found = power(WRONG, baseline=baseline)
        assert found.underpowered
        assert found.gates[0].seconds_to_pass is None
        assert "wrong_rate takes for ever and has 24 h" in found.summary


@pytest.mark.parametrize("share", [0, 10, 100])
def test_no_traffic_is_underpowered_and_never_a_pass(share: float) -> None:
    nothing = Baseline(0, 0, DAY, 0, 0, 0, 0, 0, None, None)
    found = power(ERRORS, Gate(Metric.LATENCY_P95, Role.TRIPWIRE), share=share, baseline=nothing)
    assert found.underpowered
    assert found.gates == ()
    assert found.summary == f"at {share} %: underpowered, no traffic was logged to measure by"


def test_a_stage_is_underpowered_exactly_when_the_proof_comes_after_the_deadline() -> None:
    seconds = power(ERRORS).gates[0].seconds_to_pass
    assert seconds is not None
    assert not power(ERRORS, deadline=seconds).underpowered
    late = power(ERRORS, deadline=seconds * 0.99)
    assert late.underpowered
    assert late.gates[0].underpowered
    assert "underpowered, error_rate takes 61 min and has 60 min" in late.summary


def test_a_gates_own_deadline_counts_before_the_stages() -> None:
    found = power(replace(ERRORS, deadline_seconds=600), replace(WRONG, role=Role.TRIPWIRE))
    assert found.underpowered
    assert [gate.underpowered for gate in found.gates] == [True, False]
    assert "error_rate takes 61 min and has 10 min" in found.summary


def test_a_margin_that_no_traffic_can_prove_is_underpowered() -> None:
    found = power(replace(ERRORS, rollback_odds=1.0, pass_odds=1.1))
    assert found.underpowered
    assert "error_rate takes for ever" in found.summary


def test_what_has_nothing_to_prove_still_needs_its_minimum_in_time() -> None:
    wire = replace(ERRORS, role=Role.TRIPWIRE)
    assert power(wire, deadline=61).underpowered
    assert not power(wire, deadline=90).underpowered
    signal = power(Gate(Metric.LATENCY_P95), replace(ERRORS, role=Role.SIGNAL, min_requests=10**6))
    assert not signal.underpowered
    assert signal.gates[1].seconds_to_pass == 0


def test_metrics_that_nothing_is_known_of_and_muted_gates_are_left_out() -> None:
    gates = (
        ERRORS,
        replace(WRONG, role=Role.MUTED),
        Gate(Metric.VALUE, Role.OBJECTIVE),
        Gate(Metric.SAMPLE_RATIO, Role.SIGNAL),
    )
    assert [gate.need.metric for gate in power(*gates).gates] == [Metric.ERROR_RATE]


@pytest.mark.parametrize(("share", "part", "judged"), [(0, 1.0, 0.5), (10, 0.1, 0.1), (100, 0.9, 0.9)])
def test_each_kind_of_stage_knows_its_part_of_the_traffic(share: float, part: float, judged: float) -> None:
    """In shadow every request is answered by both; at 100 % the control percentage stays with the champion."""
    found = power(ERRORS, share=share)
    assert found.requests_per_second == pytest.approx(10 * part)
    assert found.gates[0].need == need(ERRORS, 0.02, judged, 0.01, 0.05)


def staged(setting: Stage, baseline: Baseline = TRAFFIC) -> StagePower:
    return plan_power(Plan(Pattern.CANARY, (setting,)), baseline)[0]


@pytest.mark.parametrize(("mirror", "judged"), [(100.0, 1 / 2), (25.0, 0.25 / 1.25), (1.0, 0.01 / 1.01)])
def test_of_mirrored_requests_the_challenger_judges_a_part_and_the_champion_all(mirror: float, judged: float) -> None:
    found = staged(Stage(0, (ERRORS,), 60, DAY, mirror_percent=mirror))
    assert found.requests_per_second == pytest.approx(10 * mirror / 100)
    assert found.gates[0].need == need(ERRORS, 0.02, judged, 0.01, 0.05)


def test_an_offline_stage_scores_every_logged_request() -> None:
    found = staged(Stage(0, (ERRORS,), 0, DAY, offline=True))
    assert found.requests_per_second == pytest.approx(10)
    assert found.gates[0].need == need(ERRORS, 0.02, 0.5, 0.01, 0.05)


@pytest.mark.parametrize("share", [1.0, 10.0, 50.0])
def test_a_control_group_judges_as_many_of_the_champions_as_of_the_challengers(share: float) -> None:
    """Fewer to compare with: it takes longer than against everybody else, never less."""
    alone = staged(Stage(share, (ERRORS,), 60, DAY))
    grouped = staged(Stage(share, (ERRORS,), 60, DAY, control_group=True))
    assert grouped.requests_per_second == alone.requests_per_second == pytest.approx(10 * share / 100)
    assert grouped.gates[0].need == need(ERRORS, 0.02, 0.5, 0.01, 0.05)
    assert (grouped.gates[0].need.to_pass or 0) >= (alone.gates[0].need.to_pass or 0) > 0


def test_a_mirrored_share_without_any_error_can_not_prove_more_than_its_units() -> None:
    clean = replace(TRAFFIC, errors=0, units=2_000)
    gate = replace(ERRORS, negligible=0.02)
    few, all_ = (staged(Stage(0, (gate,), 60, DAY, mirror_percent=m), clean) for m in (5.0, 100.0))
    assert "units, the share has 100" in few.summary
    assert not all_.underpowered


@pytest.mark.parametrize(
    "baseline", [TRAFFIC, replace(TRAFFIC, due=0, labelled=0, wrong=0), replace(TRAFFIC, seconds=1e300)]
)
@pytest.mark.parametrize("share", [0, 10, 100])
def test_it_is_json_without_what_json_has_no_word_for(baseline: Baseline, share: float) -> None:
    both = () if 0 < share < 100 else (Gate(Metric.AGREEMENT, Role.OBJECTIVE),)
    gates = (replace(ERRORS, rollback_odds=1.0, pass_odds=1.1), WRONG, *both)
    data = power(*gates, share=share, baseline=baseline).to_dict()
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again["share"] == share
    assert again["underpowered"] is True
    assert again["gates"][0]["need"]["to_pass"] is None
    assert all(gate["need"]["to_pass"] > 0 for gate in again["gates"][2:])


def test_infinite_numbers_become_none() -> None:
    found = power(ERRORS)
    gate = found.gates[0]
    endless = replace(gate, need=replace(gate.need, to_pass=math.inf), seconds_to_fail=math.inf)
    data = replace(found, gates=(endless,)).to_dict()["gates"][0]
    assert (data["need"]["to_pass"], data["seconds_to_fail"]) == (None, None)
    assert data["need"]["to_fail"] == gate.need.to_fail


# --- while a stage runs


def result(gate: Gate, stage_n: int, verdict: Verdict = Verdict.WAIT, **values: Any) -> tuple[Gate, GateResult]:
    numbers = {"challenger_bad": 0, "challenger_n": stage_n, "champion_bad": 200, "champion_n": 10_000} | values
    measured = Measured(effect=None, log_e_harm=0.0, log_e_pass=0.0, stage_n=stage_n, **numbers)
    return gate, GateResult(gate.metric, gate.role, verdict, "", measured, 5.0, 3.0)


QUICK: dict[str, Any] = {"look_seconds": 30.0, "grace_seconds": 5.0, "label_maturity_seconds": 1000.0}


def to_pass(gate: Gate, made: Plan, effect: float = 1.0) -> float:
    found = need(gate, 0.02, 0.1, made.alpha_of(0, gate), made.beta_of(gate), effect).to_pass
    assert found is not None
    return found


@pytest.mark.parametrize("effect", [1.0, 3.0])
@pytest.mark.parametrize(("gate", "delay"), [(ERRORS, 35.0), (WRONG, 1035.0)])
@pytest.mark.parametrize(("hurry", "short"), [(1.01, True), (0.99, False)])
def test_it_speaks_up_exactly_when_the_proof_would_come_after_the_deadline(
    gate: Gate, delay: float, hurry: float, short: bool, effect: float
) -> None:
    """Half an hour in, 500 requests judged: the rest comes at the speed of those 500."""
    elapsed, seen = 2800.0, 500
    comes = elapsed + (to_pass(gate, plan(gate), effect) - seen) / (seen / (elapsed - delay))
    made = plan(gate, deadline=comes / hurry, **QUICK)
    said = shortfall(made, 0, [result(gate, seen, design_effect=effect)], elapsed)
    assert bool(said) is short
    if short:
        missing = to_pass(gate, made, effect) - seen
        assert said.startswith(f"underpowered: {gate.metric} needs about {missing:,.0f} more requests, ")
        assert "at this traffic, and" in said


def test_a_gates_own_deadline_is_the_one_that_counts_while_it_runs() -> None:
    quick = replace(ERRORS, deadline_seconds=2000)
    assert shortfall(plan(ERRORS, **QUICK), 0, [result(ERRORS, 1000)], 1000) == ""
    assert shortfall(plan(quick, **QUICK), 0, [result(quick, 1000)], 1000).endswith("and 17 min are left")


@pytest.mark.parametrize("seen", [5, 10**7])
def test_a_gates_own_deadline_that_is_past_leaves_nothing_to_wait_for(seen: int) -> None:
    quick = replace(ERRORS, deadline_seconds=500)
    assert shortfall(plan(quick, **QUICK), 0, [result(quick, seen)], 1000) == ""


def test_a_champion_without_judged_requests_is_taken_for_one_without_errors() -> None:
    none, rare = (result(ERRORS, 50, champion_bad=0, champion_n=n) for n in (0, 100))
    said = shortfall(plan(ERRORS, **QUICK), 0, [none], 1000)
    assert said
    assert said == shortfall(plan(ERRORS, **QUICK), 0, [rare], 1000)


def test_no_judged_requests_have_no_end() -> None:
    said = shortfall(plan(ERRORS, **QUICK), 0, [result(ERRORS, 0)], 1000)
    assert "more requests, no end at this traffic" in said


def test_a_margin_that_no_number_of_requests_can_prove_is_said() -> None:
    gate = replace(ERRORS, rollback_odds=1.0, pass_odds=1.1)
    said = shortfall(plan(gate, **QUICK), 0, [result(gate, 500)], 1000)
    assert said == "underpowered: error_rate can't be proven by any number of requests"


@pytest.mark.parametrize(
    ("results", "elapsed"),
    [
        ([result(ERRORS, 0)], 59.0),
        ([result(ERRORS, 0)], DAY),
        ([result(ERRORS, 0)], DAY + 1),
        ([result(WRONG, 0)], 1035.0),
        ([result(ERRORS, 0, Verdict.PASS)], 1000.0),
        ([result(ERRORS, 0, Verdict.FAIL)], 1000.0),
        ([result(ERRORS, 0, Verdict.PASS), result(Gate(Metric.LATENCY_P95, Role.SIGNAL), 0)], 1000.0),
        ([result(Gate(Metric.VALUE, Role.OBJECTIVE), 0)], 2000.0),
        ([result(ERRORS, 10**7)], 1000.0),
        ([], 1000.0),
    ],
    ids=[
        "baking",
        "at the deadline",
        "past it",
        "no label is due yet",
        "passed",
        "failed",
        "nothing to prove",
        "nothing known of it",
        "more than is needed",
        "no gates",
    ],
)
def test_where_there_is_nothing_to_wait_for_it_is_silent(
    results: list[tuple[Gate, GateResult]], elapsed: float
) -> None:
    gates = tuple(gate for gate, _ in results) or (ERRORS,)
    made = plan(*gates, **QUICK)
    if gates[0].metric is Metric.VALUE:
        made = plan(*gates, Gate(Metric.LATENCY_P95), **QUICK)
    assert shortfall(made, 0, results, elapsed) == ""


@pytest.mark.parametrize(
    ("setting", "judged"),
    [
        (Stage(10, (ERRORS,), 60, DAY, control_group=True), 0.5),
        (Stage(0, (ERRORS,), 60, DAY, mirror_percent=25), 0.2),
        (Stage(0, (ERRORS,), 0, DAY, offline=True), 0.5),
    ],
    ids=["control group", "mirrored", "offline"],
)
def test_while_it_runs_the_same_part_of_the_requests_is_reckoned_with(setting: Stage, judged: float) -> None:
    made = Plan(Pattern.CANARY, (setting,), **QUICK)
    wanted = need(ERRORS, 0.02, judged, 0.01, 0.05).to_pass
    assert wanted is not None
    said = shortfall(made, 0, [result(ERRORS, 20)], 40_000)
    assert f"error_rate needs about {wanted - 20:,.0f} more requests" in said


def test_all_that_will_be_late_is_named() -> None:
    said = shortfall(plan(ERRORS, WRONG, **QUICK), 0, [result(ERRORS, 5), result(WRONG, 5)], 2000)
    assert said.count("more requests") == 2
    assert said.index("error_rate") < said.index("; wrong_rate")


def test_without_any_error_a_share_can_not_prove_more_than_its_units_are_worth() -> None:
    """Whether failures go by unit is not known before there is one."""
    clean = replace(TRAFFIC, errors=0, units=500)
    gate = replace(ERRORS, negligible=0.05)
    found = plan_power(plan(gate, deadline=86_400), clean)[0]
    assert found.underpowered
    assert re.search(r"error_rate needs \d+ units, the share has 50", found.summary), found.summary
    assert not plan_power(plan(gate, deadline=86_400), replace(clean, units=5_000))[0].underpowered
    assert not plan_power(plan(gate, deadline=86_400), replace(clean, errors=100))[0].underpowered
