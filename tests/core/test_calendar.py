"""When a schedule may open a stage, in the calendar's own time."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.calendar import DAYS, Calendar
from model_rollouts.core.errors import PlanError

OFFICE = Calendar(
    expand_days=("mon", "tue", "wed", "thu"),
    expand_from="09:00",
    expand_until="17:00",
    timezone="Europe/Berlin",
    blackout_dates=("2026-12-24",),
)
BERLIN = ZoneInfo("Europe/Berlin")


def berlin(day: int, hour: int, minute: int = 0, second: int = 0, *, month: int = 6) -> datetime:
    return datetime(2026, month, day, hour, minute, second, tzinfo=BERLIN)


def is_open(calendar: Calendar, now: datetime) -> bool:
    return calendar.why_closed(now) == ""


def test_by_default_it_is_always_open() -> None:
    for hour in range(24 * 8):
        assert is_open(Calendar(), datetime(2026, 12, 24, tzinfo=UTC) + timedelta(hours=hour, minutes=59))


@pytest.mark.parametrize(
    ("now", "open_"),
    [
        (berlin(1, 8, 59, 59), False),
        (berlin(1, 9), True),
        (berlin(1, 16, 59, 59), True),
        (berlin(1, 17), False),
        (berlin(4, 12), True),
        (berlin(5, 12), False),  # a Friday
    ],
)
def test_the_opening_minute_is_in_and_the_closing_minute_is_out(now: datetime, open_: bool) -> None:
    assert is_open(OFFICE, now) is open_
    assert is_open(OFFICE, now.astimezone(UTC)) is open_


def test_why_it_is_closed_is_said_with_what_would_be_open() -> None:
    assert OFFICE.why_closed(berlin(1, 12)) == ""
    assert OFFICE.why_closed(berlin(5, 12)) == "it is fri in Europe/Berlin, stages open on mon, tue, wed, thu"
    assert OFFICE.why_closed(berlin(1, 17, 5)) == "it is 17:05 in Europe/Berlin, stages open from 09:00 to 17:00"
    assert OFFICE.why_closed(berlin(24, 12, month=12)) == "2026-12-24 is a blackout date"


def test_the_hours_follow_the_clock_through_summer_time() -> None:
    """Nine o'clock in Berlin is 8:00 UTC in winter and 7:00 UTC in summer; the change was on 29 March 2026."""
    winter, summer = datetime(2026, 3, 26, tzinfo=UTC), datetime(2026, 3, 30, tzinfo=UTC)
    assert [is_open(OFFICE, winter + timedelta(hours=h)) for h in (7, 8, 15, 16)] == [False, True, True, False]
    assert [is_open(OFFICE, summer + timedelta(hours=h)) for h in (6, 7, 14, 15)] == [False, True, True, False]


def test_a_window_in_the_hour_that_comes_twice_is_open_twice_and_in_the_hour_that_is_left_out_never() -> None:
    night = Calendar(expand_from="02:00", expand_until="03:00", timezone="Europe/Berlin")
    midnight = datetime(2026, 10, 24, 22, tzinfo=UTC)  # 00:00 in Berlin; the clock goes back at 03:00
    assert [is_open(night, midnight + timedelta(hours=h)) for h in range(6)] == [False, False, True, True, False, False]
    midnight = datetime(2026, 3, 28, 23, tzinfo=UTC)  # 00:00 in Berlin; the clock goes forward at 02:00
    assert not any(is_open(night, midnight + timedelta(minutes=m)) for m in range(6 * 60))


def test_a_blackout_date_is_a_day_in_the_calendars_time_zone() -> None:
    closed = Calendar(timezone="Asia/Tokyo", blackout_dates=("2026-01-01",))
    first, last = datetime(2025, 12, 31, 15, tzinfo=UTC), datetime(2026, 1, 1, 14, 59, 59, tzinfo=UTC)
    assert is_open(closed, first - timedelta(seconds=1))
    assert not is_open(closed, first)
    assert not is_open(closed, last)
    assert is_open(closed, last + timedelta(seconds=1))


def test_the_day_of_the_week_is_the_one_in_the_calendars_time_zone() -> None:
    monday = Calendar(expand_days=("mon",), timezone="America/Los_Angeles")
    assert not is_open(monday, datetime(2026, 6, 1, 6, 59, tzinfo=UTC))  # still Sunday there
    assert is_open(monday, datetime(2026, 6, 2, 6, 59, tzinfo=UTC))


@settings(derandomize=True, deadline=None)
@given(
    st.integers(0, 2**31),
    st.timezones(),
    st.timezones(),
    st.integers(0, 24 * 60 - 1),
    st.integers(1, 24 * 60),
    st.sets(st.sampled_from(DAYS), min_size=1),
)
def test_it_is_open_exactly_in_the_windows_whatever_zone_the_time_is_given_in(
    seconds: int, other: ZoneInfo, zone: ZoneInfo, start: int, end: int, days: set[str]
) -> None:
    now = datetime.fromtimestamp(seconds, other)
    if not start < end:
        start, end = end - 1, max(start, end)
    made = Calendar(expand_days=tuple(days), expand_from=clock(start), expand_until=clock(end), timezone=str(zone.key))
    local = now.astimezone(zone)
    expected = start <= local.hour * 60 + local.minute < end and local.strftime("%a").lower() in days
    assert is_open(made, now) is is_open(made, now.astimezone(UTC)) is expected


def clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


class Unknowing(tzinfo):
    """A zone that does not know its offset: Python takes such a time for a naive one."""

    def utcoffset(self, dt: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


@pytest.mark.parametrize("zone", [None, Unknowing()])
def test_a_time_that_could_be_anywhere_is_refused(zone: tzinfo | None) -> None:
    with pytest.raises(ValueError, match="time 2026-06-01T12:00:00 has no time zone; pass an aware datetime"):
        is_open(OFFICE, datetime(2026, 6, 1, 12, tzinfo=zone))


@pytest.mark.parametrize("offset", [-12, 0, 5.5, 14])
def test_any_fixed_offset_will_do(offset: float) -> None:
    now = berlin(1, 12).astimezone(timezone(timedelta(hours=offset)))
    assert is_open(OFFICE, now)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"expand_days": ()}, "expand_days is empty: no stage could ever open"),
        ({"expand_days": ("Mon",)}, "expand_days holds Mon, must be among mon, tue, wed"),
        ({"expand_days": ["mon"]}, r"expand_days is \['mon'\], must be a tuple of texts"),
        ({"expand_days": "mon"}, "expand_days is 'mon', must be a tuple of texts"),
        ({"expand_days": (1,)}, r"expand_days is \(1,\), must be a tuple of texts"),
        ({"expand_days": None}, "expand_days is None, must be a tuple of texts"),
        ({"expand_from": "9"}, "expand_from is '9', must be hours and minutes such as 09:00"),
        ({"expand_from": "09"}, "expand_from is '09', must be hours and minutes"),
        ({"expand_from": "0900"}, "expand_from is '0900', must be hours and minutes"),
        ({"expand_from": "T09:00"}, "expand_from is 'T09:00', must be hours and minutes"),
        ({"expand_from": "9:00"}, "expand_from is '9:00', must be hours and minutes"),
        ({"expand_from": "09:60"}, "expand_from is '09:60', must be hours and minutes"),
        ({"expand_from": "25:00"}, "expand_from is '25:00', must be hours and minutes"),
        ({"expand_from": "09:00:00"}, "expand_from is '09:00:00', must be hours and minutes"),
        ({"expand_from": "09:00+02:00"}, r"expand_from is '09:00\+02:00', .* the time zone is `timezone`"),
        ({"expand_from": "09:00\n"}, "expand_from is '09:00.n', must be hours and minutes"),
        ({"expand_from": 10}, "expand_from is 10, must be hours and minutes"),
        ({"expand_from": True}, "expand_from is True, must be hours and minutes"),
        ({"expand_from": None}, "expand_from is None, must be hours and minutes"),
        ({"expand_until": ""}, "expand_until is '', must be hours and minutes"),
        ({"expand_until": "24:01"}, "expand_until is '24:01', must be hours and minutes"),
        ({"expand_until": 1440}, "expand_until is 1440, must be hours and minutes"),
        (
            {"expand_from": "22:00", "expand_until": "02:00"},
            r"expand_until is 02:00, must be after expand_from \(22:00",
        ),
        ({"expand_from": "09:00", "expand_until": "09:00"}, "expand_until is 09:00, must be after expand_from"),
        ({"expand_from": "24:00"}, "expand_until is 24:00, must be after expand_from"),
        ({"timezone": "Mars/Olympus"}, "timezone is 'Mars/Olympus', must be a name such as Europe/Berlin"),
        ({"timezone": "Europe"}, "timezone is 'Europe', must be a name"),
        ({"timezone": ""}, "timezone is '', must be a name"),
        ({"timezone": "../etc/passwd"}, "timezone is '../etc/passwd', must be a name"),
        ({"timezone": None}, "timezone is None, must be a name"),
        ({"timezone": BERLIN}, "timezone is .*Berlin.*, must be a name"),
        ({"blackout_dates": ("24.12.2026",)}, "blackout_dates holds '24.12.2026', must be a date such as 2026-12-24"),
        ({"blackout_dates": ("2026-02-30",)}, "blackout_dates holds '2026-02-30'"),
        ({"blackout_dates": ("20261224",)}, "blackout_dates holds '20261224'"),
        ({"blackout_dates": ("2026-W52-4",)}, "blackout_dates holds '2026-W52-4'"),
        ({"blackout_dates": "2026-12-24"}, "blackout_dates is '2026-12-24', must be a tuple of texts"),
        ({"blackout_dates": (20261224,)}, "blackout_dates is .*, must be a tuple of texts"),
    ],
)
def test_what_names_no_time_is_refused_with_the_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Calendar(**values)


def test_it_survives_json_unchanged() -> None:
    for made in (Calendar(), OFFICE):
        assert Calendar.from_dict(asdict(made)) == made
        assert Calendar.from_dict(json.loads(json.dumps(asdict(made)))) == made
    assert Calendar.from_dict({}) == Calendar()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"calendar is None \(NoneType\), must be a mapping"),
        ("always", "calendar is 'always'"),
        ({"days": []}, "calendar has unknown days; known are blackout_dates, expand_days"),
        ({"expand_days": "mon"}, "expand_days is 'mon'"),
        ({"expand_days": None}, "expand_days is None"),
        ({"expand_days": []}, "expand_days is empty"),
        ({"blackout_dates": [5]}, "blackout_dates is"),
    ],
)
def test_json_that_is_no_calendar_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Calendar.from_dict(data)
