"""What a monitor is told and what it sees: limits, the windows that it compares, drift in short."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_rollouts.core.checks import choice, names, number, whole
from model_rollouts.core.errors import PlanError
from model_rollouts.core.monitoring import MonitoredCounts
from model_rollouts.core.readiness import Monitored


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still well. A limit that is None is taken from the reference.

    Attributes:
        max_error_rate: Largest share of errors, 0 to 1.
        min_accuracy: Least share of right predictions among the labelled ones, 0 to 1.
        max_p95_ms: Largest 95 % quantile of the latency.
        max_drift_share: Largest share of drifted columns, 0 to 1. None: half of them.
        min_value: Least mean value of a request.
        margin: How much worse than the reference is still well: 0.25 allows a quarter more errors, wrong predictions
            and latency, and a quarter less value.
        min_requests: Least number of requests, labels and values that tell anything, in the window and in the
            reference.
        level: Of each one-sided bound, above 0.5 and below 1.
        may_be_missing: What of the five need not be there.
    """

    max_error_rate: float | None = None
    min_accuracy: float | None = None
    max_p95_ms: float | None = None
    max_drift_share: float | None = None
    min_value: float | None = None
    margin: float = 0.25
    min_requests: int = 200
    level: float = 0.999
    may_be_missing: tuple[Monitored, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        for name in ("max_error_rate", "min_accuracy", "max_drift_share"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), 0, 1)
        if self.max_p95_ms is not None:
            number("max_p95_ms", self.max_p95_ms, 0.01, 86_400_000)
        if self.min_value is not None:
            number("min_value", self.min_value, -1e9, 1e9)
        number("margin", self.margin, 0, 10)
        whole("min_requests", self.min_requests, 30, 1_000_000_000)
        number("level", self.level, 0.9, 0.999999)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Limits":
        """Build from JSON types.

        Raises:
            PlanError: A name is unknown or a value is wrong.
        """
        values = dict(names("limits", data, cls))
        given = values.get("may_be_missing", ())
        if not isinstance(given, list | tuple):
            raise PlanError(f"may_be_missing is {given!r}, must be a list of {', '.join(Monitored)}")
        return cls(**{**values, "may_be_missing": tuple(choice("may_be_missing", each, Monitored) for each in given)})


@dataclass(frozen=True, slots=True)
class Observed:
    """A version in one window.

    Attributes:
        version: Which.
        requests: The requests of the window.
        labels: Requests of a window of the same length that are old enough for their labels and values.
    """

    version: str
    requests: MonitoredCounts
    labels: MonitoredCounts

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"version": self.version, "requests": self.requests.to_dict(), "labels": self.labels.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Observed":
        """The inverse of `to_dict`."""
        counts = (MonitoredCounts.from_dict(data[name]) for name in ("requests", "labels"))
        return cls(data["version"], *counts)


@dataclass(frozen=True, slots=True)
class Drift:
    """The drift report in short.

    Attributes:
        computed: Whether it is known of every column that is compared.
        drifted: How many are known to have drifted.
        columns: Of how many that are known; the others count in neither number.
        detail: Which drifted, which are not known and why, for a person.
    """

    computed: bool
    drifted: int
    columns: int
    detail: str
