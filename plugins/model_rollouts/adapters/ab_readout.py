"""The readout of an A/B test: once, at its end, what the challenger is worth against the champion, by unit.

The decision is the value gate's, which may be asked at any time. This is the summary with a fixed horizon that goes
with it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from model_rollouts.adapters.ab_effects import METRICS, PRIMARY, Effect, effects, sample_ratio_p_value
from model_rollouts.adapters.ab_page import render, worded
from model_rollouts.adapters.report_facts import ArmUnits
from model_rollouts.core.gates import Metric
from model_rollouts.core.plan import FULL_SHARE, Stage
from model_rollouts.core.rollout import Rollout

MOST_EXPOSED_TO_BOTH = 0.01  # share of the units; assignment is sticky, so that it should be none
LEAST_SAMPLE_RATIO_P = 0.001
LEAST_COVERAGE_P = 0.001  # values that are missing in one arm more than in the other bias what is left
PRIOR = timedelta(days=30)
GUARDRAILS = ("error_rate", "accuracy")
_BETTER = {spec.name: spec.better for spec in METRICS}


class UnitLog(Protocol):
    """What the readout asks of the log; `DeltaReportLog` has it."""

    def arm_units(
        self,
        model: str,
        rollout_id: str,
        stage: int,
        start: datetime,
        end: datetime,
        maturity: timedelta,
        prior: tuple[datetime, datetime],
    ) -> ArmUnits:
        """The units of a stage."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the readout rests on.

    Attributes:
        name: Which one.
        state: "ok", "failed" or "missing".
        detail: What was found, and the bound.
    """

    name: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Readout:
    """What came of the test.

    Attributes:
        state: "ok"; "failed" where the arms can't be compared; "missing" where there is too little to compare.
        verdict: "winner", "loser" or "no difference" of the challenger, by the primary metric; "none" unless ok.
        reason: One sentence for a person.
        effects: By metric.
        guardrails: By metric: "holds", "worse" or "unknown". Holding means that no harm is proven.
        checks: What it rests on.
        sample_ratio_p_value: None where nothing is dealt.
    """

    state: str
    verdict: str
    reason: str
    effects: dict[str, Effect]
    guardrails: dict[str, str]
    checks: tuple[Check, ...]
    sample_ratio_p_value: float | None


@dataclass(frozen=True, slots=True)
class ReadoutResult:
    """What was found and written.

    Attributes:
        readout: The result.
        files: `readout.json` and `readout.html`.
        metrics: The main numbers by name, all finite; those that are not known are left out.
    """

    readout: Readout
    files: tuple[Path, ...]
    metrics: dict[str, float]


def write_readout(
    rollout: Rollout, stage: int, log: UnitLog, window: tuple[datetime, datetime], out_dir: Path
) -> ReadoutResult:
    """Read a test out.

    Args:
        rollout: The rollout.
        stage: Position of a stage.
        log: Where the units are summed up from.
        window: When they asked, [start, end), UTC. A value is due when it is as old as the plan says by then.
        out_dir: Gets `readout.json` and `readout.html`.

    Raises:
        LogReadError: The log can't be read.
        PlanError: There is no such stage.
    """
    setting = rollout.plan.stage(stage)
    maturity = timedelta(seconds=rollout.plan.label_maturity_seconds)
    before = min(rollout.created_at, window[0])
    units = log.arm_units(rollout.model, rollout.id, stage, *window, maturity, (before - PRIOR, before))
    readout = read_out(units, setting)
    document: dict[str, Any] = {
        "rollout": rollout.id,
        "model": rollout.model,
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "stage": stage,
        "dealt_percent": setting.dealt_percent,
        "from": window[0].isoformat(),
        "until": window[1].isoformat(),
        "maturity_seconds": rollout.plan.label_maturity_seconds,
        "state": readout.state,
        "verdict": readout.verdict,
        "reason": readout.reason,
        "primary": PRIMARY.name,
        "interval": "95 %, Welch, ratios by the delta method over units, for one look at the end",
        "effects": {name: asdict(effect) for name, effect in readout.effects.items()},
        "guardrails": readout.guardrails,
        "checks": [asdict(check) for check in readout.checks],
        "sample_ratio_p_value": readout.sample_ratio_p_value,
        "units": units.units,
        "units_in_both_arms": units.exposed_to_both,
        "requests": units.requests,
        "requests_of_units_in_both_arms": units.requests_exposed,
        "arms": {arm: _totals(units, arm) for arm in ("champion", "challenger")},
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    files = (out_dir / "readout.json", out_dir / "readout.html")
    files[0].write_text(json.dumps(document, indent=2, allow_nan=False), encoding="utf-8")
    files[1].write_text(render(document), encoding="utf-8")
    return ReadoutResult(readout, files, _metrics(readout, units))


def read_out(units: ArmUnits, setting: Stage) -> Readout:
    """What came of a test, from the sums over its units. Nothing is raised for data that tell nothing."""
    found = effects(units)
    ratio = sample_ratio_p_value(_units(units, "champion"), _units(units, "challenger"), setting.dealt_percent)
    checks = (
        _dealt(units, setting),
        _exposure(units),
        _sample_ratio(units, setting, ratio),
        _values(units, setting, found[PRIMARY.name]),
        _coverage(found["value_coverage"]),
    )
    guardrails = {name: _guardrail(found[name]) for name in GUARDRAILS}
    states = {check.state for check in checks}
    state = "failed" if "failed" in states else "missing" if "missing" in states else "ok"
    if state != "ok":
        bad = "; ".join(f"{check.name}: {check.detail}" for check in checks if check.state != "ok")
        return Readout(state, "none", f"no verdict: {bad}", found, guardrails, checks, ratio)
    primary = found[PRIMARY.name]
    verdict = {1: "winner", -1: "loser", 0: "no difference"}[primary.direction]
    held = ", ".join(f"{name.replace('_', ' ')} {state}" for name, state in guardrails.items())
    reason = f"{verdict}: {worded(asdict(primary))}; guardrails: {held}"
    return Readout(state, verdict, reason, found, guardrails, checks, ratio)


def _dealt(units: ArmUnits, setting: Stage) -> Check:
    if not 0 < setting.dealt_percent < FULL_SHARE:
        return Check("arms", "missing", f"the share is {setting.share:g}, must be between 0 and 100: nothing is dealt")
    counts = {arm: _units(units, arm) for arm in ("champion", "challenger")}
    text = " and ".join(f"{count:,} units of the {arm}" for arm, count in counts.items())
    return Check("arms", "ok" if all(counts.values()) else "missing", text)


def _exposure(units: ArmUnits) -> Check:
    share = units.exposed_to_both / units.units if units.units else 0.0
    text = f"{units.exposed_to_both:,} of {units.units:,} units were in both arms ({share:.2%}) and are left out"
    if share > MOST_EXPOSED_TO_BOTH:
        return Check("multiple exposure", "failed", f"{text}; must be at most {MOST_EXPOSED_TO_BOTH:.0%}")
    return Check("multiple exposure", "ok" if units.units else "missing", text)


def _sample_ratio(units: ArmUnits, setting: Stage, p_value: float | None) -> Check:
    if p_value is None:
        return Check("sample ratio", "missing", "no units to compare with the plan")
    ours, theirs = _units(units, "champion"), _units(units, "challenger")
    share = theirs / (ours + theirs)
    text = f"{share:.2%} of the units are the challenger's, planned {setting.dealt_percent:g} % (p = {p_value:.2g})"
    if not p_value >= LEAST_SAMPLE_RATIO_P:
        return Check("sample ratio", "failed", f"{text}; p must be at least {LEAST_SAMPLE_RATIO_P:g}")
    return Check("sample ratio", "ok", text)


def _values(units: ArmUnits, setting: Stage, primary: Effect) -> Check:
    """Are there enough values, and do they tell anything?"""
    gate = setting.gate(Metric.VALUE)
    floor = gate.coverage if gate else 0.0
    rates = []
    for arm in ("champion", "challenger"):
        totals = _totals(units, arm)
        rates.append(totals["valued"] / totals["due"] if totals["due"] else 0.0)
    text = f"{rates[0]:.1%} and {rates[1]:.1%} of the values that are due are there"
    if primary.problem:
        return Check("values", "missing", f"{text}; {PRIMARY.name.replace('_', ' ')}: {primary.problem}")
    if min(rates) < floor:
        return Check("values", "missing", f"{text}, must be at least {floor:.0%} in each arm")
    return Check("values", "ok", text)


def _coverage(effect: Effect) -> Check:
    """Are values missing alike in both arms?"""
    name = "missing values"
    if not effect.told:
        return Check(name, "missing", effect.problem)
    if effect.p_value is None:
        return Check(name, "failed" if effect.direction else "ok", "all are there, or none, in each arm")
    text = f"the arms' coverage differs by {effect.difference:+.2%} (p = {effect.p_value:.2g})"
    if effect.p_value < LEAST_COVERAGE_P:
        return Check(name, "failed", f"{text}; p must be at least {LEAST_COVERAGE_P:g}")
    return Check(name, "ok", text)


def _guardrail(effect: Effect) -> str:
    if not effect.told:
        return "unknown"
    return "worse" if effect.direction * _BETTER[effect.metric] < 0 else "holds"


def _units(units: ArmUnits, arm: str) -> int:
    moments = units.moments.get("requests", {}).get(arm)
    return moments.units if moments else 0


def _totals(units: ArmUnits, arm: str) -> dict[str, Any]:
    moments = units.moments.get("requests", {}).get(arm)
    columns = ("requests", "errors", "due", "valued", "labelled", "correct")
    if moments is None:
        return {"units": 0, "units_with_prior": 0, **dict.fromkeys(columns, 0), "value": 0.0}
    counts = {column: round(moments.total(column)) for column in columns}
    return {
        "units": moments.units,
        "units_with_prior": moments.with_prior,
        **counts,
        "value": moments.total("value"),
    }


def _metrics(readout: Readout, units: ArmUnits) -> dict[str, float]:
    values: dict[str, float | None] = {
        "readout_units_champion": _units(units, "champion"),
        "readout_units_challenger": _units(units, "challenger"),
        "readout_units_in_both_arms": units.exposed_to_both,
        "readout_sample_ratio_p_value": readout.sample_ratio_p_value,
    }
    shown: Sequence[str] = ("difference", "low", "high", "relative", "relative_low", "relative_high", "p_value")
    for name, effect in readout.effects.items():
        values |= {f"readout_{name}_{part}": getattr(effect, part) for part in ("champion", "challenger", *shown)}
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
