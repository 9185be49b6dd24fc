"""What one window of live traffic means: all well, an alert, blind, or too little to tell.

An alert is only raised where the bound of an interval lies beyond the limit, so that chance alone raises one in at most
1 - level of the windows at the limit, and in far fewer below it. Where a limit is relative, the reference counts with
the bound of its own interval, on the side that favours the model. What can't be seen is never well.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import isfinite
from typing import Any

from model_rollouts.core.intervals import mean_bounds, quantile_bounds, rate_bounds
from model_rollouts.core.monitoring import LEAST_COVERAGE
from model_rollouts.core.monitoring_limits import Drift, Limits, Observed
from model_rollouts.core.readiness import Monitored

DATA = "data"  # the name of the finding about the data checks
DRIFT_SHARE = 0.5  # where no limit is set: half of the columns, as Evidently says of a whole data set
HARM = frozenset({Monitored.ACCURACY, Monitored.LATENCY, Monitored.ERRORS, Monitored.BUSINESS})
LEAST_WORTH = 30  # independent rows that the judged ones must be worth: fewer bound nothing
_P95 = 0.95


class State(StrEnum):
    """What is known of one metric, or of all of them; the worst first."""

    ALERT = "alert"  # proven to be beyond the limit
    BLIND = "blind"  # nothing to see where there should be something
    TOO_LITTLE = "too_little"  # something, but not enough to tell
    UNWATCHED = "unwatched"  # nothing to see, and that is allowed
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one metric.

    Attributes:
        name: One of `Monitored`, or "data".
        state: What it comes to.
        value: As observed; None where there is nothing.
        bound: The bound of its interval that the limit is held against.
        limit: The limit.
        detail: One sentence for a person.
    """

    name: str
    state: State
    value: float | None
    bound: float | None
    limit: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """All findings of one window.

    Attributes:
        state: The worst of them, but for what may be missing; "unwatched" where that is all.
        reason: One sentence for a person.
        harm: Whether callers are served worse: an earlier version may help. Drifting inputs and broken data would be
            the same under any version.
        findings: One for each of the five, and one for the data checks.
    """

    state: State
    reason: str
    harm: bool
    findings: tuple[Finding, ...]

    @property
    def alarms(self) -> bool:
        """Whether somebody has to be told."""
        return self.state in (State.ALERT, State.BLIND)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings]}


def judge(
    limits: Limits,
    current: Observed | None,
    reference: Observed | None,
    drift: Drift | None,
    data: tuple[bool, str] | None,
    *,
    young: bool = False,
) -> Judgement:
    """Hold one window against its limits.

    Args:
        limits: What is still well.
        current: The live version in the window; None: it could not be measured.
        reference: What a relative limit is taken from; None: there is none.
        drift: The drift report; None: there is none.
        data: Whether the data checks hold, and a sentence; None: there are none.
        young: Whether the version has not served for long enough to have labels that are due.
    """
    if current is None:
        findings: list[Finding] = [_blind(name, "the task that measures left no result") for name in Monitored]
    elif not current.requests.requests:
        findings = [_blind(name, f"version {current.version} has no request in the window") for name in Monitored]
    else:
        measured = (_accuracy, _latency, _errors, _business)
        findings = [each(limits, current, reference, young) for each in measured]
        findings.insert(list(Monitored).index(Monitored.DRIFT), _drift(limits, current, reference, drift))
    findings = [_allowed(finding, limits.may_be_missing) for finding in findings]
    if data is None:
        findings.append(Finding(DATA, State.BLIND, None, None, None, "the data checks left no result"))
    elif current is not None and current.requests.requests:
        findings.append(Finding(DATA, State.OK if data[0] else State.ALERT, None, None, None, data[1]))
    watched = [finding.state for finding in findings if finding.state is not State.UNWATCHED]
    worst = min(watched, key=list(State).index, default=State.UNWATCHED)
    return Judgement(
        worst,
        _reason(worst, findings),
        any(finding.state is State.ALERT and finding.name in HARM for finding in findings),
        tuple(findings),
    )


# --- one metric each


