"""Calibration by bins: golden values, perfect and shifted scores, empty sides."""

import random

import pytest

from model_rollouts.core.calibration import BINS, Calibration, ScoreBin, calibration


def of(rows: list[tuple[float, int]]) -> Calibration:
    bins = []
    for tenth in range(BINS):
        chosen = [(s, y) for s, y in rows if min(int(s * BINS), BINS - 1) == tenth]
        squares = sum((s - y) ** 2 for s, y in chosen)
        bins.append(ScoreBin(len(chosen), sum(y for _, y in chosen), sum(s for s, _ in chosen), squares))
    return calibration(bins)


def test_the_error_is_the_weighed_distance_of_the_bins() -> None:
    found = of([(0.15, 0), (0.15, 1), (0.95, 1), (0.95, 1)])
    assert found.ece.value == pytest.approx((2 * 0.35 + 2 * 0.05) / 4)
    assert found.offset.value == pytest.approx((2 * 0.15 + 2 * 0.95 - 3) / 4)
    shown = found.bins[1]
    assert shown is not None
    assert (shown["n"], shown["score"], shown["rate"]["value"]) == (2, pytest.approx(0.15), 0.5)
    assert found.bins[0] is None


def test_scores_that_are_true_have_about_the_error_of_chance() -> None:
    rng = random.Random(4)
    rows = [(s, int(rng.random() < s)) for s in (rng.random() for _ in range(20_000))]
    found = of(rows)
    assert found.ece.value is not None
    assert found.chance is not None
    assert found.ece.value < 2 * found.chance
    assert found.offset.low is not None
    assert found.offset.high is not None
    assert found.offset.low < 0 < found.offset.high


def test_scores_that_are_too_high_are_seen() -> None:
    rng = random.Random(5)
    rows = [(s, int(rng.random() < 0.8 * s)) for s in (rng.random() for _ in range(20_000))]
    found = of(rows)
    assert found.ece.low is not None
    assert found.ece.high is not None
    assert found.ece.low < 0.1 < found.ece.high
    assert found.offset.low is not None
    assert found.offset.low > 0.08
    assert found.chance is not None
    assert found.ece.low > 3 * found.chance


def test_nothing_is_unknown() -> None:
    found = of([])
    assert found.ece.value is None
    assert found.ece.reason == "no label with a score"
    assert found.chance is None
    assert found.bins == (None,) * BINS
