"""When a schedule may move traffic: days, hours, blackout dates. Pure: the time is given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from model_rollouts.core.checks import names
from model_rollouts.core.errors import PlanError

_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Calendar:
    """Expansion windows. The default is always open.

    Attributes:
        expand_days: Days of the week on which a stage may open, such as "mon".
        expand_from: Time of day from which one may, "HH:MM".
        expand_until: Time of day until which one may, "HH:MM"; "24:00" is the end of the day. It must be after
            `expand_from`: no window goes over midnight.
        timezone: Name from the IANA database, such as "Europe/Berlin".
        blackout_dates: Dates on which none may open, "YYYY-MM-DD".
    """

    expand_days: tuple[str, ...] = DAYS
    expand_from: str = "00:00"
    expand_until: str = "24:00"
    timezone: str = "UTC"
    blackout_dates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what names no time.

        Raises:
            PlanError: The message states the value and the bound.
        """
        for name in ("expand_days", "blackout_dates"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise PlanError(f"{name} is {value!r}, must be a tuple of texts")
        if unknown := [day for day in self.expand_days if day not in DAYS]:
            raise PlanError(f"expand_days holds {', '.join(unknown)}, must be among {', '.join(DAYS)}")
        if not self.expand_days:
            raise PlanError("expand_days is empty: no stage could ever open; name at least one day")
        start, end = _minutes("expand_from", self.expand_from), _minutes("expand_until", self.expand_until)
        if not start < end:
            raise PlanError(
                f"expand_until is {self.expand_until}, must be after expand_from ({self.expand_from}) on the same day"
            )
        for day in self.blackout_dates:
            if not _is_date(day):
                raise PlanError(f"blackout_dates holds {day!r}, must be a date such as 2026-12-24")
        _zone(self.timezone)

    def why_closed(self, now: datetime) -> str:
        """Why no stage may open at a time; "" when one may.

        Raises:
            ValueError: The time has no time zone.
        """
        if now.utcoffset() is None:
            raise ValueError(f"time {now.isoformat()} has no time zone; pass an aware datetime, such as UTC")
        local = now.astimezone(_zone(self.timezone))
        if local.date().isoformat() in self.blackout_dates:
            return f"{local.date()} is a blackout date"
        day = DAYS[local.weekday()]
        if day not in self.expand_days:
            return f"it is {day} in {self.timezone}, stages open on {', '.join(self.expand_days)}"
        minute = local.hour * 60 + local.minute
        if not _minutes("expand_from", self.expand_from) <= minute < _minutes("expand_until", self.expand_until):
            return f"it is {local:%H:%M} in {self.timezone}, stages open from {self.expand_from} to {self.expand_until}"
        return ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Calendar":
        """Build from JSON types.

        Raises:
            PlanError: A name is unknown or a value is wrong.
        """
        values = dict(names("calendar", data, cls))
        for name in ("expand_days", "blackout_dates"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


def _minutes(name: str, text: object) -> int:
    if text == "24:00":
        return 24 * 60
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise PlanError(f"{name} is {text!r}, must be hours and minutes such as 09:00; the time zone is `timezone`")
    return int(found[1]) * 60 + int(found[2])


def _is_date(text: str) -> bool:
    """Whether it is a date as it is compared: 20261224 is one to Python too, and no day would ever equal it."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _zone(name: object) -> ZoneInfo:
    wrong = f"timezone is {name!r}, must be a name such as Europe/Berlin or UTC"
    if not isinstance(name, str):
        raise PlanError(wrong)
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise PlanError(wrong) from error