def _errors(limits: Limits, current: Observed, reference: Observed | None, young: bool) -> Finding:
    del young
    now = current.requests
    return _rate(
        Monitored.ERRORS, "error rate", limits, limits.max_error_rate,
        (now.errors, now.requests, now.error_effect),
        None if reference is None else
        (reference.requests.errors, reference.requests.requests, reference.requests.error_effect),
    )  # fmt: skip


def _accuracy(limits: Limits, current: Observed, reference: Observed | None, young: bool) -> Finding:
    now = current.labels
    if gap := _gap(Monitored.ACCURACY, "labels", now.labelled, now.due, young, limits):
        return gap
    return _rate(
        Monitored.ACCURACY, "rate of wrong predictions", limits,
        None if limits.min_accuracy is None else 1 - limits.min_accuracy,
        (now.wrong, now.labelled, now.wrong_effect),
        None if reference is None else
        (reference.labels.wrong, reference.labels.labelled, reference.labels.wrong_effect),
    )  # fmt: skip


def _latency(limits: Limits, current: Observed, reference: Observed | None, young: bool) -> Finding:
    del young
    name, now = Monitored.LATENCY, current.requests
    if not now.timed:
        return _blind(name, f"none of {now.requests:,} requests has an answer with a latency")
    if now.timed < limits.min_requests:
        return _little(name, f"{now.timed:,} answers with a latency, needed {limits.min_requests:,}")
    if worth := _worth(name, now.timed, now.slow_effect):
        return worth
    low, _ = quantile_bounds(now.latency, _P95, now.slow_effect, limits.level)
    limit, source = limits.max_p95_ms, "the limit"
    if limit is None:
        then = None if reference is None else reference.requests
        if then is None or then.timed < limits.min_requests:
            return _no_reference(name, "answers with a latency", 0 if then is None else then.timed, limits)
        _, high = quantile_bounds(then.latency, _P95, then.slow_effect, limits.level)
        if not isfinite(high):
            detail = f"{then.timed:,} answers in the reference are too few to bound their 95 % quantile at that level"
            return _little(name, detail)
        limit, source = high * (1 + limits.margin), "the reference's limit"
    state = State.ALERT if low > limit else State.OK
    detail = f"95 % quantile of the latency is proven to be at least {low:.4g} ms, {source} is {limit:.4g} ms"
    return Finding(name, state, low, low, limit, detail)


def _business(limits: Limits, current: Observed, reference: Observed | None, young: bool) -> Finding:
    name, now = Monitored.BUSINESS, current.labels
    if gap := _gap(name, "values", now.valued, now.value_due, young, limits):
        return gap
    if now.value_mean is None or now.value_error is None:
        return _little(name, f"{now.valued:,} values of one unit, needed several units")
    _, high = mean_bounds(now.value_mean, now.value_error, limits.level)
    limit, source = limits.min_value, "the limit"
    if limit is None:
        then = None if reference is None else reference.labels
        if then is None or then.valued < limits.min_requests or then.value_mean is None or then.value_error is None:
            return _no_reference(name, "values", 0 if then is None else then.valued, limits)
        low, _ = mean_bounds(then.value_mean, then.value_error, limits.level)
        limit, source = low - limits.margin * abs(then.value_mean), "the reference's limit"
    state = State.ALERT if high < limit else State.OK
    detail = f"value of a request is {now.value_mean:.4g}, proven to be at most {high:.4g}, {source} is {limit:.4g}"
    return Finding(name, state, now.value_mean, high, limit, detail)


def _drift(limits: Limits, current: Observed, reference: Observed | None, drift: Drift | None) -> Finding:
    name, limit = Monitored.DRIFT, limits.max_drift_share
    limit = DRIFT_SHARE if limit is None else limit
    if drift is None:
        return _blind(name, "the drift report left no result")
    share = drift.drifted / drift.columns if drift.columns else None
    detail = f"{drift.drifted} of {drift.columns} columns drifted beyond chance, the limit is {limit:.0%} of them"
    if share is not None and share > limit:  # proven, whatever is not known of other columns
        return Finding(name, State.ALERT, share, share, limit, f"{detail} ({drift.detail})")
    if not drift.computed or share is None:
        for observed, where in ((current, "window"), (reference, "reference")):
            requests = observed.requests.requests if observed else 0
            if requests < limits.min_requests:
                return _little(name, f"{requests:,} requests in the {where}, needed {limits.min_requests:,}")
        return _blind(name, f"drift could not be told: {drift.detail}")
    return Finding(name, State.OK, share, share, limit, f"{detail} ({drift.detail})")


