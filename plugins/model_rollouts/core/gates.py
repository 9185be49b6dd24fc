"""Gates as data: what is judged, in which role, within which margins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from model_rollouts.core.errors import PlanError


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
        bounds: tuple[tuple[str, float, float, float], ...] = (
            ("rollback_odds", self.rollback_odds, 1.0, 100.0),
            ("latency_margin", self.latency_margin, 0.0, 10.0),
            ("latency_slack_ms", self.latency_slack_ms, 0.0, 600_000.0),
            ("coverage", self.coverage, 0.0, 1.0),
            ("min_requests", self.min_requests, 1, 10**9),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise PlanError(f"{self.metric} gate: {name} is {value}, must be between {low:g} and {high:g}")
        if not self.rollback_odds < self.pass_odds <= 1000:
            raise PlanError(
                f"{self.metric} gate: pass_odds is {self.pass_odds}, must be above rollback_odds "
                f"({self.rollback_odds}) and at most 1000"
            )
        if self.negligible is not None and not 0 < self.negligible < 1:
            raise PlanError(
                f"{self.metric} gate: negligible is {self.negligible}, must be between 0 and 1, both excluded; "
                "leave it out to judge by comparison alone"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Gate":
        """Build and validate a gate from JSON types."""
        return cls(**{**data, "metric": Metric(data["metric"]), "role": Role(data["role"])})
