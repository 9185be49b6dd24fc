"""Expectations of a model's inputs in the log: what its signature asks for, and what its training data looked like.

What training data looked like is no law: months go on, new shops open, and how far inputs moved is told by drift, with
limits of its own. A data check holds a stage, so it asks for what only a mistake can break: a number in another unit, a
code for "nothing" among the numbers, texts of which most were never seen.
"""

import math
from collections.abc import Iterable
from typing import Any

from model_rollouts.adapters.delta_schema import feature_column
from model_rollouts.core.profile import ColumnProfile, Profile
from model_rollouts.ports import ModelVersion

_STRAY = 0.05  # share of rows whose number may lie far beyond the training data
_FAR = 100.0  # times the width of the training data's range, or its largest number
_KNOWN = 0.5  # share of rows whose text has to be one of the training data's
_MORE_MISSING = 0.05  # share of rows that may lack a value beyond what the training data lacked


def feature_expectations(
    version: ModelVersion, profile: Profile | None, logged: Iterable[str], missing_tolerance: float = 0.0
) -> list[dict[str, Any]]:
    """Expectations for a suite, as JSON types.

    Args:
        version: The version; without a signature nothing is expected of its inputs.
        profile: Of its training data; None: nothing is known of it.
        logged: Columns of the rows. An optional input that is not logged is not expected.
        missing_tolerance: Share of rows in which a required input may be empty, 0 to 1.

    Raises:
        ValueError: missing_tolerance is out of its bounds.
    """
    if not 0 <= missing_tolerance < 1:
        raise ValueError(f"missing_tolerance is {missing_tolerance}, must be at least 0 and below 1")
    columns = set(logged)
    expectations: list[dict[str, Any]] = []
    for name, _ in version.inputs or ():
        column, trained = feature_column(name), None if profile is None else profile.columns.get(name)
        if name not in version.optional:
            expectations += _required(column, missing_tolerance)
        elif column not in columns:
            continue
        elif trained is not None and trained.rows:
            expectations.append(_filled(column, trained))
        if trained is not None:
            expectations += _like_training(column, trained)
    return expectations


def _required(column: str, tolerance: float) -> list[dict[str, Any]]:
    notes = "The model's signature requires this input."
    return [
        _expectation("expect_column_to_exist", notes, column=column),
        _expectation("expect_column_values_to_not_be_null", notes, column=column, mostly=1.0 - tolerance),
    ]


def _filled(column: str, trained: ColumnProfile) -> dict[str, Any]:
    share = (trained.missing + trained.not_finite) / trained.rows
    notes = f"An optional input; {share:.1%} of the training rows lacked it."
    mostly = max(0.0, 1.0 - share - _MORE_MISSING)
    return _expectation("expect_column_values_to_not_be_null", notes, column=column, mostly=mostly)


def _like_training(column: str, trained: ColumnProfile) -> list[dict[str, Any]]:
    if trained.kind == "number" and trained.low is not None and trained.high is not None:
        room = _FAR * max(trained.high - trained.low, abs(trained.high), abs(trained.low), 1.0)
        if not math.isfinite(room):
            return []
        bounds = {"min_value": trained.low - room, "max_value": trained.high + room}
        notes = f"Training data had {trained.low:g} to {trained.high:g}; beyond {_FAR:g} times that is another unit."
        return [_expectation("expect_column_values_to_be_between", notes, column=column, mostly=1.0 - _STRAY, **bounds)]
    seen = [text for text, count in trained.categories.items() if count]
    if trained.kind == "text" and seen and not trained.rest:  # else there were too many to know them all
        notes = f"Training data had {len(seen)} different texts here; most rows should have one of them."
        return [_expectation("expect_column_values_to_be_in_set", notes, column=column, value_set=seen, mostly=_KNOWN)]
    return []


def _expectation(kind: str, notes: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"notes": notes}}
