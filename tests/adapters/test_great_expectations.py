"""Data checks with real Great Expectations and the suites that are shipped: each violation is seen failing."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from model_rollouts.adapters.feature_contract import feature_expectations
from model_rollouts.adapters.great_expectations import SuiteError, ValidationResult, validate
from model_rollouts.ports import ModelVersion

SUITES = Path(__file__).parents[2] / "expectations"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = (START, START + timedelta(minutes=10))
ROWS = 8


def predictions() -> pd.DataFrame:
    """Rows that keep the contract: both arms, one failed challenger that the champion answered for."""
    arms = ["champion", "challenger"] * (ROWS // 2)
    frame = pd.DataFrame(
        {
            "request_id": [f"r{i}" for i in range(ROWS)],
            "ts": pd.to_datetime([START + timedelta(seconds=i) for i in range(ROWS)]),
            "model": "delays",
            "version": ["3" if arm == "champion" else "4" for arm in arms],
            "arm": arms,
            "cohort": arms,
            "served": True,
            "rollout_id": "ro",
            "stage": 0,
            "unit_id": None,
            "status": "ok",
            "error": None,
            "latency_ms": 3.5,
            "prediction": "1",
            "score": [0.5, math.nan] * (ROWS // 2),
            "gateway_id": "g1",
            "traffic_revision": 2,
            "f_distance": 100.0,
            "f_carrier": "UA",
        }
    )
    frame.loc[1, ["status", "error", "prediction", "served"]] = ["error", "ValueError: no", None, False]
    frame.loc[2, ["request_id", "cohort"]] = ["r1", "challenger"]
    return frame


def outcomes() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "request_id": ["r0", "r0", "r1"],
            "ts": pd.to_datetime([START, START + timedelta(seconds=1), START]),
            "label": ["1", "0", None],
            "value": [None, None, 2.5],
        }
    )


def check(name: str, frame: pd.DataFrame, out_dir: Path, **options: Any) -> ValidationResult:
    return validate(
        SUITES / f"{name}.json", frame, out_dir=out_dir, rows_total=max(len(frame), 100), window=WINDOW, **options
    )


def inputs(*names: str, tolerance: float = 0.0) -> list[dict[str, Any]]:
    """What is expected of a model's required inputs."""
    version = ModelVersion("m", "1", inputs=tuple((name, "double") for name in names))
    return feature_expectations(version, None, (), tolerance)


def check_one(name: str, frame: pd.DataFrame, expectation: str, column: str, out_dir: Path) -> ValidationResult:
    """Check against the part of a shipped suite that is of one kind and column: the whole takes a second."""
    spec = json.loads((SUITES / f"{name}.json").read_text())
    spec["expectations"] = [
        e
        for e in spec["expectations"]
        if e["type"] == expectation and (e["kwargs"].get("column") or ", ".join(e["kwargs"]["column_list"])) == column
    ]
    suite = out_dir / "suite.json"
    suite.write_text(json.dumps(spec))
    return validate(suite, frame, out_dir=out_dir, rows_total=100, window=WINDOW)


def put(column: str, value: Any, at: int = 0) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype(object) if not isinstance(value, (float, datetime)) else frame[column]
        frame.loc[at, column] = value
        return frame

    return change


def repeat(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[:1]], ignore_index=True)


def test_rows_that_keep_the_contract_pass_and_the_files_say_so(tmp_path: Path) -> None:
    result = check("predictions", predictions(), tmp_path, more=inputs("distance", "carrier"))
    assert (result.failed, result.success) == ((), True)
    assert (result.rows_checked, result.rows_total) == (ROWS, 100)
    document = json.loads(result.files[0].read_text())
    assert document["success"] is True
    assert len(document["results"]) == result.evaluated
    page = result.files[1].read_text()
    assert "A sample: 8 of 100 rows were checked." in page
    assert "http" not in page


_REQUIRED = [
    "request_id", "ts", "model", "version", "arm", "served", "rollout_id", "stage", "status", "latency_ms",
    "gateway_id", "traffic_revision",
]  # fmt: skip
_COLUMNS = [*_REQUIRED, "cohort", "unit_id", "error", "prediction", "score"]


