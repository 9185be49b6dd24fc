"""Answers of both versions to the same requests, as read from real Delta tables."""

import math
import random

import pytest
from tests.adapters.unit_log import (
    LOOKS,
    START,
    Bench,
    Row,
    outcome,
    row,
)

from model_rollouts.adapters.delta_log import (
    REPEAT_SECONDS,
)
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


def test_pairs_are_requests_of_the_champions_own_cohort(bench: Bench) -> None:
    control = {"cohort": "champion"}
    bench.predictions(row("mirrored", 1), row("mirrored", 1, "challenger", served=False))
    bench.predictions(row("control", 2, served=False), row("control", 2, "challenger", **control))
    bench.predictions(row("fallback", 3, cohort="challenger"), row("fallback", 3, "challenger", status="error"))
    bench.predictions(row("alone", 4), row("failed", 5, status="error"), row("failed", 5, "challenger"))
    bench.predictions(row("outside", 6, cohort=None), row("outside", 6, "challenger"))
    assert bench.pairs() == [PairCounts(3, 2, 2), PairCounts(), PairCounts()]


@pytest.mark.parametrize(
    "changes",
    [{"status": "error"}, {"status": "timeout"}, {"prediction": "0"}, {"prediction": None}, {"prediction": "1.0"}],
)
def test_a_failure_or_another_answer_is_a_pair_that_disagrees(bench: Bench, changes: Row) -> None:
    bench.predictions(row("a", 1), row("a", 1, "challenger", cohort=None, **changes))
    assert bench.pairs()[0] == PairCounts(1, 1, 0)


@pytest.mark.parametrize("changes", [{"rollout_id": "other"}, {"stage": 1}, {"rollout_id": None}, {"stage": None}])
def test_answers_of_another_rollout_or_stage_make_no_pair(bench: Bench, changes: Row) -> None:
    bench.predictions(row("a", 1), row("a", 1, "challenger", **changes))
    assert bench.pairs()[0] == PairCounts(1, 0, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_answers_of_an_id_that_comes_back_later_make_no_pair(bench: Bench, sign: int) -> None:
    bench.predictions(row("a", 950), row("b", 951))
    bench.predictions(row("a", 950 + sign * REPEAT_SECONDS, "challenger"))
    bench.predictions(row("b", 951 + sign * (REPEAT_SECONDS - 1e-6), "challenger"))
    assert bench.pairs() == [PairCounts(), PairCounts(2, 1, 1), PairCounts()]


def test_a_repeated_request_is_asked_once_and_its_first_answers_are_compared(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("a", 2), row("a", 601))
    bench.predictions(row("a", 3, "challenger"), row("a", 2, "challenger", prediction="0"))
    bench.predictions(row("b", 1), row("b", 2, "challenger"), row("b", 3, "challenger", status="error"))
    assert bench.pairs() == [PairCounts(2, 2, 1), PairCounts(), PairCounts()]


@pytest.mark.parametrize("changes", [{"status": "error"}, {"prediction": "0"}, {"prediction": None}])
def test_of_two_answers_of_one_time_the_worse_one_is_compared(bench: Bench, changes: Row) -> None:
    bench.predictions(row("a", 1), row("a", 1, "challenger"), row("a", 1, "challenger", **changes))
    assert bench.pairs()[0] == PairCounts(1, 1, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ("1", "1.5", 1),
        ("1", "1.500001", 0),
        ("1.5", "1", 1),
        ("1", "1", 1),
        ("late", "late", 0),
        ("nan", "nan", 0),
        ("1", "nan", 0),
        ("nan", "1", 0),
        ("inf", "inf", 0),
        ("-inf", "inf", 0),
        ("1e308", "-1e308", 0),
        (None, None, 0),
        ("1", None, 0),
        (None, "1", 0),
    ],
)
def test_numbers_agree_within_the_tolerance(bench: Bench, ours: str | None, theirs: str | None, agreed: int) -> None:
    bench.predictions(row("a", 1, prediction=ours), row("a", 1, "challenger", prediction=theirs))
    assert bench.pairs(0.5)[0] == PairCounts(1, 1, agreed)


