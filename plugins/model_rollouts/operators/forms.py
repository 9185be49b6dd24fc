"""The forms of the pattern DAGs: every parameter of a pattern with its bounds, its default and what it means.

Defaults come from the pattern's parameters, so a form can't promise others than the plan has.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from airflow.sdk import Param

from model_rollouts.core.calendar import DAYS
from model_rollouts.core.data_rollback import DataRollbackKind
from model_rollouts.core.gates import AtDeadline
from model_rollouts.core.patterns import parameters_of
from model_rollouts.core.plan import Advance, Pattern, Underpowered
from model_rollouts.core.readiness import Monitored

STAGES, MARGINS, TIME, LABELS = "Stages", "Margins", "Time", "Labels"
SCHEDULE, READY, RESUME = "Schedule", "Ready to go back", "Resume"

Field = dict[str, Any]


def _number(low: float, high: float, title: str, section: str, text: str, *, optional: bool = False) -> Field:
    kind = ["null", "number"] if optional else "number"
    return {"type": kind, "minimum": low, "maximum": high, "title": title, "section": section, "description": text}


def _whole(low: int, high: int, title: str, section: str, text: str) -> Field:
    return {"type": "integer", "minimum": low, "maximum": high, "title": title, "section": section, "description": text}


def _choice(options: Any, title: str, section: str, text: str) -> Field:
    return {"enum": [str(each) for each in options], "title": title, "section": section, "description": text}


def _flag(title: str, section: str, text: str) -> Field:
    return {"type": "boolean", "title": title, "section": section, "description": text}


def _text(pattern: str, title: str, section: str, text: str) -> Field:
    return {"type": "string", "pattern": pattern, "title": title, "section": section, "description": text}


def _list(items: Field, title: str, section: str, text: str, **more: Any) -> Field:
    return {"type": "array", "items": items, "title": title, "section": section, "description": text, **more}


_SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}
_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"
_YEAR = 366 * 86_400

_FIELDS: dict[str, Field] = {
    # stages
    "steps": _list(_SHARE, "Steps, %", STAGES, "The challenger's shares, increasing.", minItems=1, maxItems=100),
    "share": _number(0.01, 99.99, "Share, %", STAGES, "The challenger's share of the units; they keep their version."),
    "mirror_percent": _number(0.01, 100, "Mirrored, %", STAGES,
        "Percentage of the live requests that the challenger answers too, unseen by callers."),
    "control_percent": _number(0.1, 50, "Control, %", STAGES,
        "Where everybody gets the challenger, percentage of requests that the champion answers too, to compare with."),
    "control_group": _flag("Equal control group", STAGES,
        "Compare with a group of the champion's units as large as the challenger's, not with all of them."),
    "offline": _flag("Offline", STAGES,
        "Score logged requests of the champion in a task instead of live ones; no gateway is needed."),
    "approval": _flag("Ask a person", STAGES, "Ask a person before the challenger takes over."),
    "switch_approval": _flag("Ask a person", STAGES, "Ask a person before the switch."),
    "approval_from_share": _number(0, 100, "Ask a person from, %", STAGES,
        "Ask before leaving a step of this share or more. Empty: never.", optional=True),
    "then": _list({"type": "object"}, "Then", STAGES,
        'Patterns that follow in the same rollout, such as [{"pattern": "ab-test", "share": 50}].'),
    "at_deadline": _choice(AtDeadline, "At the deadline", STAGES,
        "What to do when a stage's deadline comes and nothing is proven; ask: a person decides."),
    "on_drift": _choice(("report", "hold"), "On drift", STAGES,
        "Whether drift between the versions' inputs or predictions is reported only, or holds."),
    "drift": {"type": "object", "title": "Drift by column", "section": STAGES,
        "description": 'Limits and roles, such as {"default": {"psi": 0.2}, "columns": {"f_distance": {"psi": 0.1, '
        '"role": "hold"}, "f_month": {"role": "ignore"}}}; limits: psi, js, wasserstein, missing.'},
    "underpowered": _choice(Underpowered, "Too little traffic", STAGES,
        "When a stage's traffic can't bring a proof before its deadline: wait (harm is still seen), hold, or ask."),
    # margins
    "agreement": _number(0.5, 0.9999, "Agreement", MARGINS, "Share of equal answers that must be proven."),
    "tolerance": _number(0, 1e300, "Tolerance", MARGINS,
        "Answers are numbers, and equal when they differ by at most this much. Empty: equal text.", optional=True),
    "pair_coverage": _number(0, 1, "Pairs", MARGINS,
        "Least share of the mirrored requests that the challenger must have answered: mirroring gives way under load."),
    "rollback_odds": _number(1, 100, "Roll back above, odds ratio", MARGINS,
        "Roll back when the odds of a bad answer are proven to be above this many times the champion's."),
    "pass_odds": _number(1.15, 1000, "Pass below, odds ratio", MARGINS,
        "Pass when they are proven to be below this many times the champion's; a canary's last step."),
    "first_pass_odds": _number(1.15, 1000, "Pass below at the first step", MARGINS,
        "The margin at the first step, where few requests are seen; it tightens from step to step."),
    "negligible_error_rate": _number(0.0001, 0.5, "Negligible error rate", MARGINS,
        "Proven to be below this, the error rate is good enough whatever the champion's is."),
    "latency_margin": _number(0, 10, "Latency margin", MARGINS, "0.25 allows 25 % on each quantile."),
    "latency_slack_ms": _number(0, 600_000, "Latency slack, ms", MARGINS, "On top of the margin."),
    "value_loss": _number(0.0001, 0.9, "Largest loss of value", MARGINS,
        "0.05 accepts a loss of 5 % of business value per request at the last step; half of it, proven, rolls back. "
        "Empty: business value is not judged.", optional=True),
    "detectable_lift": _number(0.0001, 10, "Lift to detect", MARGINS,
        "Relative lift of business value per request that the test is to see in four of five cases; sets the horizon."),
    "pass_lift": _number(-0.99, 10, "Win above", MARGINS, "The challenger wins with a lift proven above this."),
    "rollback_lift": _number(-0.99, 10, "Lose below", MARGINS, "It loses with a lift proven below this."),
    "min_units": _whole(2, 10**9, "Units", MARGINS, "Least number of units with a value in each arm."),
    "min_requests": _whole(1, 10**9, "Requests", MARGINS, "Least number of judged challenger requests in each stage."),
    "alpha": _number(1e-6, 0.2, "Alpha", MARGINS, "Bound on rolling back a healthy challenger."),
    "beta": _number(1e-6, 0.2, "Beta", MARGINS, "Bound on passing one that is worse than the margin."),
    # time
    "bake_seconds": _number(0, _YEAR, "Bake time, s", TIME, "Least time in each stage."),
    "deadline_seconds": _number(1, _YEAR, "Deadline, s", TIME, "Latest time of each stage's verdict."),
    "green_seconds": _number(0, _YEAR, "Green tests, s", TIME, "Least time of the tests before the switch."),
    "green_deadline_seconds": _number(1, _YEAR, "Green deadline, s", TIME, "Latest time of their verdict."),
    "horizon_seconds": _number(1, _YEAR, "Horizon, s", TIME,
        "When the test ends without a winner. Empty: worked out from the champion's logged values.", optional=True),
    "look_seconds": _number(0.5, 86_400, "Look, s", TIME, "Time bucket of the evidence."),
    "grace_seconds": _number(0, 3600, "Grace, s", TIME, "How long after its end a look is closed."),
    "keep_previous_seconds": _number(0, _YEAR, "Keep the old champion, s", TIME,
        "How long it stays loaded after the cut-over, to take over again at once."),
    # labels
    "label_maturity_seconds": _number(0, 90 * 86_400, "Label maturity, s", LABELS,
        "Age of a request at which its label is due."),
    "label_coverage": _number(0, 1, "Label coverage", LABELS,
        "Least share of due labels that must have arrived, in each arm. 0: accuracy is shown, not judged."),
    # schedule
    "advance": _choice(Advance, "Advance", SCHEDULE,
        "What opens the next stage: the one that passed, at once, or the DAG scheduled_expansion at its next tick."),
    "expand_days": _list({"enum": list(DAYS)}, "Days", SCHEDULE, "On schedule: days on which a stage may open.",
        minItems=1, maxItems=7),
    "expand_from": _text(_CLOCK, "From", SCHEDULE, "On schedule: time of day from which one may."),
    "expand_until": _text(_CLOCK, "Until", SCHEDULE, "On schedule: time of day until which one may."),
    "timezone": _text("^[A-Za-z0-9_+/-]+$", "Time zone", SCHEDULE, "Of these times, such as Europe/Berlin."),
    "blackout_dates": _list({"type": "string", "format": "date"}, "Blackout dates", SCHEDULE,
        "On schedule: dates on which none may open."),
    # ready to go back
    "on_call": _list({"type": "string"}, "On call", READY, "Who stands by: names or addresses; they are told."),
    "acknowledge": _flag("Ask them first", READY,
        "Ask whether they stand by before anything moves; no answer within an hour means not now."),
    "may_be_missing": _list({"enum": [str(each) for each in Monitored]}, "May be missing", READY,
        "Nothing is deployed that can't be monitored: what of accuracy, latency, errors, drift, business may be."),
    "golden_requests": _whole(0, 1000, "Golden requests", READY,
        "Logged requests that both versions must answer before traffic moves, the champion as before. 0: none."),
    "golden_file": {"type": "string", "title": "Golden file", "section": READY,
        "description": "JSON lines of further requests with expected answers. Empty: none."},
    "golden_agreement": _number(0, 1, "Golden agreement", READY,
        "Least share of the golden requests that the challenger must answer as expected."),
    "rehearse": _flag("Rehearse", READY, "Flip the traffic, for no unit, there and back before anything moves."),
    "drill_within_days": _number(0.001, 366, "Drill within, days", READY,
        "Refuse the start unless a rollback drill succeeded within so many days. Empty: no matter.", optional=True),
    "data_rollback": _list(
        {"type": "object", "required": ["kind", "target"],
         "properties": {"kind": {"enum": [str(k) for k in DataRollbackKind]}, "target": {"type": "string"}}},
        "Data rollback", READY,
        'What is undone with the model, such as [{"kind": "delta_restore", "target": "/data/features"}]; kinds: '
        "dag, delta_restore, callable."),
}  # fmt: skip


def form(pattern: Pattern | str, **said: str) -> dict[str, Param]:
    """The form of a pattern's DAG.

    Args:
        pattern: Which pattern.
        said: Descriptions that say more than the common ones, by field.
    """
    defaults = parameters_of(Pattern(pattern))()
    own: dict[str, Param] = {
        "model": Param(type="string", minLength=1, title="Model", description="Registered model name."),
        "challenger": Param("challenger", type="string", minLength=1, title="Challenger",
            description="Version number, or an alias such as challenger."),
        **{f.name: _param(f.name, getattr(defaults, f.name), said) for f in fields(defaults)},
        "requested_by": Param(None, type=["null", "string"], title="Requested by",
            description="Your name, for the audit."),
        "reason": Param(None, type=["null", "string"], title="Reason", description="Why; it goes on record."),
        "rollout_id": Param(None, type=["null", "string"], title="Rollout to resume", section=RESUME,
            description="Leave empty to start a new rollout."),
        "stage": Param(None, type=["null", "integer"], minimum=0, title="Stage to resume", section=RESUME,
            description="Counted from 0; empty: the one that is due."),
    }  # fmt: skip
    if unknown := sorted(set(said) - set(own)):
        raise ValueError(f"the form of {pattern} has no field {', '.join(unknown)}; it has: {', '.join(own)}")
    return own


def _param(name: str, default: Any, said: Mapping[str, str]) -> Param:
    field = dict(_FIELDS[name])
    if name in said:
        field["description"] = said[name]
    plain = list(default) if isinstance(default, tuple) else dict(default) if isinstance(default, Mapping) else default
    return Param(plain, **field)