_PREDICTION_CASES: list[tuple[Any, str, str]] = [
    *((put(name, None), "expect_column_values_to_not_be_null", name) for name in _REQUIRED),
    (put("latency_ms", math.nan), "expect_column_values_to_not_be_null", "latency_ms"),
    (put("latency_ms", math.inf), "expect_column_values_to_be_between", "latency_ms"),
    (put("latency_ms", -0.1), "expect_column_values_to_be_between", "latency_ms"),
    (put("latency_ms", 1e9), "expect_column_values_to_be_between", "latency_ms"),
    (put("score", math.inf), "expect_column_values_to_be_between", "score"),
    (put("score", -math.inf), "expect_column_values_to_be_between", "score"),
    (put("prediction", None), "expect_column_values_to_not_be_null", "prediction"),
    (put("prediction", "nan"), "expect_column_values_to_not_be_in_set", "prediction"),
    (put("request_id", ""), "expect_column_value_lengths_to_be_between", "request_id"),
    (put("ts", START - timedelta(microseconds=1)), "expect_column_values_to_be_between", "ts"),
    (put("ts", WINDOW[1]), "expect_column_values_to_be_between", "ts"),
    (put("arm", "Champion"), "expect_column_values_to_be_in_set", "arm"),
    (put("cohort", "control"), "expect_column_values_to_be_in_set", "cohort"),
    (put("served", "yes"), "expect_column_values_to_be_in_set", "served"),
    (put("status", "OK"), "expect_column_values_to_be_in_set", "status"),
    (put("model", "other"), "expect_column_unique_value_count_to_be_between", "model"),
    (put("rollout_id", "other"), "expect_column_unique_value_count_to_be_between", "rollout_id"),
    (put("version", "5"), "expect_column_unique_value_count_to_be_between", "version"),
    (put("version", "5", at=3), "expect_column_unique_value_count_to_be_between", "version"),
    (put("stage", -1), "expect_column_values_to_be_between", "stage"),
    (put("traffic_revision", 0), "expect_column_values_to_be_between", "traffic_revision"),
    (put("served", True, at=1), "expect_column_values_to_be_unique", "request_id"),
    (repeat, "expect_compound_columns_to_be_unique", "request_id, arm"),
]


@pytest.mark.parametrize(("change", "expectation", "column"), _PREDICTION_CASES)
def test_a_prediction_that_breaks_the_contract_is_found_and_named(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], expectation: str, column: str
) -> None:
    assert check_one("predictions", predictions(), expectation, column, tmp_path).success is True
    result = check_one("predictions", change(predictions()), expectation, column, tmp_path)
    assert result.success is False
    assert {(f.expectation, f.column) for f in result.failed} == {(expectation, column)}


def test_every_column_of_the_contract_must_be_there(tmp_path: Path) -> None:
    result = check("predictions", predictions().drop(columns=_COLUMNS), tmp_path)
    missing = {f.column for f in result.failed if f.expectation == "expect_column_to_exist"}
    assert missing == set(_COLUMNS)


_OUTCOME_CASES: list[tuple[Any, str, str]] = [
    (put("request_id", None), "expect_column_values_to_not_be_null", "request_id"),
    (put("request_id", ""), "expect_column_value_lengths_to_be_between", "request_id"),
    (put("ts", None), "expect_column_values_to_not_be_null", "ts"),
    (put("ts", WINDOW[1]), "expect_column_values_to_be_between", "ts"),
    (put("label", None), "expect_column_values_to_not_be_null", "label"),
    (put("label", ""), "expect_column_value_lengths_to_be_between", "label"),
    (put("label", "NaN"), "expect_column_values_to_not_be_in_set", "label"),
    (put("value", math.inf), "expect_column_values_to_be_between", "value"),
    (repeat, "expect_compound_columns_to_be_unique", "request_id, ts"),
    (lambda frame: frame.drop(columns="value"), "expect_column_to_exist", "value"),
]


