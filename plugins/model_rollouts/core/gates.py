"""Gates as data: what is judged, in which role, within which margins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from model_rollouts.core.checks import choice, names, number, whole
from model_rollouts.core.errors import PlanError

_MOST_ODDS = 1000


class Metric(StrEnum):
    """What a gate counts as bad, per request."""

    ERROR_RATE = "error_rate"  # an error or a timeout
    WRONG_RATE = "wrong_rate"  # a matured label that differs from the prediction: 1 - accuracy
    LATENCY_P95 = "latency_p95"  # slower than the champion's p95 of earlier looks, plus the margin
    LATENCY_P99 = "latency_p99"

    @property
    def quantile(self) -> float | None:
        """The latency quantile that the metric watches, None for the others."""
        return {Metric.LATENCY_P95: 0.95, Metric.LATENCY_P99: 0.99}.get(self)


class Role(StrEnum):
    """What a gate may do to the rollout."""

    GUARDRAIL = "guardrail"  # harm rolls back; non-inferiority must be proven to leave the stage
    TRIPWIRE = "tripwire"  # harm rolls back; nothing has to be proven beyond the minimum of evidence
    MUTED = "muted"  # shown only


@dataclass(frozen=True, slots=True)
class Gate:
    """One metric with its role and margins.

    Attributes:
        metric: What is judged.
        role: What the result may do.
        rollback_odds: Roll back when the challenger's odds of a bad outcome are proven to be more than this many
            times the champion's. At least 1.
        pass_odds: Non-inferior when they are proven to be less than this many times the champion's. Above
            `rollback_odds`, or a challenger between the two could be proven both.
        negligible: A rate of bad outcomes that is good enough whatever the champion's is: proving the
            challenger below it is as good as non-inferiority. None: only the comparison counts.
        latency_margin: Latency metrics: relative slack on the champion's quantile (0.25 is 25 %).
        latency_slack_ms: Latency metrics: absolute slack on top of it, in milliseconds.
        coverage: Labelled metrics: least share of due labels that must have arrived, in each arm.
        min_requests: Least number of judged challenger requests in the stage before it may be left.
    """

    metric: Metric
    role: Role = Role.GUARDRAIL
    rollback_odds: float = 1.25
    pass_odds: float = 1.5
    negligible: float | None = None
    latency_margin: float = 0.0
    latency_slack_ms: float = 0.0
    coverage: float = 0.0
    min_requests: int = 20

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        if not isinstance(self.metric, Metric) or not isinstance(self.role, Role):
            raise PlanError(
                f"metric is {self.metric!r} and role is {self.role!r}, must be a Metric and a Role; "
                "use Gate.from_dict for plain text"
            )
        number(f"{self.metric} gate: rollback_odds", self.rollback_odds, 1, 100)
        number(f"{self.metric} gate: latency_margin", self.latency_margin, 0, 10)
        number(f"{self.metric} gate: latency_slack_ms", self.latency_slack_ms, 0, 600_000)
        number(f"{self.metric} gate: coverage", self.coverage, 0, 1)
        whole(f"{self.metric} gate: min_requests", self.min_requests, 1, 10**9)
        number(f"{self.metric} gate: pass_odds", self.pass_odds, 1, _MOST_ODDS)
        if not self.pass_odds > self.rollback_odds:
            raise PlanError(
                f"{self.metric} gate: pass_odds is {self.pass_odds}, must be above rollback_odds "
                f"({self.rollback_odds}) and at most {_MOST_ODDS}"
            )
        if self.negligible is None:
            return
        number(f"{self.metric} gate: negligible", self.negligible, 0, 1)
        if not 0 < self.negligible < 1:
            raise PlanError(
                f"{self.metric} gate: negligible is {self.negligible}, must be between 0 and 1, both excluded; "
                "leave it out to judge by comparison alone"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Gate":
        """Build and validate a gate from JSON types.

        Raises:
            PlanError: A value is out of its bounds or of the wrong type, or a name is unknown or missing.
        """
        values = dict(names("gate", data, cls))
        values["metric"] = choice("metric", values["metric"], Metric)
        if "role" in values:
            values["role"] = choice("role", values["role"], Role)
        return cls(**values)
