"""Outcomes are taken whole and checked, or not at all."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.outcomes import read_outcomes

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000


def read(content: Any, max_rows: int = 10) -> list[dict[str, Any]]:
    return read_outcomes(content if isinstance(content, bytes) else orjson.dumps(content), max_rows, NOW)


def test_one_a_list_and_lines_are_read_alike() -> None:
    a, b = {"request_id": "a", "label": 1}, {"request_id": "b", "value": 2}
    rows = read([a, b])
    assert rows == read(orjson.dumps(a) + b"\n" + orjson.dumps(b) + b"\n")
    assert rows[:1] == read(a) == read(orjson.dumps(a) + b"\n")
    assert rows == [
        {"request_id": "a", "ts": NOW_US, "label": "1", "value": None},
        {"request_id": "b", "ts": NOW_US, "label": None, "value": 2.0},
    ]


@pytest.mark.parametrize(("label", "text"), [(True, "1"), (1.0, "1"), ("late", "late"), (0.25, "0.25")])
def test_a_label_has_the_text_of_the_prediction_it_is_compared_with(label: Any, text: str) -> None:
    assert read({"request_id": "a", "label": label})[0]["label"] == text


@pytest.mark.parametrize(
    "ts", ["2026-05-01T10:00:00Z", "2026-05-01T12:00:00+02:00", "2026-05-01T10:00:00", 1777629600, 1777629600.0]
)
def test_times_are_iso_or_seconds(ts: Any) -> None:
    assert read({"request_id": "a", "label": 1, "ts": ts})[0]["ts"] == 1777629600 * 1_000_000


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (5, "must be an object"),
        ({"label": 1}, "request_id"),
        ({"request_id": " ", "label": 1}, "request_id"),
        ({"request_id": 5, "label": 1}, "request_id"),
        ({"request_id": "x" * 221, "label": 1}, "request_id"),
        ({"request_id": "a"}, "neither label nor value"),
        ({"request_id": "a", "label": None, "value": None}, "neither label nor value"),
        ({"request_id": "a", "lable": 1, "value": 1}, "unknown field lable"),
        ({"request_id": "a", "label": ""}, "label has 0"),
        ({"request_id": "a", "label": [1]}, "label is"),
        ({"request_id": "a", "value": "5"}, "must be a number"),
        ({"request_id": "a", "value": True}, "must be a number"),
        (b'{"request_id": "a", "value": NaN}', "must be finite"),
        (b'{"request_id": "a", "label": Infinity}', "finite number"),
        (b'{"request_id": "a", "value": 1' + b"0" * 400 + b"}", "must be finite"),
        (b'{"request_id": "\\ud800", "value": 1}', "surrogates"),
        ({"request_id": "a", "label": 1, "ts": "soon"}, "ISO 8601"),
        ({"request_id": "a", "label": 1, "ts": True}, "ISO 8601"),
        ({"request_id": "a", "label": 1, "ts": 1777629600000}, "ISO 8601"),
        ({"request_id": "a", "label": 1, "ts": "2026-05-01T12:06:00Z"}, "between"),
        ({"request_id": "a", "label": 1, "ts": 0}, "between"),
    ],
)
def test_one_wrong_outcome_refuses_all_and_is_named(wrong: Any, says: str) -> None:
    raw = wrong if isinstance(wrong, bytes) else orjson.dumps(wrong)
    with pytest.raises(BadRequestError, match=f"outcome 1: .*{says}.*none of the 2"):
        read(b'[{"request_id": "fine", "label": 1},' + raw + b"]")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "valid JSON"),
        (b"[]", "0 outcomes"),
        (b'{"request_id": "a", "label": 1}\n{"request_id": }', "line 2"),
        (orjson.dumps([{"request_id": "a", "label": 1}] * 11), "11 outcomes, must have between 1 and 10"),
    ],
)
def test_a_body_that_is_none_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        read(content)
