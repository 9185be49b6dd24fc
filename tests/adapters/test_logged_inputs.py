"""What a model was asked, told from the log."""

import math
from typing import Any

import pytest

from model_rollouts.adapters.logged_inputs import LoggedInputsError, inputs_from_row, rebuilt_inputs
from model_rollouts.core.errors import NotReadyError
from model_rollouts.ports import ModelVersion

INPUTS = (
    ("distance", "double"),
    ("hour", "long"),
    ("hub", "boolean"),
    ("carrier", "string"),
    ("left", "datetime"),
    ("photo", "binary"),
    ("weight", "float"),
    ("rows", "integer"),
)
ROW = {
    "request_id": "r1",
    "f_distance": 733.5,
    "f_hour": 17.0,
    "f_hub": 1.0,
    "f_carrier": "UA",
    "f_left": "2013-01-01T17:00:00.000000",
    "f_photo": "aGk=",
    "f_weight": 2.0,
    "f_rows": -3.0,
    "f_unknown": 1.0,
}


def test_every_plain_type_comes_back_as_a_caller_sent_it() -> None:
    made = inputs_from_row(ROW, INPUTS, frozenset())
    assert made == {
        "distance": 733.5,
        "hour": 17,
        "hub": True,
        "carrier": "UA",
        "left": "2013-01-01T17:00:00.000000",
        "photo": "aGk=",
        "weight": 2.0,
        "rows": -3,
    }
    assert [type(made[name]) for name in ("hour", "hub", "rows", "weight")] == [int, bool, int, float]


@pytest.mark.parametrize("null", [None, math.nan])
def test_an_optional_input_without_a_value_is_left_out(null: Any) -> None:
    made = inputs_from_row(ROW | {"f_hour": null}, INPUTS, frozenset({"hour"}))
    assert "hour" not in made


def test_an_optional_input_may_have_no_column() -> None:
    row = {name: value for name, value in ROW.items() if name != "f_hour"}
    assert "hour" not in inputs_from_row(row, INPUTS, frozenset({"hour"}))


@pytest.mark.parametrize("name", ["distance", "carrier", "left", "weight"])
def test_a_null_that_the_model_was_given_is_given_again(name: str) -> None:
    assert inputs_from_row(ROW | {f"f_{name}": None}, INPUTS, frozenset())[name] is None


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("f_hour", None, "input hour (long) has no value"),
        ("f_hub", math.nan, "input hub (boolean) has no value"),
        ("f_photo", None, "input photo (binary) has no value"),
        ("f_hour", 17.5, "input hour (long) is 17.5 in the log"),
        ("f_hour", 2.0**53, "which whole number"),
        ("f_hub", 2.0, "must be 0 or 1"),
        ("f_distance", math.inf, "must be a finite number"),
        ("f_distance", "far", "must be a finite number"),
        ("f_carrier", 3.0, "must be text"),
    ],
)
def test_what_can_not_be_told_is_an_error_that_names_input_and_value(column: str, value: Any, said: str) -> None:
    with pytest.raises(LoggedInputsError) as error:
        inputs_from_row(ROW | {column: value}, INPUTS, frozenset())
    assert said in str(error.value)


def test_an_input_without_a_column_is_named() -> None:
    row = {name: value for name, value in ROW.items() if name != "f_carrier"}
    with pytest.raises(LoggedInputsError, match=r"input carrier \(string\) is not in the log: .* column f_carrier"):
        inputs_from_row(row, INPUTS, frozenset())


def test_a_row_without_any_value_is_no_request() -> None:
    with pytest.raises(LoggedInputsError, match="none of the inputs"):
        inputs_from_row({"f_hour": None}, (("hour", "long"),), frozenset({"hour"}))


def test_versions_whose_requests_the_log_can_not_hold_are_refused() -> None:
    assert rebuilt_inputs(ModelVersion("m", "2", inputs=INPUTS)) == INPUTS
    with pytest.raises(NotReadyError, match="no signature with named inputs"):
        rebuilt_inputs(ModelVersion("m", "2"))
    with pytest.raises(NotReadyError, match=r"can't hold: tokens \(Array\)"):
        rebuilt_inputs(ModelVersion("m", "2", inputs=(("tokens", "Array"),)))
