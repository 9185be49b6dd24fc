"""Baselines that contradict themselves."""

import math
from dataclasses import replace
from typing import Any

import pytest

from model_rollouts.core.baseline import Baseline

GOOD = Baseline(10, 1, 60.0, 8, 6, 2, 5, 4, 2.5, 0.5)


def test_numbers_that_fit_together_are_kept() -> None:
    assert replace(GOOD, valued=1, value_sd=None).value_mean == 2.5
    assert replace(GOOD, valued=0, value_mean=None, value_sd=None).valued == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": -1}, "requests is -1"),
        ({"errors": 11}, "errors is 11, must be between 0 and 10"),
        ({"due": 11}, "due is 11, must be between 0 and 10"),
        ({"labelled": 9}, "labelled is 9, must be between 0 and 8"),
        ({"wrong": 7}, "wrong is 7, must be between 0 and 6"),
        ({"units": 11}, "units is 11, must be between 0 and 10"),
        ({"valued": 9}, "valued is 9, must be between 0 and 8"),
        ({"seconds": 0.0}, "seconds is 0.0, must be above 0"),
        ({"seconds": math.nan}, "seconds is nan, must be a finite number"),
        ({"value_mean": None}, "value_mean is None with 4 values"),
        ({"value_mean": math.nan}, "value_mean is nan, must be a finite number"),
        ({"value_sd": None}, "value_sd is None with 4 values"),
        ({"valued": 1}, "value_sd is 0.5 with 1 values, must be a number from 2 values on and None with fewer"),
        ({"value_sd": -0.5}, "value_sd is -0.5, must be at least 0"),
        ({"value_sd": math.inf}, "value_sd is inf, must be a finite number"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GOOD, **changes)
