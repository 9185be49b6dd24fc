"""What every pattern lets a person set, and what it makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from model_rollouts.core.calendar import DAYS, Calendar
from model_rollouts.core.checks import choice, flag, names, number
from model_rollouts.core.data_rollback import DataRollback
from model_rollouts.core.drift_plan import DriftPlan, DriftRole
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Gate, Metric, Role
from model_rollouts.core.plan import Advance, Pattern, Plan, Stage, Underpowered
from model_rollouts.core.readiness import Readiness

CONTROL_PERCENT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonParameters:
    """What a person may set whatever the pattern; the defaults are safe for a service with minutes between looks.

    Attributes:
        look_seconds: Length of a look.
        grace_seconds: How long after its end a look is closed.
        label_maturity_seconds: Age at which a request's label is due.
        label_coverage: Least share of due labels that must have arrived, in each arm, 0 to 1. 0 goes without
            labels: accuracy is then shown, not judged.
        rollback_odds: Roll back when odds of a bad outcome are proven above this many times the champion's.
        pass_odds: Margin of non-inferiority.
        negligible_error_rate: An error rate that is good enough whatever the champion's is.
        latency_margin: Relative slack on the champion's latency quantiles.
        latency_slack_ms: Absolute slack on top of it.
        min_requests: Least number of judged challenger requests in each stage.
        at_deadline: What to do when a deadline comes and nothing is proven.
        underpowered: What to do when a stage's traffic can't bring a proof before its deadline.
        alpha: Bound on rolling back a healthy challenger.
        beta: Bound on passing one that is worse than the margin.
        advance: What opens the next stage: the stage that passed, or the schedule.
        expand_days: Days of the week on which the schedule may open one.
        expand_from: Time of day from which it may, HH:MM.
        expand_until: Time of day until which it may, HH:MM.
        timezone: Of these times.
        blackout_dates: Dates on which it may not, YYYY-MM-DD.
        keep_previous_seconds: How long the old champion is kept loaded after the cut-over.
        on_call: Who stands by.
        acknowledge: Ask them before anything moves.
        may_be_missing: What of accuracy, latency, errors, drift, business need not be monitored.
        golden_requests: Logged requests that both versions must answer before traffic moves.
        golden_file: Further requests with expected answers.
        golden_agreement: Least share of golden requests that the challenger must answer as expected.
        rehearse: Flip the traffic to the challenger, for no unit, and back, before anything moves.
        drill_within_days: Refuse the start unless a drill succeeded within so many days. None: no matter.
        data_rollback: What is undone with the model; see core/data_rollback.py.
        on_drift: Whether drift of a column that `drift` gives no role is reported only, or holds.
        drift: Limits and roles by column; see core/drift_plan.py.
        then: Patterns that follow in the same rollout: mappings with `pattern` and that pattern's parameters.
    """

    look_seconds: float = 300.0
    grace_seconds: float = 10.0
    label_maturity_seconds: float = 3600.0
    label_coverage: float = 0.8
    rollback_odds: float = 1.25
    pass_odds: float = 1.5
    negligible_error_rate: float = 0.02
    latency_margin: float = 0.25
    latency_slack_ms: float = 5.0
    min_requests: int = 50
    at_deadline: AtDeadline | str = AtDeadline.HOLD
    underpowered: Underpowered | str = Underpowered.WAIT
    alpha: float = 0.01
    beta: float = 0.05
    advance: Advance | str = Advance.AT_ONCE
    expand_days: Sequence[str] = DAYS
    expand_from: str = "00:00"
    expand_until: str = "24:00"
    timezone: str = "UTC"
    blackout_dates: Sequence[str] = ()
    keep_previous_seconds: float = 7 * 86_400.0
    on_call: Sequence[str] = ()
    acknowledge: bool = False
    may_be_missing: Sequence[str] = ()
    golden_requests: int = 20
    golden_file: str = ""
    golden_agreement: float = 0.0
    rehearse: bool = True
    drill_within_days: float | None = None
    data_rollback: Sequence[Mapping[str, Any]] = ()
    on_drift: DriftRole | str = DriftRole.REPORT
    drift: Mapping[str, Any] = field(default_factory=dict)
    then: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from a form's values; the pattern judges them.

        Raises:
            PlanError: A name is unknown.
        """
        return cls(**names("the form", data, cls))


