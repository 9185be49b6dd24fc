"""The failures of tests/chaos, a gateway alone under load, as lines of the same table."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.record import Shown

SUMMARIES = Path(__file__).resolve().parents[2] / ".local" / "chaos"
_SICK = (
    "the champion answers in the same request, each failure is a row, and the breaker rolls back with its proof in the "
    "events, with neither Airflow nor MLflow there"
)
_KILL = "what was answered is logged once, what was not is not served"
_NUMBERS = ("requests", "failed_requests", "answered", "refused", "unlogged", "failures_logged", "doubled", "p99_ms",
    "most_ms", "seconds_away", "seconds_to_rollback_in_store", "most_mb")  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One test of tests/chaos.

    Attributes:
        test: Its name, with its parameters.
        fault: What it breaks.
        held: What it checks.
        summary: Where it leaves its numbers.
        small: Whether it is there at small size, too.
    """

    test: str
    fault: str
    held: str
    summary: str
    small: bool = True


_TRIP = "test_one_that_never_answers_right_is_out_after_ten"
_FULL = "test_when_the_spool_is_full_answers_are_refused_or_counted_as_unlogged"
_LOGGED = "test_what_was_answered_is_in_the_log_exactly_once_however_often_the_process_is_killed"
LINES = (
    Line(
        "test_without_the_store_traffic_stays_a_burst_is_stopped_and_both_are_told_when_it_is_back",
        "the store away under load",
        "no request fails, units keep their version, log whole; a burst of failures is stopped, and told afterwards",
        "outage-store",
    ),
    Line(
        "test_without_the_registry_serving_goes_on_and_a_new_version_waits_for_it",
        "the registry away under load",
        "no request fails, log whole; a version that is not loaded waits for it",
        "outage-registry",
    ),
    Line(
        "test_without_the_logs_folder_answers_wait_in_the_spool",
        "the log away under load",
        "no request fails; what was answered waits in the spool and is in the log once afterwards",
        "outage-log",
    ),
    Line(
        f"{_FULL}[disk-refuse]",
        "the spool's disk full, answers refused",
        "503 with Retry-After; nothing is answered that is not logged; well again with room",
        "full-disk-refuse",
    ),
    Line(
        f"{_FULL}[disk-serve]",
        "the spool's disk full, answers given",
        "every caller is answered; what is not logged is counted and holds the stage",
        "full-disk-serve",
        small=False,
    ),
    Line(
        f"{_FULL}[bound-refuse]",
        "the spool at its bound, answers refused",
        "the same",
        "full-bound-refuse",
        small=False,
    ),
    Line(f"{_FULL}[bound-serve]", "the spool at its bound, answers given", "the same", "full-bound-serve"),
    Line(f"{_LOGGED}[delta]", "kill -9 of a gateway under load, log in Delta", _KILL, "kill-delta"),
    Line(f"{_LOGGED}[postgresql]", "kill -9 of a gateway under load, log in PostgreSQL", _KILL, "kill-postgresql"),
    Line(
        "test_moves_under_load_fail_nothing_keep_units_and_take_force_within_a_second",
        "shares grow, versions switch and come back under load",
        "no request fails, units only move towards the challenger, in force within a second",
        "moves",
    ),
    Line(
        "test_one_that_raises_on_three_rows_in_ten_is_answered_for_and_does_not_trip_the_breaker",
        "a challenger that raises on three rows in ten",
        "the champion answers in the same request; exactly those rows are its failures",
        "sick-raises",
    ),
    Line(
        "test_one_that_sleeps_costs_callers_no_more_than_its_time_and_is_out_after_ten_times_that",
        "a challenger that hangs",
        _SICK,
        "sick-sleeps",
    ),
    Line(f"{_TRIP}[nan-nan]", "a challenger that answers NaN", _SICK, "sick-nan"),
    Line(f"{_TRIP}[long-answers]", "a challenger that answers in the wrong shape", _SICK, "sick-long"),
    Line(f"{_TRIP}[exits-SystemExit]", "a challenger that calls exit", _SICK, "sick-exits"),
    Line(
        "test_one_that_keeps_memory_is_unloaded_before_the_process_dies_of_it",
        "a challenger that eats memory",
        "unloaded and rolled back within its bound; no request fails, memory is given back",
        "sick-grows",
    ),
)


def lines(junit: Path, full: bool, since: float) -> Iterator[Shown]:
    """What a run of tests/chaos has shown.

    Args:
        junit: Its report, as pytest writes it.
        full: Whether it was at full size.
        since: When it began; numbers from before are another run's.

    Raises:
        ValueError: A test is in no line of this table.
    """
    known = {line.test: line for line in LINES}
    for case in ET.parse(junit).getroot().iter("testcase"):  # noqa: S314  # pytest's own file
        line = known.get(case.get("name", ""))
        if line is None:
            raise ValueError(f"{case.get('name')} is in no line of tests/faults/gateway_lines.py; add one")
        skipped = case.find("skipped")
        passed = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        numbers = _numbers(line, full, since)
        told = ", ".join(f"{name.replace('_', ' ')} {numbers[name]}" for name in _NUMBERS if name in numbers)
        yield Shown(
            fault=line.fault,
            held=line.held,
            times=int(numbers.get("kills", 1)),
            result=told if skipped is None else skipped.get("message", ""),
            seconds=round(float(case.get("time", 0)), 1),
            passed=passed,
            full=full,
            part="gateway",
            ran=skipped is None,
        )


def _numbers(line: Line, full: bool, since: float) -> dict[str, Any]:
    file = SUMMARIES / f"{line.summary}.json"
    if not file.exists() or file.stat().st_mtime < since:
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found.get("full") == full else {}
