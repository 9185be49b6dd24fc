"""Checks outcomes: ground truth and business values that arrive for earlier requests. All or none are taken."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from model_rollouts.gateway.answers import canonical
from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.scoring_protocol import parse_json
from model_rollouts.gateway.signature import check_text

_FIELDS = frozenset({"request_id", "label", "value", "ts"})
_ID_CHARS = 220  # a request id of 200 characters with the number of its row
_LABEL_CHARS = 1000
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_CLOCK_SKEW = timedelta(minutes=5)


def read_outcomes(body: bytes, max_rows: int, now: datetime) -> list[dict[str, Any]]:
    """Rows of `outcomes` from a body: one JSON object, a list of them, or one a line.

    Args:
        body: As sent.
        max_rows: Most outcomes in one body.
        now: When it came, UTC; the `ts` of outcomes that have none.

    Raises:
        BadRequestError: One of them is wrong; says which and why.
    """
    items = _items(body)
    if not 1 <= len(items) <= max_rows:
        raise BadRequestError(f"the body has {len(items)} outcomes, must have between 1 and {max_rows}")
    rows = []
    for index, item in enumerate(items):
        try:
            rows.append(_row(item, now))
        except ValueError as error:
            raise BadRequestError(f"outcome {index}: {error}; none of the {len(items)} was taken") from error
    return rows


def _items(body: bytes) -> list[Any]:
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
        items = []
        for index, line in enumerate(lines):
            try:
                items.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise BadRequestError(f"outcome {index}: line {index + 1} is no JSON: {error}") from error
        return items
    parsed = parse_json(body)
    return parsed if isinstance(parsed, list) else [parsed]


def _row(item: Any, now: datetime) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"it is a {type(item).__name__}, must be an object")  # noqa: TRY004  # all become one error
    unknown = sorted(map(str, item.keys() - _FIELDS))
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)[:200]}; there are {', '.join(sorted(_FIELDS))}")
    label, value = _label(item.get("label")), _value(item.get("value"))
    if label is None and value is None:
        raise ValueError("it has neither label nor value; give at least one")
    return {
        "request_id": _request_id(item.get("request_id")),
        "ts": _microseconds(item.get("ts"), now),
        "label": label,
        "value": value,
    }


def _request_id(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > _ID_CHARS:
        raise ValueError(f"request_id is {str(value)[:80]!r}, must be text of 1 to {_ID_CHARS} characters")
    return check_text(value)


def _label(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"label is {str(value)[:80]!r}, must be text, a finite number or a boolean")
    text = canonical(value)
    if not text.strip() or len(text) > _LABEL_CHARS:
        raise ValueError(f"label has {len(text)} characters, must have 1 to {_LABEL_CHARS} and not only blanks")
    return check_text(text)


def _value(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"value is {str(value)[:80]!r}, must be a number")  # noqa: TRY004  # as above
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"value is {str(value)[:80]}, must be finite")
    return number


def _microseconds(value: Any, now: datetime) -> int:
    """Text in ISO 8601 (UTC where it has no offset), or seconds since 1970."""
    moment = now
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value, UTC)
        elif value is not None:
            raise TypeError  # noqa: TRY301  # said once, below
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise ValueError(f"ts is {str(value)[:80]!r}, must be ISO 8601 or seconds since 1970") from error
    if not _EARLIEST <= moment <= now + _CLOCK_SKEW:
        raise ValueError(f"ts is {moment.isoformat()}, must be between {_EARLIEST.date()} and now ({now.isoformat()})")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
