"""What a form might send in the place of each parameter, and how the refusal names it."""

import math
from dataclasses import fields
from typing import Any

from model_rollouts.core.errors import PlanError
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.patterns.common import CommonParameters
from model_rollouts.core.plan import Pattern

_NO_NUMBER: tuple[Any, ...] = (math.nan, math.inf, -math.inf, True, "5", [5], {}, -1e9)
_NO_FLAG = ("true", 1, 0, [True], None)
_NO_TEXT = (5, True, None, ["UTC"], math.nan)
_NO_LIST = ("mon", 5, True, None, [5], [None], {"mon": 1})
_NO_CHOICE = ("shrug", 5, True, None, ["hold"])
_NO_OBJECT = ("mon", 5, True, None, [5])
_CHOICES = frozenset({"at_deadline", "underpowered", "advance", "on_drift"})
_OBJECTS = frozenset({"drift"})
_LISTS = frozenset({"expand_days", "blackout_dates", "on_call", "may_be_missing", "data_rollback", "then"})
#: Parameters that a gate has under another name.
_SHOWN = {"negligible_error_rate": "negligible", "label_coverage": "coverage", "agreement": "floor"}


def wrong_values(parameters: type[CommonParameters], optional: frozenset[str]) -> list[tuple[str, Any]]:
    """Each parameter with values that are not of its kind.

    Args:
        parameters: Of a pattern.
        optional: Numbers that may be None.
    """
    found: list[tuple[str, Any]] = []
    for field in fields(parameters):
        kind: tuple[Any, ...] = _NO_NUMBER if field.name in optional else (*_NO_NUMBER, None)
        if field.name in _CHOICES:
            kind = _NO_CHOICE
        elif field.name in _LISTS:
            kind = _NO_LIST
        elif field.name in _OBJECTS:
            kind = _NO_OBJECT
        elif isinstance(field.default, bool):
            kind = _NO_FLAG
        elif isinstance(field.default, str):
            kind = _NO_TEXT
        elif isinstance(field.default, int):
            kind = (*kind, 5.5)
        found += [(field.name, value) for value in kind]
    return found


def refusal(pattern: Pattern, values: dict[str, Any], name: str, value: Any) -> str:
    """The message that refuses a value.

    Raises:
        AssertionError: It is accepted, or the message does not name the parameter and the value.
    """
    try:
        plan_from(pattern, values | {name: value})
    except PlanError as error:
        said = str(error)
        inner = value[0] if isinstance(value, list) and repr(value) not in said else value
        assert _SHOWN.get(name, name) in said, said
        assert repr(inner) in said or f"{inner:g}" in said, said
        return said
    raise AssertionError(f"{name} = {value!r} was accepted")