def _rate(
    name: Monitored,
    what: str,
    limits: Limits,
    limit: float | None,
    now: tuple[int, int, float],
    then: tuple[int, int, float] | None,
) -> Finding:
    """A rate of something bad; `now` and `then` are (hits, rows, design effect)."""
    hits, rows, effect = now
    if rows < limits.min_requests:
        return _little(name, f"{rows:,} judged for the {what}, needed {limits.min_requests:,}")
    if worth := _worth(name, rows, effect):
        return worth
    low, _ = rate_bounds(*now, limits.level)
    source = "the limit"
    if limit is None:
        if then is None or then[1] < limits.min_requests:
            return _no_reference(name, f"judged for the {what}", then[1] if then else 0, limits)
        if worth := _worth(name, then[1], then[2]):
            return worth
        _, high = rate_bounds(*then, limits.level)
        limit, source = min(1.0, high * (1 + limits.margin)), "the reference's limit"
    state = State.ALERT if low > limit else State.OK
    detail = f"{what} is {hits / rows:.2%} of {rows:,}, proven to be at least {low:.2%}, {source} is {limit:.2%}"
    return Finding(name, state, hits / rows, low, limit, detail)


def _gap(name: Monitored, what: str, have: int, due: int, young: bool, limits: Limits) -> Finding | None:
    """What is missing of something that arrives later; None where there is enough of it."""
    if not due:
        detail = f"no {what} are due in the window"
        return _little(name, f"{detail}: the version has not served for long enough") if young else _blind(name, detail)
    if due < limits.min_requests:
        return _little(name, f"{due:,} {what} are due, needed {limits.min_requests:,}")
    if have < LEAST_COVERAGE * due:
        return _blind(name, f"{have:,} of {due:,} due {what} have arrived, needed {LEAST_COVERAGE:.0%} of them")
    if have < limits.min_requests:
        return _little(name, f"{have:,} {what} have arrived, needed {limits.min_requests:,}")
    return None


def _worth(name: Monitored, rows: int, effect: float) -> Finding | None:
    """Too little, where many rows are of few units or calls."""
    if rows / effect >= LEAST_WORTH:
        return None
    detail = f"{rows:,} rows of few units or calls are worth {rows / effect:.0f}, needed {LEAST_WORTH}"
    return _little(name, detail)


def _blind(name: Monitored, detail: str) -> Finding:
    return Finding(name, State.BLIND, None, None, None, detail)


def _little(name: Monitored, detail: str) -> Finding:
    return Finding(name, State.TOO_LITTLE, None, None, None, detail)


def _no_reference(name: Monitored, what: str, have: int, limits: Limits) -> Finding:
    needed = f"needed {limits.min_requests:,}; set a limit of its own to be judged without a reference"
    return _little(name, f"{have:,} {what} in the reference, {needed}")


def _allowed(finding: Finding, may_be_missing: Collection[Monitored]) -> Finding:
    """A blind spot that may be one."""
    if finding.state is not State.BLIND or finding.name not in may_be_missing:
        return finding
    return Finding(finding.name, State.UNWATCHED, None, None, None, f"{finding.detail}, which may be so")


def _reason(worst: State, findings: Sequence[Finding]) -> str:
    """The worst findings, those that say the same together; an alert does not hide what can't be seen."""
    if worst is State.OK:
        return f"all is well with {', '.join(finding.name for finding in findings if finding.state is State.OK)}"
    parts = []
    for state in (worst, State.BLIND) if worst is State.ALERT else (worst,):
        said: dict[str, list[str]] = {}
        for finding in findings:
            if finding.state is state:
                said.setdefault(finding.detail, []).append(finding.name)
        if said:
            text = "; ".join(f"{', '.join(group)}: {detail}" for detail, group in said.items())
            parts.append(f"{state.replace('_', ' ')}: {text}")
    return "; ".join(parts)
