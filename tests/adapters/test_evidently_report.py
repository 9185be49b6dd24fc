"""Drift with real Evidently: seen, not seen, and not told."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model_rollouts.adapters import evidently_report
from model_rollouts.adapters.evidently_report import DriftReportError, DriftResult, drift_report


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


def report(
    reference: pd.DataFrame, current: pd.DataFrame, out_dir: Path, columns: list[str] | None = None, **options: Any
) -> DriftResult:
    given: dict[str, Any] = {"rows_reference": len(reference), "rows_current": len(current), "title": "a against b"}
    return drift_report(reference, current, columns or list(reference.columns), out_dir=out_dir, **given | options)


def test_samples_of_one_law_show_no_drift(tmp_path: Path) -> None:
    result = report(sample(1500), sample(1500, seed=1), tmp_path)
    assert (result.computed, result.share) == (True, 0.0)
    assert set(result.columns) == set(sample().columns)


@pytest.mark.parametrize("rows", [300, 1500])  # Evidently tests by p-value up to 1,000 rows and by distance beyond
def test_the_shifted_column_is_the_one_that_drifted(tmp_path: Path, rows: int) -> None:
    result = report(sample(rows), sample(rows, shift=1.0, seed=1), tmp_path)
    assert result.computed is True
    assert [name for name, column in result.columns.items() if column.drifted] == ["f_distance"]
    assert result.share == 0.25
    assert result.reason == "1 of 4 columns drifted: f_distance"
    document = json.loads(result.files[0].read_text())
    assert document["columns"]["f_distance"]["drifted"] is True
    assert document["title"] == "a against b"


def test_a_category_that_takes_over_drifted(tmp_path: Path) -> None:
    current = sample(1500, seed=1).assign(f_carrier="UA")
    assert report(sample(1500), current, tmp_path).columns["f_carrier"].drifted is True


def test_the_page_says_what_was_compared_and_how_many_rows(tmp_path: Path) -> None:
    result = report(sample(), sample(seed=1), tmp_path, rows_reference=5_000, rows_current=40_000)
    page = result.files[1].read_text()
    assert "Reference: 300 of 5,000 rows. Current: 300 of 40,000 rows." in page
    assert "a against b" in page
    assert "drawDashboard" in page  # Evidently's own part is there


def test_large_frames_are_sampled_the_same_way_each_time(tmp_path: Path) -> None:
    first = report(sample(400), sample(400, seed=1), tmp_path, max_rows=100)
    again = report(sample(400), sample(400, seed=1), tmp_path, max_rows=100)
    assert (first.rows_reference, first.rows_current, first.total_current) == (100, 100, 400)
    assert first.columns == again.columns


@pytest.mark.parametrize("side", ["reference", "current"])
def test_too_few_rows_are_not_no_drift(tmp_path: Path, side: str) -> None:
    few, many = sample(29), sample(300)
    result = report(few, many, tmp_path) if side == "reference" else report(many, few, tmp_path)
    assert (result.computed, result.share, dict(result.columns)) == (False, None, {})
    assert f"29 values in the {side} sample of 29 rows, needed 30" in result.reason
    assert json.loads(result.files[0].read_text())["computed"] is False
    assert "not computed" in result.files[1].read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "0 values in the current sample of 300 rows"),
        (math.nan, "0 values in the current sample of 300 rows"),
        (math.inf, "0 values in the current sample of 300 rows"),
        ("text", "numbers on one side, text on the other"),
    ],
)
def test_a_column_that_can_not_be_compared_leaves_the_drift_untold_and_the_others_shown(
    tmp_path: Path, values: Any, message: str
) -> None:
    current = sample(shift=1.0, seed=1).assign(f_delay=values)
    result = report(sample(), current, tmp_path)
    assert (result.computed, result.share) == (False, None)
    assert message in result.uncomparable["f_delay"]
    assert result.columns["f_distance"].drifted is True
    assert result.reason.endswith("1 of 3 columns drifted: f_distance")


def test_a_column_that_is_gone_leaves_the_drift_untold(tmp_path: Path) -> None:
    result = report(sample(), sample(seed=1).drop(columns="f_delay"), tmp_path)
    assert result.computed is False
    assert result.uncomparable == {"f_delay": "the current sample has no such column"}


def test_scattered_missing_and_infinite_values_are_left_out(tmp_path: Path) -> None:
    current = sample(seed=1)
    current.loc[:9, "f_delay"] = math.inf
    current.loc[10:19, "f_carrier"] = None
    result = report(sample(), current, tmp_path)
    assert (result.computed, result.share) == (True, 0.0)


def test_names_and_values_of_callers_can_not_run_in_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    reference, current = (
        sample(seed=s).assign(f_carrier=evil).rename(columns={"f_delay": f"f_{evil}"}) for s in (0, 1)
    )
    result = report(reference, current, tmp_path)
    assert f"f_{evil}" in result.columns
    page = result.files[1].read_text()
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page


def test_an_answer_that_contradicts_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = evidently_report._columns
    monkeypatch.setattr(evidently_report, "_columns", lambda metrics, shown: columns(metrics[:-1], shown))
    with pytest.raises(DriftReportError, match="tells of 3 columns"):
        report(sample(), sample(seed=1), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 29}, "max_rows is 29, must be between 30 and 50000"),
        ({"max_rows": 50_001}, "max_rows is 50001, must be between 30 and 50000"),
        ({"rows_reference": 299}, "rows_reference is 299, must be at least the sample's 300 rows"),
        ({"columns": ["f_delay", "f_delay"]}, "must name at least one column, each once"),
    ],
)
def test_arguments_out_of_bounds_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        report(sample(), sample(seed=1), tmp_path, **options)
    assert not list(tmp_path.iterdir())
