"""Data checks over all rows of a real log, part by part: what is found is what is found on all of them at once."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.adapters.log_kinds import damage

from model_rollouts.adapters import checked_rows
from model_rollouts.adapters.checked_rows import LogRows, champion_rows, outcome_rows, stage_rows
from model_rollouts.adapters.delta_log import LogReadError
from model_rollouts.adapters.feature_contract import feature_expectations
from model_rollouts.adapters.great_expectations import ValidationResult, validate
from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.core.profile import ColumnProfile, Profile, column_of_numbers, grid_of
from model_rollouts.ports import ModelVersion

SUITES = Path(__file__).parents[2] / "expectations"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = (START, START + timedelta(minutes=10))
ROWS = 60


def row(number: int, **changes: Any) -> dict[str, Any]:
    arm = ("champion", "challenger")[number % 2]
    return {
        "request_id": f"r{number}",
        "ts": START + timedelta(seconds=number),
        "model": "delays",
        "version": "3" if arm == "champion" else "4",
        "arm": arm,
        "cohort": arm,
        "served": True,
        "rollout_id": "ro",
        "stage": 0,
        "status": "ok",
        "latency_ms": 3.5,
        "prediction": "1",
        "gateway_id": "g1",
        "traffic_revision": 2,
        "features": {"distance": 100 + number, "carrier": "UA"},
    } | changes


def write(root: LogRoot, rows: list[dict[str, Any]], table: Any = "predictions") -> None:
    log_appender(root, f"g-{table}").append("delays", table, rows, 0)


def good() -> list[dict[str, Any]]:
    return [row(i) for i in range(ROWS)]


@pytest.fixture
def delta_log(tmp_path: Path) -> Path:
    """An empty log of Delta tables."""
    return tmp_path / "log"


def check(rows: Any, out_dir: Path, suite: str = "predictions", **options: Any) -> ValidationResult:
    return validate(SUITES / f"{suite}.json", rows, out_dir=out_dir, window=WINDOW, **options)


def stage(root: LogRoot, part_rows: int = 25, most: int = 1_000) -> LogRows:
    rows = stage_rows(root, "delays", "ro", 0, *WINDOW)
    rows._part_rows, rows._most = part_rows, most
    return rows


def found(result: ValidationResult) -> Any:
    return (
        result.success,
        result.rows_checked,
        sorted((f.expectation, f.column, f.condition, f.unexpected, f.checked) for f in result.failed),
    )


def test_rows_that_keep_the_contract_pass_and_all_of_them_were_looked_at(delta_log: Path, tmp_path: Path) -> None:
    write(delta_log, good())
    with stage(delta_log) as rows:
        result = check(rows, tmp_path)
        assert len(list(rows.frames())) == 3
    assert result.success, result.reason
    assert (result.rows_checked, result.rows_total, result.sampled) == (ROWS, ROWS, 0)


def test_parts_say_the_same_as_all_rows_at_once(log_root: LogRoot, tmp_path: Path) -> None:
    broken = good()
    for number in (3, 17, 31):
        broken[number] |= {"status": "gone", "latency_ms": -1.0}
    broken[8] |= {"version": "5"}  # a second champion, in one part alone
    broken[20] |= {"prediction": None}
    broken += [row(2, ts=START + timedelta(seconds=i)) for i in range(100, 104)]  # repeats
    write(log_root, broken)
    with stage(log_root) as rows, stage(log_root, part_rows=10_000) as whole:
        assert len(list(whole.frames())) == 1
        parts, once = found(check(rows, tmp_path)), found(check(whole, tmp_path))
    assert parts == once
    names = {failure[0] for failure in parts[2]}
    assert {"expect_column_unique_value_count_to_be_between", "expect_compound_columns_to_be_unique"} <= names
    assert ("expect_column_values_to_be_in_set", "status", "", 3, 64) in parts[2]


def test_a_share_of_strays_is_let_pass_over_all_rows_and_not_in_each_part(delta_log: Path, tmp_path: Path) -> None:
    rows = good()
    rows[0]["features"] = {"distance": -1e9, "carrier": "UA"}
    write(delta_log, rows)
    bounds = {"column": "f_distance", "min_value": 0}
    more = [{"type": "expect_column_values_to_be_between", "kwargs": bounds | {"mostly": 0.98}}]
    stricter = [{"type": "expect_column_values_to_be_between", "kwargs": bounds | {"mostly": 0.99}}]
    with stage(delta_log) as rows:
        assert check(rows, tmp_path, more=more).success
        assert not check(rows, tmp_path, more=stricter).success


def test_more_rows_than_may_be_are_drawn_by_request_and_it_says_so(delta_log: Path, tmp_path: Path) -> None:
    write(delta_log, good())
    with stage(delta_log, most=20) as rows:
        result = check(rows, tmp_path)
        first = pd.concat(rows.frames())["request_id"].tolist()
    assert 0 < result.rows_checked < ROWS
    assert result.rows_total == ROWS
    assert f"(on {result.rows_checked} of {ROWS} rows)" in result.reason
    with stage(delta_log, most=20) as again:
        assert pd.concat(again.frames())["request_id"].tolist() == first


def test_one_request_that_has_all_the_rows_does_not_fill_the_memory(delta_log: Path, tmp_path: Path) -> None:
    write(delta_log, [row(i, request_id="always") for i in range(ROWS)])
    with stage(delta_log, part_rows=7) as rows:
        assert max(len(frame) for frame in rows.frames()) == 28
        result = check(rows, tmp_path)
    assert (result.success, result.rows_checked, result.rows_total) == (False, 28, ROWS)


def test_what_can_not_be_added_up_is_looked_at_in_one_part_and_says_so(delta_log: Path, tmp_path: Path) -> None:
    write(delta_log, good())
    mean = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "latency_ms", "min_value": 3.5}}
    with stage(delta_log) as rows:
        result = check(rows, tmp_path, more=[mean])
    assert (result.success, result.sampled) == (True, 1)
    page = (tmp_path / "data_checks_predictions.html").read_text()
    assert "1 expectations can&#x27;t be added up" in page
    assert "Evaluated on one part of the rows alone" in page


def test_an_expectation_that_can_not_be_evaluated_does_not_hold(delta_log: Path, tmp_path: Path) -> None:
    write(delta_log, good())
    more = [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "f_carrier", "min_value": 0}}]
    more += [
        {"type": "expect_column_unique_value_count_to_be_between", "kwargs": {"column": "nowhere", "max_value": 1}}
    ]
    with stage(delta_log) as rows:
        result = check(rows, tmp_path, more=more)
    assert {failure.column for failure in result.failed} == {"f_carrier", "nowhere"}


def values(**arguments: Any) -> list[dict[str, Any]]:
    return [{"type": "expect_column_unique_value_count_to_be_between", "kwargs": arguments}]


def test_more_values_than_are_looked_at_one_by_one_are_counted_all_the_same(
    delta_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = good()
    rows[5]["features"] = {"distance": float("nan"), "carrier": "UA"}
    write(delta_log, rows)
    monkeypatch.setattr(checked_rows, "_MOST_DISTINCT", 10)
    with stage(delta_log) as found_rows:
        above = check(found_rows, tmp_path, more=values(column="f_distance", max_value=20))
        within = check(found_rows, tmp_path, more=values(column="f_distance", min_value=59, max_value=59))
    assert [failure.examples for failure in above.failed] == [("observed 59",)]
    assert within.success, within.reason


@pytest.mark.parametrize(("column", "told"), [("status", " and status"), ("request_id", "")])
def test_combinations_that_are_too_many_to_be_looked_at_do_not_pass(
    delta_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, told: str
) -> None:
    write(delta_log, good())
    monkeypatch.setattr(checked_rows, "_MOST_DISTINCT", 10)
    condition = {"type": "comparison", "column": {"name": column}, "operator": "!=", "parameter": "no"}
    more = values(column="request_id", max_value=1_000, row_condition=condition)
    with stage(delta_log) as rows:
        result = check(rows, tmp_path, more=more)
    assert not result.success
    assert f"request_id{told} have more than 10 combinations" in result.failed[0].detail
    monkeypatch.setattr(checked_rows, "_MOST_DISTINCT", 60)
    with stage(delta_log) as rows:
        assert check(rows, tmp_path, more=more).success


@pytest.mark.parametrize("written", [False, True])
def test_no_rows_are_never_a_success(log_root: LogRoot, tmp_path: Path, written: bool) -> None:
    if written:
        write(log_root, [row(0, stage=1)])
    with stage(log_root) as rows:
        result = check(rows, tmp_path)
    assert (result.success, result.rows_checked) == (False, 0)


def test_a_log_that_can_not_be_read_is_an_error(log_root: LogRoot) -> None:
    write(log_root, good())
    damage(log_root, "delays", "predictions")
    with pytest.raises(LogReadError), stage(log_root):
        pass


def test_outcomes_and_labels_are_there(log_root: LogRoot, tmp_path: Path) -> None:
    write(log_root, good())
    known = [{"request_id": f"r{i}", "ts": START + timedelta(seconds=i), "label": "1"} for i in range(ROWS)]
    write(log_root, known, "outcomes")
    outcomes = outcome_rows(log_root, "delays", *WINDOW)
    outcomes._part_rows = 25
    with outcomes as rows:
        result = check(rows, tmp_path, "outcomes")
    assert (result.success, result.rows_checked) == (True, ROWS), result.reason
    with champion_rows(log_root, "delays", "3", *WINDOW) as rows:
        frame = pd.concat(rows.frames())
    assert (len(frame), set(frame["label"])) == (ROWS // 2, {"1"})


def test_data_docs_show_what_was_found_in_all_rows(delta_log: Path, tmp_path: Path) -> None:
    broken = good()
    for number in (3, 17, 31):
        broken[number] |= {"status": "gone"}
    write(delta_log, broken)
    with stage(delta_log) as rows:
        result = check(rows, tmp_path, docs=True)
    site = tmp_path / "data_docs_predictions"
    assert site in result.files
    assert (site / "index.html").is_file()
    (page,) = site.glob("validations/**/*.html")
    text = page.read_text()
    assert "3 unexpected values found" in text
    assert "60 total rows" in text
    assert not list(site.rglob("*.gif"))
    assert 'href="data_docs_predictions/index.html"' in (tmp_path / "data_checks_predictions.html").read_text()
    assert json.loads((tmp_path / "data_checks_predictions.json").read_text())["rows_checked"] == ROWS


def test_a_log_of_no_rows_can_not_be_asked_for() -> None:
    with pytest.raises(ValueError, match="most is 0"):
        LogRows("SELECT 1", {}, {}, [], most=0)


# --- what is expected of inputs


def numbers(values: list[float], missing: int = 0) -> ColumnProfile:
    grid = grid_of(sorted(values))
    counts: dict[int, int] = {}
    for value in values:
        counts[grid.index(value)] = counts.get(grid.index(value), 0) + 1
    return column_of_numbers(grid, counts, missing, 0)


VERSION = ModelVersion(
    "delays",
    "4",
    inputs=(("distance", "double"), ("carrier", "string"), ("hour", "long")),
    optional=frozenset({"hour"}),
)
PROFILE = Profile(
    20,
    {
        "distance": numbers([float(i) for i in range(100, 120)]),
        "carrier": ColumnProfile("text", categories={"UA": 15, "AA": 5, "never": 0}),
        "hour": numbers([float(i) for i in range(15)], missing=5),
    },
)


def test_without_a_profile_the_signature_alone_counts() -> None:
    made = feature_expectations(VERSION, None, ["f_distance", "f_carrier"])
    assert [(each["type"], each["kwargs"]["column"]) for each in made] == [
        ("expect_column_to_exist", "f_distance"),
        ("expect_column_values_to_not_be_null", "f_distance"),
        ("expect_column_to_exist", "f_carrier"),
        ("expect_column_values_to_not_be_null", "f_carrier"),
    ]
    assert feature_expectations(ModelVersion("delays", "4"), PROFILE, []) == []


def test_inputs_may_move_on_from_the_training_data_and_be_no_others(delta_log: Path, tmp_path: Path) -> None:
    def rows(at: int, **features: Any) -> dict[str, Any]:
        return row(at, features={"distance": 400.0, "carrier": "UA", "hour": 5.0} | features)

    write(delta_log, [rows(i, carrier="UA" if i % 3 else "new") for i in range(40)])
    write_more = log_appender(delta_log, "more")
    strange = [rows(40 + i, distance=1e6, carrier="XX", hour=None) for i in range(60)]
    with stage(delta_log) as found_rows:
        more = feature_expectations(VERSION, PROFILE, found_rows.columns)
        assert check(found_rows, tmp_path, more=more).success
    write_more.append("delays", "predictions", strange, 0)
    with stage(delta_log) as found_rows:
        result = check(found_rows, tmp_path, more=more)
    failed = {(failure.expectation, failure.column) for failure in result.failed}
    assert failed == {
        ("expect_column_values_to_be_between", "f_distance"),
        ("expect_column_values_to_be_in_set", "f_carrier"),
        ("expect_column_values_to_not_be_null", "f_hour"),
    }


def test_texts_of_which_there_were_too_many_are_not_held_to_those_that_are_known() -> None:
    many = Profile(20, {"carrier": ColumnProfile("text", categories={"UA": 15}, rest=5)})
    made = feature_expectations(VERSION, many, [])
    assert "expect_column_values_to_be_in_set" not in {each["type"] for each in made}
