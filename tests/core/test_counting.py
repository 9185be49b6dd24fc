"""Latency thresholds are fixed before their look begins, and never to the challenger's disadvantage."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.counting import strata_of
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts, latency_bin, latency_edge_ms
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.odds_ratio import Stratum, log_e_path, worse_than

P95 = Gate(Metric.LATENCY_P95)
NOTHING = Stratum(0, 0, 0, 0)
histograms = st.dictionaries(st.integers(0, 60), st.integers(1, 400), max_size=6)


def arm(histogram: Mapping[int, int]) -> RequestCounts:
    return RequestCounts(sum(histogram.values()), 0, histogram)


def look(index: int, champion: Mapping[int, int], challenger: Mapping[int, int]) -> Look:
    return Look(0, index, arm(champion), arm(challenger))


def binned(latencies_ms: np.ndarray) -> dict[int, int]:
    indices, counts = np.unique([latency_bin(float(ms)) for ms in latencies_ms], return_counts=True)
    return {int(i): int(c) for i, c in zip(indices, counts, strict=True)}


def test_errors_and_wrong_answers_are_counted_as_they_are() -> None:
    seen = Look(0, 0, RequestCounts(90, 3), RequestCounts(10, 2), LabelCounts(87, 80, 8), LabelCounts(8, 7, 1))
    unripe = Look(0, 1, RequestCounts(50, 1), RequestCounts(5, 0))
    assert strata_of(Gate(Metric.ERROR_RATE), [seen, unripe]) == [Stratum(2, 10, 3, 90), Stratum(0, 5, 1, 50)]
    assert strata_of(Gate(Metric.WRONG_RATE), [seen, unripe]) == [Stratum(1, 7, 8, 80), NOTHING]


@pytest.mark.parametrize(("metric", "needed"), [(Metric.LATENCY_P95, 200), (Metric.LATENCY_P99, 1000)])
def test_looks_say_nothing_before_the_quantile_can_be_told(metric: Metric, needed: int) -> None:
    first, short = {10: needed}, {10: needed - 1}
    late = look(1, {10: 5, 20: 5}, {20: 4})
    assert strata_of(Gate(metric), [look(0, first, {30: 9}), late]) == [NOTHING, Stratum(4, 4, 5, 10)]
    assert strata_of(Gate(metric), [look(0, short, {30: 9}), late]) == [NOTHING, NOTHING]


@settings(derandomize=True)
@given(st.lists(st.tuples(histograms, histograms), min_size=2, max_size=6), histograms, st.data())
def test_a_look_is_cut_where_earlier_looks_say_whatever_comes_in_it_or_after(
    arms: list[tuple[dict[int, int], dict[int, int]]], other: dict[int, int], data: st.DataObject
) -> None:
    """The challenger's exceedances of a look do not change with the champion's data of that look or later ones."""
    looks = [look(i, a, b) for i, (a, b) in enumerate(arms)]
    at = data.draw(st.integers(0, len(looks) - 1))
    changed = [look(i, other if i >= at else a, b) for i, (a, b) in enumerate(arms)]
    gate = Gate(Metric.LATENCY_P95, latency_margin=0.1)
    before, after = strata_of(gate, looks)[at], strata_of(gate, changed)[at]
    assert (before.challenger_bad, before.challenger_n) == (after.challenger_bad, after.challenger_n)


@settings(derandomize=True)
@given(st.lists(st.tuples(histograms, histograms), min_size=2, max_size=6), histograms)
def test_the_challengers_latency_never_moves_the_threshold(
    arms: list[tuple[dict[int, int], dict[int, int]]], other: dict[int, int]
) -> None:
    mine = strata_of(P95, [look(i, a, b) for i, (a, b) in enumerate(arms)])
    others = strata_of(P95, [look(i, a, other) for i, (a, _) in enumerate(arms)])
    assert [(s.champion_bad, s.champion_n) for s in mine] == [(s.champion_bad, s.champion_n) for s in others]


@pytest.mark.parametrize("quantile_bin", range(0, 1500, 7))
def test_without_a_margin_both_arms_are_cut_at_the_same_edge(quantile_bin: int) -> None:
    around = {quantile_bin: 10, quantile_bin + 1: 20, quantile_bin + 2: 40}
    found = strata_of(P95, [look(0, {quantile_bin: 300}, {}), look(1, around, around)])[1]
    assert found == Stratum(60, 70, 60, 70)


@settings(derandomize=True)
@given(st.integers(0, 1200), st.floats(0, 3), st.floats(0, 500))
def test_only_what_is_surely_slower_than_the_margin_allows_is_held_against_the_challenger(
    quantile_bin: int, margin: float, slack: float
) -> None:
    gate = Gate(Metric.LATENCY_P95, latency_margin=margin, latency_slack_ms=slack)
    allowed = latency_edge_ms(quantile_bin + 1) * (1 + margin) + slack
    below, above = latency_bin(allowed * (1 - 1e-6)), latency_bin(allowed) + 1
    cut = strata_of(
        gate, [look(0, {quantile_bin: 300}, {}), look(1, {quantile_bin: 1}, {below: 1}), look(2, {0: 1}, {above: 1})]
    )
    assert cut[1].challenger_bad == 0
    assert cut[2].challenger_bad == 1


def test_a_margin_of_a_quarter_lets_a_fifth_pass() -> None:
    base = np.full(1000, 100.0)
    strict, lax = Gate(Metric.LATENCY_P95), Gate(Metric.LATENCY_P95, latency_margin=0.25)
    slower = [look(0, binned(base), {}), look(1, binned(base), binned(base * 1.2))]
    assert strata_of(strict, slower)[1] == Stratum(1000, 1000, 0, 1000)
    assert strata_of(lax, slower)[1] == Stratum(0, 1000, 0, 1000)


def test_an_empty_arm_gives_an_empty_side() -> None:
    looks = [look(0, {5: 300}, {}), look(1, {}, {9: 4}), look(2, {9: 4}, {})]
    assert strata_of(P95, looks)[1:] == [Stratum(4, 4, 0, 0), Stratum(0, 0, 4, 4)]


def test_equal_latencies_do_not_roll_back_beyond_alpha_binned_as_they_are() -> None:
    """A/A, lognormal, p95, no margin at all, both arms rounded to bins: 300 rollouts of 60 looks at alpha 5 %."""
    rng = np.random.default_rng(20)
    runs, looks, n_a, n_b = 300, 60, 75, 25
    false_alarms = 0
    for _ in range(runs):
        champion = np.exp(3 + 0.5 * rng.standard_normal((looks, n_a)))
        challenger = np.exp(3 + 0.5 * rng.standard_normal((looks, n_b)))
        to_bin = [np.floor(np.log(v / 0.01) / math.log(1.02)).astype(int) for v in (champion, challenger)]
        seen = []
        for i in range(looks):
            a, b = (
                dict(zip(*map(np.ndarray.tolist, np.unique(v[i], return_counts=True)), strict=True)) for v in to_bin
            )
            seen.append(look(i, a, b))
        false_alarms += bool((log_e_path(strata_of(P95, seen), 1.0, worse_than(1.0)) >= math.log(20)).any())
    assert false_alarms <= 0.05 * runs
