"""Units, and their repeat requests, as read from real Delta tables."""

import pytest
from tests.adapters.unit_log import (
    NO_UNITS,
    Bench,
    flat,
    look,
    row,
    same,
)

from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.core.unit_evidence import ClusterSums


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


def test_a_unit_is_new_once_and_counts_for_the_arm_of_its_first_row(bench: Bench) -> None:
    bench.predictions(row("a", 5, unit_id="u"), row("b", 700, unit_id="u"), row("c", 650, "challenger", unit_id="v"))
    bench.predictions(row("d", 2200, "challenger", unit_id="u", stage=1), row("e", 2300, unit_id="w", stage=1))
    assert bench.new() == [(1, 0), (0, 1), (0, 0), (1, 0), (0, 0), (0, 0)]


def test_a_request_without_a_unit_is_a_unit_of_its_own_and_never_the_unit_of_its_name(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2), row("c", 3, unit_id="a"), row("d", 4, unit_id="a"), row("a", 5))
    assert bench.new()[0] == (3, 0)
    clusters = bench.units()[0][0].clusters["error_rate"]
    assert (clusters.judged, clusters.squares) == (4, 1 + 1 + 4)


def test_a_request_of_another_stage_makes_no_unit_known(bench: Bench) -> None:
    bench.predictions(
        row("a", 5, unit_id="u", stage=1), row("b", 1810, unit_id="u"), row("c", 2200, unit_id="u", stage=1)
    )
    assert bench.new() == [(0, 0)] * 3 + [(1, 0), (0, 0), (0, 0)]


def test_a_request_that_is_repeated_in_the_next_stage_counts_in_both_like_its_request_counts(bench: Bench) -> None:
    looks = [look(0, 0, 0), look(1, 0, 10)]
    bench.predictions(row("a", 599), row("a", 601, stage=1))
    units = [champion.clusters["error_rate"].judged for champion, _ in bench.units(looks)]
    requests = [bench.log.request_counts("delays", "ro", each.stage, [each.window])[0][0].requests for each in looks]
    assert units == requests == [1, 1]


def test_rows_of_no_arm_make_no_unit_known(bench: Bench) -> None:
    bench.predictions(row("a", 5, "nobody", unit_id="u"), row("b", 6, unit_id="u"))
    assert bench.new()[0] == (1, 0)


def test_a_single_request_has_no_spread_and_no_pairs(bench: Bench) -> None:
    bench.predictions(row("a", 5, status="error"))
    clusters = bench.units()[0][0].clusters
    assert clusters["error_rate"] == ClusterSums(1, 1, 0.0, 0.0, 0.0)
    assert clusters["latency_p50"] == ClusterSums()


def test_a_latency_beyond_the_last_bin_is_an_error_and_no_slow_answer(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2, latency_ms=1e300))
    clusters = bench.units()[0][0].clusters
    assert clusters["error_rate"].judged == 2
    assert clusters["latency_p50"].judged == 1


def test_pairs_of_a_unit_are_found_across_looks(bench: Bench) -> None:
    """Two units with two requests in each of two looks: one fails always, one never."""
    for at in (0, 600):
        for unit, status in (("u", "ok"), ("v", "error")):
            bench.predictions(*(row(f"{unit}{at}{i}", at + i, unit_id=unit, status=status) for i in (1, 2)))
    first, second = (units[0].clusters["error_rate"] for units in bench.units()[:2])
    spread = 0.25 * 4 / 3
    within = 4 * 0.25 + 4 * spread / 4
    assert flat(first) == same(ClusterSums(4, 8, within, 4 * spread, 4 * spread**2))
    assert flat(second) == same(ClusterSums(4, 24, within + 16 * 0.25, 20 * spread, 20 * spread**2))


def test_rows_of_one_call_belong_together_whoever_they_are_about(bench: Bench) -> None:
    """A call of three rows fails, two of one row do not, in each of two looks; all rows have units of their own."""
    for at in (0, 600):
        bench.predictions(*(row(f"{at}:{i}", at + 1, unit_id=f"{at}u{i}", status="timeout") for i in range(3)))
        bench.predictions(row(f"{at}:1:x", at + 2), row(f"{at}:1:", at + 3))
    for champion, challenger in bench.units()[:2]:
        by_unit, by_call = champion.clusters["error_rate"], champion.clusters["call_error_rate"]
        assert (by_unit.judged, by_unit.squares, by_unit.scale) == (5, 5, 0.0)
        spread = 0.24 * 5 / 4
        assert flat(by_call) == same(ClusterSums(5, 11, 6 * 0.16 + 6 * spread / 5, 6 * spread, 6 * spread**2))
        assert challenger == NO_UNITS


def test_a_call_has_rows_in_both_arms_and_its_pairs_in_each(bench: Bench) -> None:
    bench.predictions(*(row(f"a:{i}", 1, ("champion", "challenger")[i % 2]) for i in range(5)))
    champion, challenger = bench.units()[0]
    assert [arm.clusters["call_latency_p99"].squares for arm in (champion, challenger)] == [9, 4]
    assert [arm.clusters["latency_p99"].squares for arm in (champion, challenger)] == [3, 2]


def test_rows_of_a_call_are_told_by_their_endings_alone(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("a:0", 2), row("a:10", 3), row("a:0:0", 4))
    assert bench.units()[0][0].clusters["call_error_rate"].squares == 1 + 4 + 1


def test_the_slowest_of_few_answers_are_as_slow_as_the_quantile(bench: Bench) -> None:
    bench.predictions(*(row(f"r{i}", i, unit_id=f"u{i // 2}", latency_ms=float(i)) for i in range(1, 10)))
    sums = bench.units()[0][0].clusters["latency_p99"]
    spread = 1 / 9 * 8 / 9 * 9 / 8
    assert sums.scale == pytest.approx(4 * 2 * spread)  # all but the first are in pairs


def test_answers_of_one_latency_are_all_as_slow_as_the_quantile(bench: Bench) -> None:
    bench.predictions(*(row(f"r{i}", i, unit_id="u") for i in range(4)))
    assert bench.units()[0][0].clusters["latency_p50"] == ClusterSums(4, 16, 0.0, 0.0, 0.0)
