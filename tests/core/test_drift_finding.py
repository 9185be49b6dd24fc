"""Which columns drifted, and what that means for the stage."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from model_rollouts.core.drift_finding import ColumnDrift, DriftFinding, Sides, compare_column, find_drift
from model_rollouts.core.drift_plan import Comparison, DriftLimits, DriftPlan
from model_rollouts.core.profile import ColumnProfile, Grid, column_of_numbers, grid_of

PSI = DriftLimits(psi=0.2, wasserstein=None, missing=None)
RNG = np.random.default_rng(0)


def numbers(values: Sequence[float], grid: Grid, missing: int = 0, not_finite: int = 0) -> ColumnProfile:
    return column_of_numbers(grid, Counter(grid.index(float(value)) for value in values), missing, not_finite)


def pair(before: Sequence[float], now: Sequence[float], **more: int) -> tuple[ColumnProfile, ColumnProfile]:
    grid = grid_of(sorted(map(float, before)))
    return numbers(before, grid), numbers(now, grid, **more)


def texts(counts: dict[str, int], rest: int = 0, missing: int = 0) -> ColumnProfile:
    return ColumnProfile("text", missing, categories=counts, rest=rest)


def test_a_shift_is_drift_and_its_absence_is_none() -> None:
    rng = np.random.default_rng(1)
    before, same, shifted = rng.normal(0, 1, 5_000), rng.normal(0, 1, 5_000), rng.normal(1, 1, 5_000)
    limits = DriftLimits(psi=0.2, js=0.1, wasserstein=0.1, missing=0.1)
    told = compare_column("f_x", *pair(before, same), limits)
    assert (told.exceeded, told.problem) == ((), "")
    told = compare_column("f_x", *pair(before, shifted), limits)
    assert (told.exceeded, told.problem) == (("psi", "js", "wasserstein"), "")
    assert told.wasserstein == pytest.approx(1.0, abs=0.05)
    # of two normal laws one standard deviation apart Jeffreys' divergence is 1; ten bins see most of it
    assert told.psi == pytest.approx(0.95, abs=0.1)


def test_a_value_that_takes_over_is_seen_where_the_reference_has_one_value_alone() -> None:
    told = compare_column("f_x", *pair([3.0] * 100, [4.0] * 100), PSI)
    assert told.exceeded == ("psi",)
    assert compare_column("f_x", *pair([3.0] * 100, [3.0] * 100), PSI) == ColumnDrift(
        "f_x", told.role, (100, 100), (100, 100), PSI, psi=0.0, js=0.0, wasserstein=0.0, missing=0.0, psi_of_chance=0.0
    )


def test_values_beyond_all_that_the_reference_has_are_seen_without_a_limit_on_how_far() -> None:
    before = np.linspace(0, 1, 1_000)
    for far in (2.0, 1e30, -1e99):
        now = np.concatenate([before[:700], np.full(300, far)])
        assert compare_column("f_x", *pair(before, now), PSI).exceeded == ("psi",)


@pytest.mark.parametrize("more", [{"missing": 60}, {"not_finite": 60}])
def test_missing_and_infinite_values_are_missing(more: dict[str, int]) -> None:
    before = RNG.normal(size=300)
    told = compare_column("f_x", *pair(before, before[:240], **more), DriftLimits(psi=0.2, missing=0.1))
    assert told.exceeded == ("missing",)
    assert told.missing == pytest.approx(0.2)
    assert compare_column("f_x", *pair(before, before, missing=6), DriftLimits(missing=0.1)).exceeded == ()


def test_fewer_missing_values_than_before_are_drift_too() -> None:
    told = compare_column("f_x", texts({"a": 100}, missing=100), texts({"a": 200}), DriftLimits())
    assert told.exceeded == ("missing",)


def test_a_column_that_is_gone_has_drifted_and_its_shape_is_not_known() -> None:
    told = compare_column("f_x", texts({"a": 200}), texts({"a": 0}, missing=200), DriftLimits())
    assert told.exceeded == ("missing",)
    assert told.problem == "0 values in the 200 rows of the current rows, needed 30"
    assert told.psi is None


@pytest.mark.parametrize(
    ("reference", "current", "problem"),
    [
        (None, texts({"a": 50}), "the reference has no such column"),
        (texts({"a": 50}), None, "the current rows have no such column"),
        (texts({"a": 29}), texts({"a": 50}), "29 values in the 29 rows of the reference, needed 30"),
        (texts({"a": 50}), texts({"a": 29}), "29 values in the 29 rows of the current rows, needed 30"),
        (texts({"a": 50}), numbers([1.0] * 50, Grid(1.0, 1.0)), "numbers on one side, text on the other"),
        (
            numbers([1.0] * 50, Grid(2.0, 1.0)),
            numbers([1.0] * 50, Grid(1.0, 1.0)),
            "the sides are counted by different bins",
        ),
        (texts({"a": 0}, rest=500), texts({"a": 0}, rest=500), "too many different values"),  # ids, free text
        (texts({"a": 100}, rest=200), texts({"a": 100}, rest=101), "too many different values"),
        (texts({f"v{i}": 1 for i in range(40)}), texts({f"v{i}": 1 for i in range(40)}), "too many different values"),
    ],
)
def test_what_can_not_be_compared_is_never_no_drift(reference: Any, current: Any, problem: str) -> None:
    told = compare_column("f_x", reference, current, DriftLimits())
    assert problem in told.problem
    assert (told.psi, told.js, told.wasserstein) == (None, None, None)


def test_a_limit_on_what_has_no_number_is_a_problem() -> None:
    told = compare_column("f_x", *pair([3.0] * 100, [4.0] * 100), DriftLimits(psi=None, wasserstein=0.1))
    assert "no standard deviation" in told.problem
    assert told.wasserstein is None
    assert compare_column("f_x", *pair([3.0] * 100, [4.0] * 100), DriftLimits(wasserstein=0.1)).problem == ""


def test_a_new_text_is_seen_and_categories_only_one_side_looked_for_are_others() -> None:
    reference = texts({"UA": 500, "AA": 500})
    assert compare_column("f_c", reference, texts({"UA": 250, "AA": 250, "ZZ": 500}), PSI).exceeded == ("psi",)
    assert compare_column("f_c", reference, texts({"UA": 250, "AA": 250}, rest=500), PSI).exceeded == ("psi",)
    told = compare_column("f_c", texts({"UA": 500}, rest=500), texts({"UA": 500, "ZZ": 250}, rest=250), PSI)
    assert (told.exceeded, told.psi) == ((), 0.0)


def falsely_called(n: int, m: int, limits: DriftLimits, columns: int, rounds: int) -> float:
    """Share of reports of columns without drift that call drift."""
    rng = np.random.default_rng(11)
    plan = DriftPlan(default=limits)
    called = 0
    for _ in range(rounds):
        names = [f"f_{at}" for at in range(columns)]
        pairs = [
            (rng.normal(size=n), rng.normal(size=m)) if at % 2 else (rng.poisson(2, n), rng.poisson(2, m))
            for at in range(columns)
        ]
        made = dict(zip(names, (pair(a, b) for a, b in pairs), strict=True))
        sides = Sides({k: v[0] for k, v in made.items()}, {k: v[1] for k, v in made.items()}, names, "")
        found = find_drift(plan, {Comparison.CHAMPION: sides})
        called += any(each.drifted for each in found.comparisons[Comparison.CHAMPION].columns)
    return called / rounds


@pytest.mark.parametrize(("n", "m", "rounds"), [(200, 200, 400), (60, 40, 400)])
def test_without_drift_a_report_of_small_samples_calls_it_as_seldom_as_the_level_says(
    n: int, m: int, rounds: int
) -> None:
    # limits far below what chance does to samples of this size: only the level keeps it from being called drift
    limits = DriftLimits(psi=0.001, js=0.001, wasserstein=0.001, missing=None)
    assert falsely_called(n, m, limits, columns=4, rounds=rounds) <= 0.01 + 3 * math.sqrt(0.01 / rounds)


def test_large_logs_are_not_called_drifted_for_differences_below_the_limit() -> None:
    rng = np.random.default_rng(2)
    told = compare_column("f_x", *pair(rng.normal(0, 1, 60_000), rng.normal(0.1, 1, 60_000)), PSI)
    assert told.exceeded == ()
    assert told.psi == pytest.approx(0.01, abs=0.004)


DRIFTED = {"before": texts({"a": 200, "b": 200}), "now": texts({"a": 380, "b": 20})}
ALIKE = {"before": texts({"a": 200, "b": 200}), "now": texts({"a": 190, "b": 210})}
UNKNOWN = {"before": texts({"a": 200, "b": 200}), "now": texts({"a": 2, "b": 2})}


def finding(
    plan: dict[str, Any], kind: Comparison = Comparison.CHAMPION, **columns: dict[str, ColumnProfile]
) -> DriftFinding:
    sides = Sides(
        {k: v["before"] for k, v in columns.items()}, {k: v["now"] for k, v in columns.items()}, list(columns), "x"
    )
    return find_drift(DriftPlan.from_dict(plan), {kind: sides})


HOLD = {"role": "hold"}


@pytest.mark.parametrize(
    ("plan", "columns", "state"),
    [
        ({}, {"f_a": ALIKE}, "ok"),
        ({}, {"f_a": DRIFTED}, "ok"),
        ({}, {"f_a": UNKNOWN}, "ok"),
        ({}, {}, "ok"),
        (HOLD, {"f_a": ALIKE}, "ok"),
        (HOLD, {"f_a": ALIKE, "f_b": DRIFTED}, "failed"),
        (HOLD, {"f_a": ALIKE, "f_b": UNKNOWN}, "missing"),
        (HOLD, {"f_a": DRIFTED, "f_b": UNKNOWN}, "failed"),
        (HOLD, {}, "missing"),
        (HOLD | {"columns": {"f_b": {"role": "report"}}}, {"f_a": ALIKE, "f_b": DRIFTED}, "ok"),
        (HOLD | {"columns": {"f_b": {"role": "ignore"}}}, {"f_a": ALIKE, "f_b": UNKNOWN}, "ok"),
        (HOLD | {"columns": {"f_b": {"role": "ignore"}}}, {"f_b": DRIFTED}, "missing"),
        (HOLD | {"columns": {"f_b": {"psi": 5.0}}}, {"f_b": DRIFTED}, "ok"),
        ({"columns": {"f_b": {"role": "hold"}}}, {"f_a": DRIFTED, "f_b": ALIKE}, "ok"),
        ({"columns": {"f_b": {"role": "hold"}}}, {"f_a": ALIKE, "f_b": DRIFTED}, "failed"),
        (HOLD | {"holds": ["training"]}, {"f_a": DRIFTED}, "missing"),
    ],
)
def test_the_stage_holds_by_role_and_what_is_not_known_is_missing_there(
    plan: dict[str, Any], columns: dict[str, Any], state: str
) -> None:
    assert finding(plan, **columns).state == state


def test_a_column_that_is_to_hold_and_is_nowhere_is_missing() -> None:
    found = finding({"columns": {"f_gone": {"role": "hold"}}}, f_a=ALIKE)
    assert found.state == "missing"
    assert "not in the log, and to be held by: f_gone" in found.detail
    assert finding({"columns": {"f_gone": {"role": "report"}}}, f_a=ALIKE).state == "ok"


def test_only_the_comparisons_that_the_plan_names_hold() -> None:
    assert finding(HOLD | {"holds": ["before"]}, Comparison.BEFORE, prediction=DRIFTED).state == "failed"
    both = Sides({"prediction": DRIFTED["before"]}, {"prediction": DRIFTED["now"]}, ["prediction"], "x")
    calm = Sides({"f_a": ALIKE["before"]}, {"f_a": ALIKE["now"]}, ["f_a"], "x")
    found = find_drift(DriftPlan.from_dict(HOLD), {Comparison.BEFORE: both, Comparison.CHAMPION: calm})
    assert found.state == "ok"
    assert "champion's before: 1 of 1 columns drifted: prediction (psi" in found.detail


def test_a_column_that_no_side_has_any_value_of_holds_nothing_up_unless_it_is_named() -> None:
    nothing = {"before": texts({}, missing=300), "now": texts({}, missing=300)}
    found = finding(HOLD, f_a=ALIKE, score=nothing)
    assert (found.state, found.comparisons[Comparison.CHAMPION].without_values) == ("ok", ("score",))
    assert finding(HOLD | {"columns": {"score": {"role": "hold"}}}, f_a=ALIKE, score=nothing).state == "missing"
    assert finding(HOLD, score=nothing).state == "missing"  # nothing is left to compare


def test_the_finding_is_plain_json_with_the_drifted_columns_first() -> None:
    told = json.loads(json.dumps(finding(HOLD, f_a=ALIKE, f_b=DRIFTED, f_c=UNKNOWN).to_dict(), allow_nan=False))
    columns = told["comparisons"]["champion"]["columns"]
    assert list(columns) == ["f_b", "f_c", "f_a"]
    assert columns["f_b"]["drifted"] is True
    assert columns["f_c"]["psi"] is None
    assert "1 of 3 columns drifted: f_b (psi" in told["detail"]
    assert "not fully computed: f_c (4 values in the 4 rows" in told["detail"]
