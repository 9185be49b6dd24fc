"""Drift with real Evidently: seen, not seen, and not told."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model_rollouts.adapters import evidently_report
from model_rollouts.adapters.evidently_report import DriftReportError, Picture, picture, with_picture
from model_rollouts.adapters.html_page import note, page


def sample(rows: int = 300, *, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "f_distance": rng.normal(shift, 1.0, rows),
            "f_delay": rng.normal(0.0, 1.0, rows),
            "f_carrier": rng.choice(["UA", "AA", "DL"], rows),
            "prediction": rng.choice(["0", "1"], rows),
        }
    )


def shown(reference: pd.DataFrame, current: pd.DataFrame, columns: list[str] | None = None, **options: Any) -> Picture:
    return picture(reference, current, columns or list(reference.columns), **options)


def drifted(found: Picture) -> list[str]:
    return [each.column for each in found.columns if each.drifted]


def test_samples_of_one_law_show_no_drift() -> None:
    found = shown(sample(1500), sample(1500, seed=1))
    assert (drifted(found), dict(found.uncomparable)) == ([], {})
    assert {each.column for each in found.columns} == set(sample().columns)


@pytest.mark.parametrize("rows", [300, 1500])  # Evidently tests by p-value up to 1,000 rows and by distance beyond
def test_the_shifted_column_is_the_one_that_drifted(rows: int) -> None:
    found = shown(sample(rows), sample(rows, shift=1.0, seed=1))
    assert drifted(found) == ["f_distance"]
    assert found.columns[0].column == "f_distance"
    assert len(found.columns) == 4


def test_a_category_that_takes_over_drifted() -> None:
    assert drifted(shown(sample(1500), sample(1500, seed=1).assign(f_carrier="UA"))) == ["f_carrier"]


def test_the_page_is_evidentlys_below_ones_own() -> None:
    found = shown(sample(), sample(seed=1))
    own = page("a against b", [note("what is said above it")])
    whole = with_picture(own, found.html)
    assert whole.index("what is said above it") < whole.index("drawDashboard")
    assert with_picture(own, None) == own
    with pytest.raises(DriftReportError, match="has no body"):
        with_picture(own, "<html></html>")


def test_large_frames_are_sampled_the_same_way_each_time() -> None:
    first, again = (shown(sample(400), sample(400, seed=1), max_rows=100) for _ in range(2))
    assert first.rows == (100, 100)
    assert first.columns == again.columns


@pytest.mark.parametrize("side", ["reference", "current"])
def test_too_few_rows_are_not_no_drift(side: str) -> None:
    few, many = sample(29), sample(300)
    found = shown(few, many) if side == "reference" else shown(many, few)
    assert (found.columns, found.html, found.snapshot) == ((), None, None)
    assert found.uncomparable["f_delay"] == f"29 values in the {side} sample of 29 rows, needed 30"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "0 values in the current sample of 300 rows"),
        (math.nan, "0 values in the current sample of 300 rows"),
        (math.inf, "0 values in the current sample of 300 rows"),
        ("text", "numbers on one side, text on the other"),
    ],
)
def test_a_column_that_can_not_be_compared_is_named_and_the_others_shown(values: Any, message: str) -> None:
    found = shown(sample(), sample(shift=1.0, seed=1).assign(f_delay=values))
    assert message in found.uncomparable["f_delay"]
    assert drifted(found) == ["f_distance"]
    assert len(found.columns) == 3


def test_a_column_that_is_gone_is_named() -> None:
    found = shown(sample(), sample(seed=1).drop(columns="f_delay"))
    assert found.uncomparable == {"f_delay": "the current sample has no such column"}


def test_scattered_missing_and_infinite_values_are_left_out() -> None:
    current = sample(seed=1)
    current.loc[:9, "f_delay"] = math.inf
    current.loc[10:19, "f_carrier"] = None
    found = shown(sample(), current)
    assert (drifted(found), dict(found.uncomparable)) == ([], {})


def test_names_and_values_of_callers_can_not_run_in_the_page() -> None:
    evil = "</script><script>alert(1)</script>"
    reference, current = (
        sample(seed=s).assign(f_carrier=evil).rename(columns={"f_delay": f"f_{evil}"}) for s in (0, 1)
    )
    found = shown(reference, current)
    assert f"f_{evil}" in {each.column for each in found.columns}
    assert found.html is not None
    assert "alert(1)" in found.html
    assert "<script>alert(1)" not in found.html


def test_an_answer_that_contradicts_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = evidently_report._columns
    monkeypatch.setattr(evidently_report, "_columns", lambda metrics, names: columns(metrics[:-1], names))
    with pytest.raises(DriftReportError, match="tells of 3 columns"):
        shown(sample(), sample(seed=1))