def test_two_missing_answers_do_not_agree_as_texts(bench: Bench) -> None:
    bench.predictions(row("a", 1, prediction=None), row("a", 1, "challenger", prediction=None))
    assert bench.pairs()[0] == PairCounts(1, 1, 0)


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -0.1])
def test_a_tolerance_that_lets_everything_pass_is_refused(bench: Bench, tolerance: float) -> None:
    with pytest.raises(ValueError, match=f"tolerance is {tolerance}, must be a finite number of at least 0"):
        bench.pairs(tolerance)


# --- repeat requests among the pairs


def mirrored(seed: int) -> tuple[list[Row], list[Row]]:
    """Requests that both versions answered, with the champion's answer as the label: disagreeing is being wrong."""
    rng = random.Random(seed)
    rows, labels = [], []
    for i in range(300):
        window = rng.choice(LOOKS)
        at = (window.window.start - START).total_seconds() + rng.uniform(0, 590)
        own = {"stage": window.stage, "unit_id": rng.choice([None, "a", "b", "c", "d"])}
        rows.append(row(f"r{i}", at, **own, prediction="1"))
        if rng.random() < 0.9:
            same = rng.random() < (0.5 if own["unit_id"] == "a" else 0.9)
            rows.append(row(f"r{i}", at, "challenger", **own, prediction="1" if same else "0"))
        labels.append(outcome(f"r{i}", at, "1"))
    return rows, labels


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_a_unit_resemble_each_other_as_its_wrong_answers_do(bench: Bench, seed: int) -> None:
    rows, labels = mirrored(seed)
    bench.predictions(*rows)
    bench.outcomes(*labels)
    wrong = [challenger for _, challenger in bench.labels()]
    for fresh in (0, 3, 5):
        found = bench.log.pair_clusters("delays", "ro", LOOKS, fresh, None)
        assert found == wrong[fresh:]
    assert bench.log.pair_clusters("delays", "ro", LOOKS, 0, 0.5) == wrong  # 1 and 0 are further apart
    tolerant = bench.log.pair_clusters("delays", "ro", LOOKS, 0, 1.0)
    assert [sums.judged for sums in tolerant] == [sums.judged for sums in wrong]
    assert all(sums.scale == sums.products == 0 for sums in tolerant)
    assert [sums.judged for sums in wrong[:3]] == [pairs.paired for pairs in bench.pairs()]


def test_a_failed_answer_does_not_agree_and_a_stand_in_makes_no_pair(bench: Bench) -> None:
    bench.predictions(
        row("a", 1, unit_id="u"), row("a", 1, "challenger", unit_id="u", status="error", prediction=None),
        row("b", 2, unit_id="u"), row("b", 2, "challenger", unit_id="u"),
        row("c", 3, unit_id="u", cohort="challenger"), row("c", 3, "challenger", unit_id="u", status="error"),
    )  # fmt: skip
    (sums, *_) = bench.log.pair_clusters("delays", "ro", LOOKS, 0, None)
    assert (sums.judged, sums.squares) == (2, 4)
    # residuals of +- a half, and what centring on the look takes away given back: variance 1/2 over 2, twice
    assert (sums.products, sums.scale) == (pytest.approx(2 * (-0.25 + 0.25)), pytest.approx(2 * 0.5))


def test_pair_clusters_of_nothing_are_nothing_and_bad_tolerances_are_refused(bench: Bench) -> None:
    assert bench.log.pair_clusters("delays", "ro", LOOKS, 4, None) == [ClusterSums()] * 2
    with pytest.raises(ValueError, match="tolerance is nan, must be a finite number"):
        bench.log.pair_clusters("delays", "ro", LOOKS, 0, math.nan)
