"""What the log tells of a version that serves, and whether that is enough to deploy beside it.

Nothing is deployed that can't be monitored: before anything moves, the log itself has to show that labels arrive, that
latencies, errors and inputs are logged, and that values arrive. What can't be shown is named, with its numbers.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from model_rollouts.core.checks import MOST_REQUESTS, count, finite
from model_rollouts.core.readiness import Monitored

LEAST_REQUESTS = 50  # fewer show neither a rate nor a quantile
LEAST_ARRIVED = 10  # labels, or values: one or two may be somebody's test
LEAST_COVERAGE = 0.01  # of what is due: where labels are sampled, 1 % is a common share
LEAST_LOGGED = 0.95  # of the requests, for what a gateway logs by itself: more missing means that it is broken

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class MonitoredCounts:
    """One version's answers as champion in one span of time. All zero where there are none.

    Attributes:
        requests: Requests that it was asked to answer.
        errors: Those that ended in an error or a timeout, or whose latency no clock gives.
        with_status: Those with one of the statuses of the contract.
        answered: Those with status ok.
        timed: Answered ones with a latency that can be true: finite and above 0.
        latency: Histogram of the timed ones: bin (see `core/evidence.py`) -> count.
        features: How many feature columns the log has.
        featured: Requests with a value in one of them at least.
        units: Different units that made the requests. A request without a unit is a unit of its own.
        seconds: Time from the first of the requests to the last.
        days: Days (UTC) on which there were any.
        due: Answered requests old enough for their label to be there.
        labelled: Those that have one.
        wrong: Labelled requests whose prediction differs from the label.
        label_delay_p50: Median time from request to label in seconds, of the labelled ones; None without any.
        label_delay_p95: 95 % of the labels were there after so many seconds.
        value_due: Answers that callers got and that are old enough for their value to be there.
        valued: Those that have one.
        value_mean: Mean of the values; None without any.
        value_error: Its standard error, robust to repeat requests of units; None for fewer than two units.
        error_effect: Design effect of errors, by unit or by call, whichever is larger (see `core/intervals.py`).
        slow_effect: The same of being as slow as the 95 % quantile.
        wrong_effect: The same of wrong predictions, by unit.
    """

    requests: int = 0
    errors: int = 0
    with_status: int = 0
    answered: int = 0
    timed: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    features: int = 0
    featured: int = 0
    units: int = 0
    seconds: float = 0.0
    days: int = 0
    due: int = 0
    labelled: int = 0
    wrong: int = 0
    label_delay_p50: float | None = None
    label_delay_p95: float | None = None
    value_due: int = 0
    valued: int = 0
    value_mean: float | None = None
    value_error: float | None = None
    error_effect: float = 1.0
    slow_effect: float = 1.0
    wrong_effect: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that contradict each other.

        Raises:
            ValueError: The message states the value and the bound.
        """
        count("requests", self.requests, MOST_REQUESTS, "the most that a log can hold")
        for name in ("errors", "with_status", "answered", "featured", "units", "days"):
            count(name, getattr(self, name), self.requests, "all requests")
        for name in ("timed", "due", "value_due"):
            count(name, getattr(self, name), self.answered, "all that were answered")
        count("sum of the latency bins", sum(self.latency.values()), self.timed, "the timed ones")
        count("features", self.features, MOST_REQUESTS, "the most that a table can hold")
        count("labelled", self.labelled, self.due, "all that are due")
        count("wrong", self.wrong, self.labelled, "all that are labelled")
        count("valued", self.valued, self.value_due, "all that are due")
        for name, value, there in (
            ("label_delay_p50", self.label_delay_p50, self.labelled),
            ("label_delay_p95", self.label_delay_p95, self.labelled),
            ("value_mean", self.value_mean, self.valued),
        ):
            if (value is None) is not (there == 0):
                raise ValueError(f"{name} is {value} of {there}, must be None exactly where there are none")
        for name in ("seconds", "error_effect", "slow_effect", "wrong_effect"):
            finite(name, getattr(self, name))
        for name in ("label_delay_p50", "label_delay_p95", "value_mean", "value_error"):
            if getattr(self, name) is not None:
                finite(name, getattr(self, name))

    @property
    def label_coverage(self) -> float:
        """Share of the due labels that are there; 0 where none is due."""
        return self.labelled / self.due if self.due else 0.0

    @property
    def value_coverage(self) -> float:
        """Share of the due values that are there; 0 where none is due."""
        return self.valued / self.value_due if self.value_due else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "latency": {str(index): timed for index, timed in self.latency.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MonitoredCounts":
        """The inverse of `to_dict`; a missing name counts as an error.

        Raises:
            KeyError: A number is missing.
        """
        values = {each.name: data[each.name] for each in fields(cls)}
        return cls(**{**values, "latency": {int(index): timed for index, timed in values["latency"].items()}})


@dataclass(frozen=True, slots=True)
class MonitoredItem:
    """Whether one of the five can be watched.

    Attributes:
        name: Which.
        ok: Whether the log shows it.
        missing_allowed: Whether the plan says that it may be missing.
        detail: One sentence with the numbers.
    """

    name: Monitored
    ok: bool
    missing_allowed: bool
    detail: str

    @property
    def refuses(self) -> bool:
        """Whether the start must be refused for it."""
        return not self.ok and not self.missing_allowed


def readiness_of(
    counts: MonitoredCounts, may_be_missing: Collection[Monitored], least_requests: int = LEAST_REQUESTS
) -> tuple[MonitoredItem, ...]:
    """What the log shows of the five, in the order of `Monitored`. Nothing is ever shown by an empty log.

    Args:
        counts: The champion's answers before the rollout.
        may_be_missing: What the plan says may be missing.
        least_requests: How many requests show something at least, 1 or more.

    Raises:
        ValueError: least_requests is below 1.
    """
    if least_requests < 1:
        raise ValueError(f"least_requests is {least_requests}, must be at least 1")
    shown = {
        Monitored.ACCURACY: _labels(counts, least_requests),
        Monitored.LATENCY: _logged("answers have a latency", counts.timed, counts.answered, least_requests),
        Monitored.ERRORS: _logged("requests have a status", counts.with_status, counts.requests, least_requests),
        Monitored.DRIFT: _features(counts, least_requests),
        Monitored.BUSINESS: _values(counts, least_requests),
    }
    span = f" in {told_time(counts.seconds)} on {counts.days} days" if counts.days > 1 else ""
    return tuple(
        MonitoredItem(name, ok, name in may_be_missing, f"{detail}{span}") for name, (ok, detail) in shown.items()
    )


def told_time(seconds: float) -> str:
    """A time for a person: "45 s", "3.5 min", "2 h", "4 days"."""
    for unit, name in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def _logged(what: str, have: int, of: int, least: int) -> tuple[bool, str]:
    """Something that the gateway logs with each request."""
    detail = f"{have:,} of {of:,} {what}, needed {least:,} and {LEAST_LOGGED:.0%} of them"
    return have >= least and have >= LEAST_LOGGED * of, detail


def _arrived(what: str, have: int, due: int, least: int) -> tuple[bool, str]:
    """Something that arrives after the request."""
    share = f" ({have / due:.1%})" if due else ""
    detail = (
        f"{have:,} of {due:,} due {what} have arrived{share}, needed {LEAST_ARRIVED} of at least {least:,} due and "
        f"{LEAST_COVERAGE:.0%} of them"
    )
    return due >= least and have >= LEAST_ARRIVED and have >= LEAST_COVERAGE * due, detail


def _labels(counts: MonitoredCounts, least: int) -> tuple[bool, str]:
    ok, detail = _arrived("labels", counts.labelled, counts.due, least)
    if counts.label_delay_p50 is None or counts.label_delay_p95 is None:
        return ok, detail
    half, most = told_time(counts.label_delay_p50), told_time(counts.label_delay_p95)
    return ok, f"{detail}; half of them within {half}, 95 % within {most}"


def _values(counts: MonitoredCounts, least: int) -> tuple[bool, str]:
    ok, detail = _arrived("values", counts.valued, counts.value_due, least)
    return ok, detail if counts.value_mean is None else f"{detail}; {counts.value_mean:.4g} on average"


def _features(counts: MonitoredCounts, least: int) -> tuple[bool, str]:
    ok, detail = _logged("requests have an input logged", counts.featured, counts.requests, least)
    return ok and counts.features > 0, f"{detail}; {counts.features} input columns"
