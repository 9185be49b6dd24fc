"""The comparison as a page: the verdict first, then the picture, the arms and the gates."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from model_rollouts.adapters.comparison_rows_page import sections
from model_rollouts.adapters.html_page import banner, heading, note, page, table
from model_rollouts.core.decision import Decision, GateResult

_ARMS = ("champion", "challenger")
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 760, 190, 720, 30, 34
_LARGEST_PLAIN = 6  # powers of ten that are written out


def render(document: Mapping[str, Any], decision: Decision) -> str:
    """The whole page.

    Args:
        document: As `write_comparison` puts it into comparison.json.
        decision: The verdict that it is about.
    """
    versions = {arm: f"{arm} (version {document[arm]})" for arm in _ARMS}
    arms = document["arms"]
    body = [
        note(
            f"Rollout {document['rollout']}, stage {document['stage'] + 1} at {document['share']:g} %, "
            f"{document['looks']:,} closed looks."
        ),
        banner(decision.verdict, f"{decision.verdict}: {decision.action.replace('_', ' ')}", decision.reason),
        heading("Rates, whole rollout"),
        _picture(
            [
                ("error rate", {arm: arms[arm]["errors"] for arm in _ARMS}),
                ("accuracy", {arm: arms[arm]["accuracy"] for arm in _ARMS}),
            ],
            versions,
        ),
        note(
            "Bars are 95 % intervals for one point in time, pooled over all looks. They are here to be read; the "
            "verdict compares the arms look by look, with bounds that hold at any time."
        ),
        heading("Arms, whole rollout"),
        _arm_table(arms, versions),
        heading("Arms, this stage"),
        _arm_table(document["stage_arms"], versions, without=("mean score",)),
        note(
            f"Latencies are upper edges of histogram bins, each {document['latency_bin_width']:.0%} wide. "
            "Mean scores are over the whole rollout."
        ),
        heading("Gates"),
        table(
            ("metric", "role", "verdict", "effect", "evidence of harm", "evidence to pass", "reason"),
            (_gate_row(gate) for gate in decision.gates),
        ),
        note(
            "Effect: odds ratio for rates, share of equal answers for agreement, new units over the planned number "
            "for the sample ratio, relative lift for value; bounds hold at any time. Evidence is an e-value: how many "
            "times likelier the counts are if it is so. Shown with what is needed."
        ),
        *sections(document["all_rows"], versions),
    ]
    return page(f"{document['model']}: challenger {document['challenger']} against {document['champion']}", body)


def _arm_table(arms: Mapping[str, Any], versions: Mapping[str, str], without: Sequence[str] = ()) -> str:
    columns = [_arm_cells(arms[arm]) for arm in _ARMS]
    lines = [(label, *(cells[label] for cells in columns)) for label in columns[0] if label not in without]
    return table(("", *(versions[arm] for arm in _ARMS)), lines)


def _arm_cells(arm: Mapping[str, Any]) -> dict[str, str]:
    return {
        "requests": f"{arm['requests']:,}",
        "errors": f"{arm['errors']['count']:,}",
        "error rate": _rate(arm["errors"]),
        **{f"latency {name}": _number(value, " ms") for name, value in arm["latency_ms"].items()},
        "labelled": f"{arm['labelled']:,} of {arm['due']:,} due",
        "label coverage": "none due" if arm["coverage"] is None else f"{arm['coverage']:.1%}",
        "accuracy": _rate(arm["accuracy"]),
        "mean score": _number(arm["mean_score"]),
    }


def _gate_row(gate: GateResult) -> tuple[str, ...]:
    return (
        gate.metric,
        gate.role,
        gate.verdict,
        _effect(gate),
        f"{_evidence(gate.measured.log_e_harm)} of {_evidence(gate.harm_threshold)}",
        f"{_evidence(gate.measured.log_e_pass)} of {_evidence(gate.pass_threshold)}",
        gate.reason,
    )


def _effect(gate: GateResult) -> str:
    """The estimate, and what is proven of it at any time where there is a verdict."""
    low, high = gate.effect_low, gate.effect_high
    proven = [f"at least {low:,.4g}"] if low is not None else []
    proven += [f"at most {high:,.4g}"] if high is not None else []
    text = _number(gate.measured.effect) + (f" ({', '.join(proven)})" if proven else "")
    return text if gate.measured.design_effect <= 1 else f"{text}, design effect {gate.measured.design_effect:.2f}"


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["rate"] is None:
        return "none yet"
    return f"{rate['rate']:.2%} ({rate['low']:.2%} to {rate['high']:.2%})"


def _number(value: float | None, unit: str = "") -> str:
    return "none yet" if value is None else f"{value:,.4g}{unit}"


def _evidence(log_e: float) -> str:
    power = log_e / math.log(10)
    if math.isinf(power):
        return "0" if power < 0 else "unbounded"
    return f"{math.exp(log_e):,.3g}" if abs(power) < _LARGEST_PLAIN else f"1e{power:.0f}"


def _picture(panels: list[tuple[str, dict[str, Mapping[str, Any]]]], versions: Mapping[str, str]) -> str:
    """One panel a rate: a dot with its interval for each arm, on an axis that fits them."""
    height = len(panels) * (_TOP + len(_ARMS) * _ROW + _ROW)
    parts = []
    for position, (name, rates) in enumerate(panels):
        parts += _panel(position * (_TOP + len(_ARMS) * _ROW + _ROW), name, rates, versions)
    label = "; ".join(f"{name}, {arm}: {_rate(rate)}" for name, rates in panels for arm, rate in rates.items())
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _panel(top: int, name: str, rates: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> list[str]:
    known = [rate for rate in rates.values() if rate["rate"] is not None]
    low = min((rate["low"] for rate in known), default=0.0)
    high = max((rate["high"] for rate in known), default=1.0)
    slack = max((high - low) * 0.1, 0.0005)
    low, high = max(0.0, low - slack), min(1.0, high + slack)

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    axis = top + _TOP + len(_ARMS) * _ROW
    parts = [
        f'<text x="0" y="{top + 20}" font-weight="600">{escape(name)}</text>',
        f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{axis}" y2="{axis}"/>',
        f'<text class="dim" x="{_LEFT}" y="{axis + 18}">{low:.2%}</text>',
        f'<text class="dim" x="{_RIGHT}" y="{axis + 18}" text-anchor="end">{high:.2%}</text>',
    ]
    for row, arm in enumerate(_ARMS):
        y = top + _TOP + row * _ROW + _ROW // 2
        rate = rates[arm]
        parts.append(f'<text x="0" y="{y + 5}">{escape(versions[arm])}</text>')
        if rate["rate"] is None:
            parts.append(f'<text class="dim" x="{_LEFT}" y="{y + 5}">none yet</text>')
            continue
        parts.append(
            f'<g class="{arm}"><title>{escape(_rate(rate))}</title>'
            f'<line x1="{x(rate["low"]):.1f}" x2="{x(rate["high"]):.1f}" y1="{y}" y2="{y}" stroke-width="3"/>'
            f'<circle cx="{x(rate["rate"]):.1f}" cy="{y}" r="6"/></g>'
        )
    return parts
