"""When a schedule may move traffic: days, hours, blackout dates. Pure: the time is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from model_rollouts.core.checks import names
from model_rollouts.core.errors import PlanError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Calendar:
    """Expansion windows. The default is always open.

    Attributes:
        days: Days of the week on which a stage may open, such as "mon".
        opens: Time of day from which one may, "HH:MM".
        closes: Time of day until which one may, "HH:MM"; "24:00" is the end of the day. It must be after `opens`:
            no window goes over midnight.
        timezone: Name from the IANA database, such as "Europe/Berlin".
        blackout: Dates on which none may open, "YYYY-MM-DD".
    """

    days: tuple[str, ...] = DAYS
    opens: str = "00:00"
    closes: str = "24:00"
    timezone: str = "UTC"
    blackout: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what names no time.

        Raises:
            PlanError: The message states the value and the bound.
        """
        for name in ("days", "blackout"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise PlanError(f"{name} is {value!r}, must be a tuple of texts")
        if unknown := [day for day in self.days if day not in DAYS]:
            raise PlanError(f"days holds {', '.join(unknown)}, must be among {', '.join(DAYS)}")
        if not self.days:
            raise PlanError("days is empty: no stage could ever open; name at least one day")
        opens, closes = _minutes("opens", self.opens), _minutes("closes", self.closes)
        if not opens < closes:
            raise PlanError(f"closes is {self.closes}, must be after opens ({self.opens}) on the same day")
        for day in self.blackout:
            try:
                date.fromisoformat(day)
            except ValueError as error:
                raise PlanError(f"blackout holds {day!r}, must be a date such as 2026-12-24") from error
        _zone(self.timezone)

    def is_open(self, now: datetime) -> bool:
        """Whether a stage may open at a time, which must know its time zone."""
        return self.why_closed(now) == ""

    def why_closed(self, now: datetime) -> str:
        """Why no stage may open at a time; "" when one may.

        Raises:
            ValueError: The time has no time zone.
        """
        if now.tzinfo is None:
            raise ValueError(f"time {now.isoformat()} has no time zone; pass an aware datetime, such as UTC")
        local = now.astimezone(_zone(self.timezone))
        if local.date().isoformat() in self.blackout:
            return f"{local.date()} is a blackout date"
        day = DAYS[local.weekday()]
        if day not in self.days:
            return f"it is {day} in {self.timezone}, stages open on {', '.join(self.days)}"
        minute = local.hour * 60 + local.minute
        if not _minutes("opens", self.opens) <= minute < _minutes("closes", self.closes):
            return f"it is {local:%H:%M} in {self.timezone}, stages open from {self.opens} to {self.closes}"
        return ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Calendar":
        """Build from JSON types.

        Raises:
            PlanError: A name is unknown or a value is wrong.
        """
        values = dict(names("calendar", data, cls))
        for name in ("days", "blackout"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


def _minutes(name: str, text: object) -> int:
    if text == "24:00":
        return 24 * 60
    try:
        at = time.fromisoformat(str(text))
    except ValueError as error:
        raise PlanError(f"{name} is {text!r}, must be a time of day such as 09:00") from error
    if at.second or at.microsecond or at.tzinfo is not None:
        raise PlanError(f"{name} is {text!r}, must be hours and minutes such as 09:00; the time zone is `timezone`")
    return at.hour * 60 + at.minute


def _zone(name: object) -> ZoneInfo:
    try:
        return ZoneInfo(str(name))
    except (ValueError, OSError, KeyError) as error:
        raise PlanError(f"timezone is {name!r}, must be a name such as Europe/Berlin or UTC") from error
