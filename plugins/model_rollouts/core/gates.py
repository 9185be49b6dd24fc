"""Gates as data: what is judged, in which role, within which margins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from model_rollouts.core.checks import choice, names, number, whole
from model_rollouts.core.errors import PlanError

_MOST_ODDS = 1000
_LONGEST_SECONDS = 366 * 86_400.0


class Metric(StrEnum):
    """What a gate judges."""

    ERROR_RATE = "error_rate"  # an error or a timeout
    WRONG_RATE = "wrong_rate"  # a matured label that differs from the prediction: 1 - accuracy
    LATENCY_P50 = "latency_p50"  # slower than the champion's p50 of earlier looks, plus the margin
    LATENCY_P95 = "latency_p95"
    LATENCY_P99 = "latency_p99"
    AGREEMENT = "agreement"  # share of mirrored requests that the challenger answers like the champion
    SAMPLE_RATIO = "sample_ratio"  # new units of the arms against the share: is the assignment what it says
    VALUE = "value"  # business value per request, by unit

    @property
    def quantile(self) -> float | None:
        """The latency quantile that the metric watches, None for the others."""
        return {Metric.LATENCY_P50: 0.5, Metric.LATENCY_P95: 0.95, Metric.LATENCY_P99: 0.99}.get(self)

    @property
    def is_rate(self) -> bool:
        """Whether it counts bad outcomes per request in both arms, and is judged by their odds ratio."""
        return self not in (Metric.AGREEMENT, Metric.SAMPLE_RATIO, Metric.VALUE)

    @property
    def matures(self) -> bool:
        """Whether it is known only once outcomes have arrived."""
        return self in (Metric.WRONG_RATE, Metric.VALUE)


class Role(StrEnum):
    """What a gate may do to the rollout."""

    GUARDRAIL = "guardrail"  # harm rolls back; non-inferiority must be proven to leave the stage
    TRIPWIRE = "tripwire"  # harm rolls back; nothing has to be proven beyond the minimum of evidence
    OBJECTIVE = "objective"  # must be proven to leave the stage; a proven miss ends the wait, and never rolls back
    SIGNAL = "signal"  # can only hold, for a person to look
    MUTED = "muted"  # shown only

    @property
    def rolls_back(self) -> bool:
        """Whether proven harm rolls back."""
        return self in (Role.GUARDRAIL, Role.TRIPWIRE)

    @property
    def must_prove(self) -> bool:
        """Whether the stage may be left on its proof alone."""
        return self in (Role.GUARDRAIL, Role.OBJECTIVE)

    @property
    def holds_up(self) -> bool:
        """Whether the stage stays while the gate has not passed, be it for a proof or for enough requests."""
        return self not in (Role.SIGNAL, Role.MUTED)


class AtDeadline(StrEnum):
    """What happens when a deadline comes and nothing is proven."""

    HOLD = "hold"
    ROLL_BACK = "roll_back"
    ASK = "ask"  # a person decides; nobody answering means hold


#: Fields that mean something for some metrics only: setting another one's is a mistake that would go unseen.
_ODDS = frozenset({"rollback_odds", "pass_odds", "negligible"})
_LATENCY = frozenset({"latency_margin", "latency_slack_ms"})
_OWN_FIELDS: dict[Metric, frozenset[str]] = {
    Metric.ERROR_RATE: _ODDS,
    Metric.WRONG_RATE: _ODDS | {"coverage"},
    Metric.LATENCY_P50: _ODDS | _LATENCY,
    Metric.LATENCY_P95: _ODDS | _LATENCY,
    Metric.LATENCY_P99: _ODDS | _LATENCY,
    Metric.AGREEMENT: frozenset({"floor", "tolerance", "coverage"}),
    Metric.SAMPLE_RATIO: frozenset(),
    Metric.VALUE: frozenset({"rollback_lift", "pass_lift", "coverage", "min_units"}),
}
_OPTIONAL = frozenset({"negligible", "tolerance", "alpha", "beta", "deadline_seconds"})
_SPECIAL = frozenset().union(*_OWN_FIELDS.values())
_ROLES: dict[Metric, frozenset[Role]] = {
    # there is nothing to prove about an assignment, only against it
    Metric.SAMPLE_RATIO: frozenset({Role.TRIPWIRE, Role.SIGNAL, Role.MUTED}),
}


@dataclass(frozen=True, slots=True)
class Gate:
    """One metric with its role, margins, error budget and deadline.

    Attributes:
        metric: What is judged.
        role: What the result may do.
        rollback_odds: Rates: roll back when the challenger's odds of a bad outcome are proven to be more than this
            many times the champion's. At least 1.
        pass_odds: Rates: non-inferior when they are proven to be less than this many times the champion's. Above
            `rollback_odds`, or nothing could ever be proven of a challenger between the two. Below about 1.12 even an
            equal one is never proven: power says so before the start.
        negligible: Rates: a rate of bad outcomes that is good enough whatever the champion's is: proving the
            challenger below it is as good as non-inferiority. None: only the comparison counts.
        latency_margin: Latency: relative slack on the champion's quantile (0.25 is 25 %).
        latency_slack_ms: Latency: absolute slack on top of it, in milliseconds.
        floor: Agreement: the share of equal answers that must be proven; proven below it, it is harm.
        tolerance: Agreement: answers are numbers, and equal when they differ by at most this much. None: equal text.
        rollback_lift: Value: roll back when the challenger's mean value a request, relative to the champion's, is
            proven to have changed by less than this (-0.01 is a loss of 1 %).
        pass_lift: Value: passes when it is proven to have changed by more than this (0 is "not a loss").
        min_units: Value: least number of units with a value in each arm. The test is asymptotic: at a share of 5 % and
            log-normal values of standard deviation 0.9, 50 units roll back 4 % of healthy challengers, 400 units
            0.7 %; at one of 1.6, where few units bring most of the value, 11 % and 3 %: ask for more units then.
        coverage: Labelled metrics and agreement: least share of due labels (of the champion's answers) that must have
            arrived (have been given to the challenger), in each arm.
        min_requests: Least number of judged challenger requests in the stage before it may be left; of pairs for
            agreement, of new units for the sample ratio.
        alpha: Error budget against harm. None: an equal part of what is left of the plan's for a gate that rolls
            back, 0.001 for the sample ratio, the plan's for the rest.
        beta: Error budget against passing what is worse than the margin. None: the plan's.
        deadline_seconds: Latest time of this gate's proof, counted from the moment the traffic moved. None: the
            stage's.
        at_deadline: What happens then. None: what the plan says.
    """

    metric: Metric
    role: Role = Role.GUARDRAIL
    rollback_odds: float = 1.25
    pass_odds: float = 1.5
    negligible: float | None = None
    latency_margin: float = 0.0
    latency_slack_ms: float = 0.0
    floor: float = 0.98
    tolerance: float | None = None
    rollback_lift: float = -0.01
    pass_lift: float = -0.05
    min_units: int = 400
    coverage: float = 0.0
    min_requests: int = 20
    alpha: float | None = None
    beta: float | None = None
    deadline_seconds: float | None = None
    at_deadline: AtDeadline | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound, or would have no effect.

        Raises:
            PlanError: The message states the value and the bound.
        """
        if not isinstance(self.metric, Metric) or not isinstance(self.role, Role):
            raise PlanError(
                f"metric is {self.metric!r} and role is {self.role!r}, must be a Metric and a Role; "
                "use Gate.from_dict for plain text"
            )
        if self.at_deadline is not None and not isinstance(self.at_deadline, AtDeadline):
            raise PlanError(f"{self.metric} gate: at_deadline is {self.at_deadline!r}, must be an AtDeadline or None")
        allowed = _ROLES.get(self.metric, frozenset(Role))
        if self.role not in allowed:
            raise PlanError(
                f"{self.metric} gate: role is {self.role}, must be one of {', '.join(sorted(allowed))}: there is "
                "nothing to prove about an assignment, only against it"
            )
        self._check_numbers()
        self._check_no_other_metrics_field()

    def _check_numbers(self) -> None:
        def check(name: str, low: float, high: float) -> None:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                number(f"{self.metric} gate: {name}", value, low, high)

        check("rollback_odds", 1, 100)
        check("pass_odds", 1, _MOST_ODDS)
        check("latency_margin", 0, 10)
        check("latency_slack_ms", 0, 600_000)
        check("coverage", 0, 1)
        check("tolerance", 0, 1e300)
        check("rollback_lift", -0.99, 10)
        check("pass_lift", -0.99, 10)
        check("alpha", 1e-9, 0.2)
        check("beta", 1e-9, 0.2)
        check("deadline_seconds", 0, _LONGEST_SECONDS)
        whole(f"{self.metric} gate: min_requests", self.min_requests, 1, 10**9)
        whole(f"{self.metric} gate: min_units", self.min_units, 2, 10**9)
        if not self.pass_odds > self.rollback_odds:
            raise PlanError(
                f"{self.metric} gate: pass_odds is {self.pass_odds}, must be above rollback_odds "
                f"({self.rollback_odds}) and at most {_MOST_ODDS}"
            )
        for name in ("negligible", "floor"):
            value = getattr(self, name)
            check(name, 0, 1)
            if value is not None and not 0 < value < 1:
                raise PlanError(
                    f"{self.metric} gate: {name} is {value}, must be between 0 and 1, both excluded"
                    + ("; leave it out to judge by comparison alone" if name == "negligible" else "")
                )

    def _check_no_other_metrics_field(self) -> None:
        foreign = _SPECIAL - _OWN_FIELDS[self.metric]
        if lost := sorted(f.name for f in fields(self) if f.name in foreign and getattr(self, f.name) != f.default):
            raise PlanError(
                f"{self.metric} gate: {lost[0]} is {getattr(self, lost[0])}, must be left out: it has no effect on "
                f"{self.metric}"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse. Fields of other metrics are left out.

        Every other field is written, also at its default: a plan on record means the same under a later version.
        """
        return {name: value for name, value in asdict(self).items() if name not in _SPECIAL - _OWN_FIELDS[self.metric]}

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
        if values.get("at_deadline") is not None:
            values["at_deadline"] = choice("at_deadline", values["at_deadline"], AtDeadline)
        return cls(**values)