@pytest.mark.parametrize(("change", "expectation", "column"), _OUTCOME_CASES)
def test_an_outcome_that_breaks_the_contract_is_found_and_named(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], expectation: str, column: str
) -> None:
    assert check_one("outcomes", outcomes(), expectation, column, tmp_path).success is True
    result = check_one("outcomes", change(outcomes()), expectation, column, tmp_path)
    assert result.success is False
    assert {(f.expectation, f.column) for f in result.failed} == {(expectation, column)}


def test_outcomes_that_keep_the_contract_pass(tmp_path: Path) -> None:
    assert check("outcomes", outcomes(), tmp_path).success is True


def test_every_expectation_that_is_shipped_is_seen_failing() -> None:
    """The cases above name each of them, but for columns that must exist and rows that must be there."""
    for name, cases in (("predictions", _PREDICTION_CASES), ("outcomes", _OUTCOME_CASES)):
        shipped = {
            (e["type"], e["kwargs"].get("column") or ", ".join(e["kwargs"].get("column_list", ())))
            for e in json.loads((SUITES / f"{name}.json").read_text())["expectations"]
            if e["type"] not in ("expect_column_to_exist", "expect_table_row_count_to_be_between")
        }
        assert shipped == {case[1:] for case in cases if case[1] != "expect_column_to_exist"}


@pytest.mark.parametrize("name", ["predictions", "outcomes"])
def test_no_rows_are_never_a_success(tmp_path: Path, name: str) -> None:
    frame = (predictions() if name == "predictions" else outcomes()).iloc[:0]
    result = check(name, frame, tmp_path)
    assert result.success is False
    assert result.reason == "no rows to check, of 100 in the log"
    assert json.loads(result.files[0].read_text())["success"] is False


def test_no_rows_fail_even_a_suite_that_does_not_ask_for_any(tmp_path: Path) -> None:
    suite = tmp_path / "suite.json"
    suite.write_text('{"name": "s", "expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "a"}}]}')
    assert validate(suite, pd.DataFrame({"a": [1]}), out_dir=tmp_path, rows_total=1).success is True
    assert validate(suite, pd.DataFrame({"a": []}), out_dir=tmp_path, rows_total=0).success is False


def test_a_suite_without_expectations_is_refused(tmp_path: Path) -> None:
    suite = tmp_path / "suite.json"
    suite.write_text('{"name": "s", "expectations": []}')
    with pytest.raises(SuiteError, match="could only pass"):
        validate(suite, predictions(), out_dir=tmp_path, rows_total=ROWS)


def test_a_required_input_must_be_there_and_filled(tmp_path: Path) -> None:
    frame = predictions()
    frame.loc[0, "f_distance"] = math.nan
    result = check("predictions", frame, tmp_path, more=inputs("distance", "gone"))
    failed = {(f.expectation, f.column, f.unexpected) for f in result.failed}
    assert failed == {
        ("expect_column_values_to_not_be_null", "f_distance", 1),
        ("expect_column_to_exist", "f_gone", None),
        ("expect_column_values_to_not_be_null", "f_gone", None),
    }
    assert check("predictions", frame, tmp_path, more=inputs("distance", tolerance=0.2)).success is True


def test_an_impossible_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="missing_tolerance is 1, must be at least 0 and below 1"):
        inputs("distance", tolerance=1)


def test_what_callers_sent_is_shown_as_text_and_cut(tmp_path: Path) -> None:
    frame = put("status", "<script>alert(1)</script>" + "x" * 500)(predictions())
    result = check("predictions", frame, tmp_path)
    (failure,) = [f for f in result.failed if f.column == "status"]
    assert (failure.unexpected, failure.checked, len(failure.examples[0])) == (1, ROWS, 100)
    page = result.files[1].read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page


def test_a_total_below_the_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows_total is 1, must be at least the frame's 8 rows"):
        validate(SUITES / "predictions.json", predictions(), out_dir=tmp_path, rows_total=1)
