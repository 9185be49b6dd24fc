"""The area under the ROC curve against brute force and scikit-learn, its bound and its interval."""

import random
from collections import defaultdict

import pytest

from model_rollouts.core.auc import auc


def pairs(negatives: list[float], positives: list[float]) -> float:
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    return wins / len(negatives) / len(positives)


def binned(negatives: list[float], positives: list[float], width: float) -> list[tuple[int, int]]:
    bins: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for truth, scores in enumerate((negatives, positives)):
        for score in scores:
            bins[int(score // width)][truth] += 1
    return [(n, p) for _, (n, p) in sorted(bins.items())]


def drawn(rng: random.Random, n: int, apart: float) -> tuple[list[float], list[float]]:
    return [rng.gauss(0, 1) for _ in range(n)], [rng.gauss(apart, 1) for _ in range(n // 2)]


@pytest.mark.parametrize("width", [0.01, 0.3, 2.0])
def test_the_area_is_within_its_bound_of_that_of_the_scores(width: float) -> None:
    from sklearn.metrics import roc_auc_score

    negatives, positives = drawn(random.Random(1), 300, 1.0)
    truth = pairs(negatives, positives)
    labels = [0] * len(negatives) + [1] * len(positives)
    assert truth == pytest.approx(roc_auc_score(labels, negatives + positives))
    found = auc(binned(negatives, positives, width))
    assert found.value is not None
    assert found.bound is not None
    assert abs(found.value - truth) <= found.bound
    assert found.n == 450


def test_ties_count_half() -> None:
    assert auc([(2, 2)]).value == 0.5
    assert auc([(1, 0), (1, 1)]).value == 0.75
    assert auc([(1, 1), (1, 0)]).value == 0.25


def test_the_interval_holds_as_often_as_it_says() -> None:
    rng = random.Random(2)
    truth, covered = 0.7602, 0  # P(N(1, 2) > 0)
    for _ in range(300):
        found = auc(binned(*drawn(rng, 80, 1.0), 0.001))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 300 <= 0.985


@pytest.mark.parametrize("bins", [[(50, 0), (0, 40)], [(0, 40), (50, 0)]])
def test_classes_that_are_wholly_apart_are_no_proof_of_one(bins: list[tuple[int, int]]) -> None:
    found = auc(bins)
    assert found.value in (0.0, 1.0)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(1 - 0.025 ** (1 / 40))


@pytest.mark.parametrize(("bins", "why"), [([], "no label"), ([(3, 0)], "one class"), ([(0, 3)], "one class")])
def test_one_class_has_no_area(bins: list[tuple[int, int]], why: str) -> None:
    found = auc(bins)
    assert found.value is None
    assert why in found.reason


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="counts of bin 1 are"):
        auc([(1, 1), (-1, 2)])