def plan_of(pattern: Pattern, p: CommonParameters, stages: Sequence[Stage]) -> Plan:
    """The plan of a pattern's stages with what is common to all of them.

    Raises:
        PlanError: A parameter is out of its bounds; the message states the value and the bound.
    """
    if _listed("then", p.then):
        raise PlanError(f"then is {p.then!r}, must be empty for a pattern alone; plan_from makes chains")
    return Plan(
        pattern=pattern,
        stages=tuple(stages),
        look_seconds=p.look_seconds,
        grace_seconds=p.grace_seconds,
        label_maturity_seconds=p.label_maturity_seconds,
        alpha=p.alpha,
        beta=p.beta,
        at_deadline=choice("at_deadline", p.at_deadline, AtDeadline),
        underpowered=choice("underpowered", p.underpowered, Underpowered),
        advance=choice("advance", p.advance, Advance),
        calendar=Calendar(
            expand_days=texts("expand_days", p.expand_days),
            expand_from=p.expand_from,
            expand_until=p.expand_until,
            timezone=p.timezone,
            blackout_dates=texts("blackout_dates", p.blackout_dates),
        ),
        keep_previous_seconds=p.keep_previous_seconds,
        readiness=Readiness.from_dict(
            {
                "on_call": list(texts("on_call", p.on_call)),
                "acknowledge": p.acknowledge,
                "may_be_missing": list(texts("may_be_missing", p.may_be_missing)),
                "golden_requests": p.golden_requests,
                "golden_file": p.golden_file,
                "golden_agreement": p.golden_agreement,
                "rehearse": p.rehearse,
                "drill_within_days": p.drill_within_days,
            }
        ),
        data_rollback=tuple(DataRollback.from_dict(step) for step in _listed("data_rollback", p.data_rollback)),
        drift=_drift(p),
    )


def _drift(p: CommonParameters) -> DriftPlan:
    role = choice("on_drift", p.on_drift, DriftRole)
    if role is DriftRole.IGNORE:
        raise PlanError(f"on_drift is {role}, must be report or hold; columns can be ignored one by one in drift")
    if not isinstance(p.drift, Mapping) or "role" in p.drift:
        raise PlanError(f"drift is {p.drift!r}, must be an object without a role: on_drift says it")
    return DriftPlan.from_dict({**p.drift, "role": role.value})


def harm_gates(p: CommonParameters, *, odds: float | None = None, negligible: float | None = None) -> list[Gate]:
    """Errors, accuracy and latency: what every pattern watches. Errors, accuracy and p95 must be proven.

    Args:
        p: The parameters.
        odds: Margin of non-inferiority. None: the parameters'.
        negligible: Negligible error rate. None: the parameters'.

    Raises:
        PlanError: A parameter is out of its bounds.
    """
    number("pass_odds", p.pass_odds, 1, 1000)
    number("negligible_error_rate", p.negligible_error_rate, 0, 1)
    number("label_coverage", p.label_coverage, 0, 1)
    margins = {"rollback_odds": p.rollback_odds, "pass_odds": odds or p.pass_odds, "min_requests": p.min_requests}
    slack = {"latency_margin": p.latency_margin, "latency_slack_ms": p.latency_slack_ms}
    labels = Role.GUARDRAIL if p.label_coverage > 0 else Role.MUTED
    small = p.negligible_error_rate if negligible is None else negligible
    return [
        Gate(Metric.ERROR_RATE, negligible=small, **margins),  # type: ignore[arg-type]
        Gate(Metric.WRONG_RATE, role=labels, coverage=p.label_coverage, **margins),  # type: ignore[arg-type]
        Gate(Metric.LATENCY_P50, Role.SIGNAL, **margins, **slack),  # type: ignore[arg-type]
        Gate(Metric.LATENCY_P95, **margins, **slack),  # type: ignore[arg-type]
        Gate(Metric.LATENCY_P99, role=Role.TRIPWIRE, **margins, **slack),  # type: ignore[arg-type]
    ]


def with_role(gates: Sequence[Gate], role: Role, *metrics: Metric) -> list[Gate]:
    """The same gates, those of some metrics in another role. What is muted stays so: there is nothing to judge."""
    return [
        replace(gate, role=role, coverage=gate.coverage if role.must_prove else 0.0)
        if gate.metric in metrics and gate.role is not Role.MUTED
        else gate
        for gate in gates
    ]


def asked(name: str, value: object) -> bool:
    """A truth value of the form.

    Raises:
        PlanError: It is none.
    """
    flag(name, value)
    return bool(value)


def texts(name: str, value: object) -> tuple[str, ...]:
    """A list of texts of the form.

    Raises:
        PlanError: It is something else.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be a list of texts")
    return tuple(str(each) for each in value)


def _listed(name: str, value: object) -> Sequence[Mapping[str, Any]]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(i, Mapping) for i in value):
        raise PlanError(f"{name} is {value!r} ({type(value).__name__}), must be a list of objects")
    return value
