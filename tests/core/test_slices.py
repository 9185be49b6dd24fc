"""The search for bad slices: false findings are as rare as it says, a planted one is found, small ones are left out."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from model_rollouts.core.multiple_tests import holm
from model_rollouts.core.slices import LEAST_FOR_MEANS, LEAST_REQUESTS, Cell, Count, Sums, search


def cell(n: int, bad: int, m: int, other: int, name: str = "s") -> Cell:
    return Cell("input", name, "error_rate", "less", Count(n, bad), Count(m, other))


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="p-value 0 is"):
            holm([bad])


def test_rates_are_tested_by_fisher() -> None:
    found = search([cell(500, 10, 400, 20)]).found[0]
    expected = stats.fisher_exact([[20, 380], [10, 490]], alternative="greater").pvalue
    assert found.p == pytest.approx(expected)
    assert found.effect.value == pytest.approx(0.03)


def test_means_are_tested_by_welch_in_the_direction_that_is_worse() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 600), rng.normal(0.1, 2, 900)

    def sums(x: "np.typing.NDArray[np.float64]") -> Sums:
        return Sums(len(x), float(x.sum()), float((x * x).sum()))

    less, more = (search([Cell("input", "s", "m", better, sums(a), sums(b))]).found[0].p for better in ("less", "more"))
    assert less == pytest.approx(stats.ttest_ind(b, a, equal_var=False, alternative="greater").pvalue)
    assert more == pytest.approx(1 - less)


@pytest.mark.parametrize("units", [1, 4])
def test_without_a_difference_false_findings_are_as_rare_as_said(units: int) -> None:
    """1,000 logs of equal arms, cut into eight parts by each of 3 inputs; with units, requests come in fours."""
    rng = np.random.default_rng(7)
    false = 0
    runs = 1000
    for _ in range(runs):
        n = 6000 // units
        arm = rng.integers(0, 2, n)
        inputs = rng.integers(0, 8, (3, n))
        bad = np.where(rng.random(n) < 0.03, units, 0)
        value = rng.lognormal(0, 1, n)
        cells = []
        for at in range(3):
            for part in range(8):
                chosen = [(inputs[at] == part) & (arm == side) for side in (0, 1)]
                counts = [Count(int(c.sum()) * units, int(bad[c].sum())) for c in chosen]
                cells.append(Cell(f"i{at}", str(part), "error_rate", "less", *counts))
                sums = [Sums(int(c.sum()), float(value[c].sum()), float((value[c] ** 2).sum())) for c in chosen]
                cells.append(Cell(f"i{at}", str(part), "value", "more", *sums))
        false += bool(search(cells, {"error_rate": float(units)}).findings)
    assert false / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_a_planted_slice_is_found() -> None:
    rng = random.Random(2)
    found = 0
    for _ in range(50):
        cells = []
        for at in range(60):
            rate = 0.09 if at == 17 else 0.03
            bad = [sum(rng.random() < p for _ in range(800)) for p in (0.03, rate)]
            cells.append(cell(800, bad[0], 800, bad[1], str(at)))
        result = search(cells)
        assert result.looked_at == 60
        found += [each.cell.slice for each in result.findings] == ["17"]
    assert found >= 45


def test_small_slices_are_not_looked_at_and_counted() -> None:
    small = LEAST_REQUESTS - 1
    sums = Sums(LEAST_FOR_MEANS - 1, 1.0, 1.0)
    cells = [cell(small, 0, 9999, 9999), cell(9999, 0, small, small), cell(0, 0, 0, 0)]
    result = search([*cells, Cell("i", "s", "value", "more", sums, sums)])
    assert (result.looked_at, result.too_small, result.found) == (0, 4, ())
    assert search([cell(LEAST_REQUESTS, 0, LEAST_REQUESTS, 100), *cells]).looked_at == 1


def test_looking_at_more_asks_for_more_evidence() -> None:
    one = cell(1000, 20, 1000, 42)
    same = [cell(1000, 20, 1000, 20, str(at)) for at in range(200)]
    assert search([one]).findings
    assert not search([one, *same]).findings


def test_repeat_requests_weigh_less() -> None:
    one = cell(1000, 20, 1000, 42)
    assert search([one], {"error_rate": 1.0}).findings
    assert not search([one], {"error_rate": 4.0}).findings
    for bad in (0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="design effect of error_rate is"):
            search([one], {"error_rate": bad})


def test_units_with_more_requests_than_a_slice_has_tell_nothing() -> None:
    (found,) = search([cell(5000, 0, 5000, 0)], {"error_rate": 6000.0}).found
    assert (found.p, found.finding) == (1.0, False)
    assert not search([cell(5000, 0, 5000, 2500)], {"error_rate": 6000.0}).findings


def test_impossible_and_infinite_numbers_are_no_findings() -> None:
    with pytest.raises(ValueError, match="bad is 300 of 200, must be between 0 and 200"):
        search([cell(200, 0, 200, 300)])
    odd = Sums(1000, math.inf, math.inf)
    plain = Sums(1000, 1.0, 1.0)
    assert search([Cell("i", "s", "m", "less", plain, odd)]).found[0].p == 1.0
