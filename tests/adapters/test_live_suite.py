"""The data checks of a model that serves, in or out of rollouts, on rows of a real Delta table."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.unit_log import START, Bench, row

from model_rollouts.adapters.feature_contract import feature_expectations
from model_rollouts.adapters.great_expectations import ValidationResult, validate
from model_rollouts.ports import ModelVersion

SUITES = Path(__file__).parents[2] / "expectations"
SPAN = (START, START + timedelta(hours=1))
PLAIN: dict[str, Any] = {"rollout_id": None, "stage": None, "cohort": None}


def check(root: Path, *rows: dict[str, Any]) -> ValidationResult:
    bench = Bench(root)
    bench.predictions(*rows)
    frame = bench.log.champion_frame("delays", "3", *SPAN)
    more = feature_expectations(ModelVersion("delays", "3", inputs=(("x", "double"),)), None, frame.columns)
    return validate(SUITES / "live.json", frame, out_dir=root / "out", rows_total=len(frame), window=SPAN, more=more)


def test_answers_in_and_out_of_rollouts_keep_the_contract(tmp_path: Path) -> None:
    rows = [row(f"a{i}", i, features={"x": 1.0}) for i in range(20)]
    rows += [row(f"b{i}", i, features={"x": 1.0}, **PLAIN) for i in range(20)]
    rows += [row("other", 1, rollout_id="another", stage=3, features={"x": 1.0})]
    result = check(tmp_path, *rows)
    assert result.success is True, result.reason
    assert result.rows_checked == 41


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"latency_ms": -1.0}, "latency_ms"),
        ({"status": "fine"}, "status"),
        ({"prediction": None}, "prediction"),
        ({"features": {"x": None}}, "f_x"),
    ],
)
def test_a_row_that_breaks_it_is_found(tmp_path: Path, changes: dict[str, Any], column: str) -> None:
    rows = [row(f"a{i}", i, features={"x": 1.0}, **PLAIN) for i in range(20)]
    result = check(tmp_path, *rows, row("bad", 30, **{"features": {"x": 1.0}} | PLAIN | changes))
    assert result.success is False
    assert column in {failure.column for failure in result.failed}


def test_it_asks_what_the_suite_of_a_stage_asks_but_for_the_stage() -> None:
    """So that each of its expectations is seen failing by the tests of that suite."""
    live, stage = (
        {json.dumps([e["type"], e["kwargs"]], sort_keys=True) for e in json.loads(path.read_text())["expectations"]}
        for path in (SUITES / "live.json", SUITES / "predictions.json")
    )
    narrowed = [json.loads(each) for each in live - stage]
    assert sorted((kind, kwargs["column"]) for kind, kwargs in narrowed) == [
        ("expect_column_unique_value_count_to_be_between", "version"),
        ("expect_column_values_to_be_in_set", "arm"),
        ("expect_column_values_to_be_in_set", "cohort"),
    ]
    left_out = {json.loads(each)[1]["column"] for each in stage - live}
    assert left_out == {"rollout_id", "stage", "version", "arm", "cohort"}
