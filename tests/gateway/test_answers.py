"""From a model's output to answers and log columns."""

import json
import math
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model_rollouts.gateway.answers import Answer, Failure, OutputError, body, canonical, failure, split


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (True, "1"),
        (np.bool_(False), "0"),
        (np.int64(7), "7"),
        (0.25, "0.25"),
        (np.float64(0.1), "0.1"),
        (-0.0, "0"),
        (1e20, "100000000000000000000"),
        ("late", "late"),
        ({"b": 1, "a": [0.5]}, '{"a":[0.5],"b":1}'),
    ],
)
def test_one_answer_has_one_text_whatever_its_type(value: Any, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize(
    ("output", "prediction", "score", "shown"),
    [
        (np.array([1, 0]), "1", None, 1),
        (np.array([1.5, 0.0]), "1.5", 1.5, 1.5),
        (np.array(["late", "on time"]), "late", None, "late"),
        (["a", "b"], "a", None, "a"),
        ([0.5, 0.1], "0.5", 0.5, 0.5),
        (pd.Series([3, 4], name="p"), "3", None, {"p": 3}),
        (pd.Series([3, 4]), "3", None, {"0": 3}),
        (np.array([[0.25], [0.5]]), "0.25", 0.25, [0.25]),
        (np.array([[0.2, 0.8], [0.9, 0.1]]), "1", 0.8, [0.2, 0.8]),
        (np.array([[20.0, 80.0], [1.0, 2.0]]), "[20.0,80.0]", None, [20.0, 80.0]),
        (np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]), "[0.2,0.3,0.5]", None, [0.2, 0.3, 0.5]),
        (pd.DataFrame({"prediction": [1, 0], "score": [0.7, 0.2]}), "1", 0.7, {"prediction": 1, "score": 0.7}),
        (
            pd.DataFrame({"prediction": ["a", "b"], "probability": [0.7, 0.2]}),
            "a",
            0.7,
            {"prediction": "a", "probability": 0.7},
        ),
        (pd.DataFrame({"x": [1, 0], "y": [2, 2]}), '{"x":1,"y":2}', None, {"x": 1, "y": 2}),
        ([{"prediction": "z", "score": 0.5}, {"prediction": "y"}], "z", 0.5, {"prediction": "z", "score": 0.5}),
        ([datetime(2026, 1, 2), datetime(2026, 1, 3)], '"2026-01-02T00:00:00"', None, "2026-01-02T00:00:00"),  # noqa: DTZ001  # models return naive dates
    ],
)
def test_prediction_score_and_answer_are_taken_from_every_kind_of_output(
    output: Any, prediction: str, score: float | None, shown: Any
) -> None:
    answers = split(output, 2)
    first = answers[0]
    assert isinstance(first, Answer)
    assert (first.prediction, first.score, json.loads(first.json)) == (prediction, score, shown)
    assert len(json.loads(body([a for a in answers if isinstance(a, Answer)]))["predictions"]) == 2


@pytest.mark.parametrize(
    "output",
    [
        np.array([math.nan, 1.0]),
        np.array([math.inf, 1.0]),
        [None, 1],
        [pd.NA, 1],
        np.array([[math.nan, math.nan], [0.5, 0.5]]),
        np.array([[0.1, math.nan, 0.2], [0.1, 0.2, 0.7]]),
        pd.DataFrame({"prediction": [math.nan, 1.0]}),
        pd.DataFrame({"prediction": [1.0, 1.0], "score": [math.nan, 0.5]}),
        pd.DataFrame({"prediction": [1, 1], "score": ["high", 0.5]}),
        [{"prediction": math.nan}, {"prediction": 1}],
        [{"a": [1, math.nan]}, {"a": [1, 2]}],
        ["\ud800", "fine"],
        [object(), 1],
    ],
)
def test_a_row_that_is_no_number_fails_alone(output: Any) -> None:
    bad, good = split(output, 2)
    assert isinstance(bad, Failure)
    assert bad.status == "error"
    assert isinstance(good, Answer)


@pytest.mark.parametrize("output", [np.array([1, 2, 3]), [1], pd.DataFrame(), np.array(5), "ab", {"a": [1, 2]}, None])
def test_an_output_that_is_not_one_answer_a_row_is_refused(output: Any) -> None:
    with pytest.raises(OutputError, match="must be"):
        split(output, 2)


def test_a_failures_reason_is_bounded_and_can_be_written() -> None:
    reason = failure(ValueError("\ud800" + "x" * 9999)).error
    assert reason.startswith("ValueError: ")
    assert len(reason.encode()) <= 500
