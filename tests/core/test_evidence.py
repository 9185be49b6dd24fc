import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.evidence import (
    LATENCY_BINS,
    LATENCY_RATIO,
    LabelCounts,
    Look,
    RequestCounts,
    latency_bin,
    latency_edge_ms,
)


@st.composite
def request_counts(draw: st.DrawFn) -> RequestCounts:
    latency = draw(st.dictionaries(st.integers(0, LATENCY_BINS - 1), st.integers(0, 1000), max_size=5))
    errors, untimed = draw(st.integers(0, 100)), draw(st.integers(0, 5))
    return RequestCounts(errors + untimed + sum(latency.values()), errors, latency)


@st.composite
def label_counts(draw: st.DrawFn) -> LabelCounts:
    wrong, labelled, due = sorted(draw(st.lists(st.integers(0, 10**6), min_size=3, max_size=3)))
    return LabelCounts(due, labelled, wrong)


@st.composite
def any_look(draw: st.DrawFn) -> Look:
    matured = draw(st.booleans())
    labels = (draw(label_counts()), draw(label_counts())) if matured else (None, None)
    place = draw(st.integers(0, 20)), draw(st.integers(0, 10_000))
    return Look(*place, draw(request_counts()), draw(request_counts()), *labels)


@settings(derandomize=True)
@given(any_look())
def test_a_look_survives_json_unchanged(look: Look) -> None:
    text = json.dumps(look.to_dict(), allow_nan=False)
    assert Look.from_dict(json.loads(text)) == look
    assert json.dumps(Look.from_dict(json.loads(text)).to_dict()) == text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"requests": -1}, "requests is -1, must be between 0 and"),
        ({"requests": 10**13}, "requests is 10000000000000, must be between 0 and 1000000000000"),
        ({"requests": 3, "errors": 4}, r"errors is 4, must be between 0 and 3 \(all requests\)"),
        ({"requests": 3, "errors": -1}, "errors is -1"),
        ({"requests": 3, "errors": 1, "latency": {7: 3}}, "sum of the latency bins is 3, must be between 0 and 2"),
        ({"requests": 3, "latency": {7: 4, 8: -1}}, "count of latency bin 8 is -1"),
        ({"requests": 3, "latency": {-1: 1}}, "latency bin is -1, must be between 0 and 1999"),
        ({"requests": 3, "latency": {2000: 1}}, "latency bin is 2000, must be between 0 and 1999"),
        ({"requests": 3, "latency": {"7": 1}}, "latency bin is '7'"),
        ({"requests": 3.0}, r"requests is 3.0 \(float\), must be a whole number"),
        ({"requests": math.nan}, "requests is nan"),
        ({"requests": math.inf}, "requests is inf"),
        ({"requests": "3"}, "requests is '3'"),
        ({"requests": None}, "requests is None"),
        ({"requests": True}, "requests is True"),
        ({"requests": np.int64(3)}, "pass an int"),
    ],
)
def test_request_counts_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RequestCounts(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((5, 6, 0), r"labelled is 6, must be between 0 and 5 \(all that are due\)"),
        ((5, 4, 5), r"wrong is 5, must be between 0 and 4 \(all that are labelled\)"),
        ((-1, 0, 0), "due is -1"),
        ((5, -1, 0), "labelled is -1"),
        ((5, 4, -1), "wrong is -1"),
        ((5, 4, math.nan), "wrong is nan"),
        ((5.0, 4, 1), "due is 5.0"),
        ((True, 0, 0), "due is True"),
    ],
)
def test_label_counts_that_contradict_each_other_are_refused(values: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelCounts(*values)


def test_a_look_with_labels_for_one_arm_only_is_refused() -> None:
    nothing = RequestCounts()
    with pytest.raises(ValueError, match="look 3 of stage 1 has labels for one arm only"):
        Look(1, 3, nothing, nothing, LabelCounts())
    with pytest.raises(ValueError, match="labels for one arm only"):
        Look(1, 3, nothing, nothing, None, LabelCounts())


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (0.0, 0), (0, math.nan), (True, 0)])
def test_a_look_without_a_place_is_refused(place: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Look(*place, RequestCounts(), RequestCounts())


def test_latency_bins_never_change_between_releases() -> None:
    found = {ms: latency_bin(ms) for ms in (0.0, 0.01, 0.0101, 0.0103, 1.0, 10.0, 123.4, 1000.0, 60_000.0)}
    assert found == {
        0.0: 0, 0.01: 0, 0.0101: 0, 0.0103: 1, 1.0: 232, 10.0: 348, 123.4: 475, 1000.0: 581, 60_000.0: 788,
    }  # fmt: skip


@settings(derandomize=True)
@given(st.floats(0.0100001, 1e12))
def test_a_latency_is_within_its_bin(ms: float) -> None:
    index = latency_bin(ms)
    assert 0 <= index < LATENCY_BINS
    assert latency_edge_ms(index) * (1 - 1e-9) <= ms <= latency_edge_ms(index) * LATENCY_RATIO * (1 + 1e-9)


@settings(derandomize=True)
@given(st.floats(-1e6, 1e12), st.floats(-1e6, 1e12))
def test_a_slower_answer_is_never_in_a_lower_bin(one: float, other: float) -> None:
    fast, slow = sorted((one, other))
    assert latency_bin(fast) <= latency_bin(slow)


@pytest.mark.parametrize("ms", [math.nan, math.inf, -math.inf])
def test_a_latency_that_is_no_number_gets_no_bin(ms: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        latency_bin(ms)
