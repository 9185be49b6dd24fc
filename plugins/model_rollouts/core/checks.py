"""Checks of single values, with one wording: the value, the bound, what is wrong with it."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any, TypeVar

from model_rollouts.core.errors import PlanError

MOST_REQUESTS = 10**12  # a look of more is a broken count

Choice = TypeVar("Choice", bound=StrEnum)


def number(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a finite number within the bounds, both included. A truth value is not a number.

    Raises:
        PlanError: The message states the value and the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be a number between {low:g} and {high:g}")
    if not low <= value <= high:  # written so that NaN is refused too
        raise PlanError(f"{name} is {value!r}, must be between {low:g} and {high:g}")


def whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number within the bounds, both included.

    Raises:
        PlanError: The message states the value and the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be a whole number, {low} to {high}")
    if not low <= value <= high:
        raise PlanError(f"{name} is {value!r}, must be between {low} and {high}")


def flag(name: str, value: object) -> None:
    """Refuse anything but True and False: the text "false" is not false.

    Raises:
        PlanError: The message states the value.
    """
    if not isinstance(value, bool):
        raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be true or false")


def choice(name: str, value: object, options: type[Choice]) -> Choice:
    """The option that a text names.

    Raises:
        PlanError: It names none; the message lists them.
    """
    if isinstance(value, str) and value in set(options):
        return options(value)
    raise PlanError(f"{name} is {value!r}, must be one of {', '.join(options)}")


def count(name: str, value: object, high: int, what: str) -> None:
    """Refuse a count of evidence that is not a whole number from 0 to `high`.

    Raises:
        ValueError: The message states the value, the bound and what the bound is.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{name} is {value!r} ({type(value).__name__}), must be a whole number; pass an int"
        raise ValueError(message)  # noqa: TRY004 - bad evidence is one kind of error, whatever is bad about it
    if not 0 <= value <= high:
        raise ValueError(f"{name} is {value}, must be between 0 and {high} ({what})")


def finite(name: str, value: object) -> None:
    """Refuse a sum of evidence that is not a finite number.

    Raises:
        ValueError: The message states the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, must be a finite number")


def names(what: str, data: object, cls: type[Any]) -> Mapping[str, Any]:
    """The mapping itself, once its keys are exactly fields of a dataclass and none without a default is missing.

    Raises:
        PlanError: Not a mapping, an unknown key, or a missing one.
    """
    if not isinstance(data, Mapping):
        raise PlanError(f"{what} is {data!r} ({type(data).__name__}), must be a mapping of names to values")
    known = [field.name for field in fields(cls)]
    if unknown := sorted(str(key) for key in set(data) - set(known)):
        raise PlanError(f"{what} has unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(needed - set(data)):
        raise PlanError(f"{what} lacks {', '.join(missing)}")
    return data
