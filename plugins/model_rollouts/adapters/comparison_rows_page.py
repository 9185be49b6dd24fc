"""The comparison over all rows as parts of a page: pictures with intervals, tables, and the worst slices."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from model_rollouts.adapters.html_page import heading, note, table
from model_rollouts.adapters.interval_picture import Interval, intervals

_ARMS = ("champion", "challenger")
_PICTURED = 10
_SIZE, _LEFT, _TOP = 320, 44, 10

_NAMES = {
    "error_rate": "error rate",
    "latency_p50_ms": "latency p50",
    "latency_p95_ms": "latency p95",
    "latency_p99_ms": "latency p99",
    "label_coverage": "label coverage",
    "label_delay_p50_s": "label delay p50",
    "label_delay_p90_s": "label delay p90",
    "accuracy": "accuracy",
    "auc": "area under the ROC curve",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "calibration_offset": "mean score minus rate",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "bias": "bias (prediction minus label)",
    "mean_score": "mean score",
    "value_coverage": "value coverage",
    "value_mean": "business value a request",
    "wrong_rate": "wrong answers",
    "absolute_error": "absolute error",
    "log_latency": "latency (log of ms)",
    "value": "business value a request",
}
_SHARES = {"error_rate", "label_coverage", "accuracy", "value_coverage", "wrong_rate"}
_PICTURES = ("error_rate", "accuracy", "auc", "brier", "mae", "value_mean", "latency_p95_ms")


def sections(rows: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    """HTML fragments, escaped.

    Args:
        rows: As `compare_rows` gives it.
        versions: What to call each arm.
    """
    if not rows["computed"]:
        return [heading("Over all rows"), note(f"Not computed: {rows['reason']}.")]
    stage = rows["stage"]
    requests = stage["requests"]
    return [
        heading("This stage, over all rows"),
        note(
            f"{requests['champion']:,} and {requests['challenger']:,} requests until {rows['until']}. A label or "
            f"value counts up to {rows['label_maturity_seconds']:g} s after its request, and is due then; as known at "
            f"{rows['labels_as_of']}. Intervals are 95 %, for one point in time, and take requests for independent; "
            "the difference is challenger minus champion."
        ),
        *_pictures(stage["metrics"], versions),
        _metric_table(stage["metrics"], versions),
        note(_agreement(rows["pairs"])),
        *_reliability(rows["calibration"]),
        *_slices(rows["slices"]),
        heading("Whole rollout, over all rows"),
        _metric_table(rows["rollout"]["metrics"], versions),
    ]


def _pictures(metrics: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    parts = []
    for name in _PICTURES:
        if all(metrics[name][arm]["value"] is None for arm in _ARMS):
            continue
        rows = [
            Interval(versions[arm], each["value"], each["low"], each["high"], estimate_text(name, each), arm)
            for arm in _ARMS
            for each in [metrics[name][arm]]
        ]
        bounds = (0.0, 1.0) if name in _SHARES or name == "auc" else (-math.inf, math.inf)
        parts += [f"<h3>{escape(_NAMES[name])}</h3>", intervals(rows, _shown(name), bounds=bounds)]
    return parts


def _metric_table(metrics: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    lines = [
        (_NAMES[name], *(estimate_text(name, each[side]) for side in (*_ARMS, "difference")))
        for name, each in metrics.items()
    ]
    return table(("", *(versions[arm] for arm in _ARMS), "difference"), lines)


def estimate_text(name: str, estimate: Mapping[str, Any]) -> str:
    """A number with its interval, or why there is none."""
    show = _shown(name)
    if estimate["value"] is None:
        return f"unknown: {estimate.get('reason', '')}"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{show(estimate['value'])} ({estimate.get('reason', 'no interval')})"
    return f"{show(estimate['value'])} ({show(estimate['low'])} to {show(estimate['high'])})"


def _shown(name: str) -> Callable[[float], str]:
    if name in _SHARES:
        return lambda value: f"{value:.2%}"
    unit = " ms" if name.endswith("_ms") else " s" if name.endswith("_s") else ""
    return lambda value: f"{value:,.4g}{unit}"


def _agreement(pairs: Mapping[str, Any]) -> str:
    told = pairs["agreement"]
    if told["value"] is None:
        return f"Agreement is unknown: {told['reason']}."
    ends = f"{told['low']:.2%} to {told['high']:.2%}"
    return f"Agreement: {told['value']:.2%} ({ends}) of {pairs['paired']:,} requests that both versions were given."


# --- calibration


def _reliability(found: Mapping[str, Any]) -> list[str]:
    if "reason" in found:
        return [heading("Calibration"), note(f"Not computed: {found['reason']}.")]
    lines = []
    for arm in _ARMS:
        each = found[arm]
        chance = "" if each["error_by_chance"] is None else f", {each['error_by_chance']:.4f} by chance alone"
        lines.append(f"{arm}: {estimate_text('calibration_error', each['error'])}{chance}")
    return [
        heading("Calibration"),
        _diagram({arm: [bin_ for bin_ in found[arm]["bins"] if bin_] for arm in _ARMS}),
        note(f"Share of positives over the mean score, by tenths of the score. Calibration error, {'; '.join(lines)}."),
    ]


def _diagram(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    def x(value: float) -> float:
        return _LEFT + value * _SIZE

    def y(value: float) -> float:
        return _TOP + (1 - value) * _SIZE

    marks = (0, 0.5, 1)
    parts = [
        f'<rect class="axis" x="{_LEFT}" y="{_TOP}" width="{_SIZE}" height="{_SIZE}" fill="none"/>',
        f'<line class="axis" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>',
        *(
            f'<text class="dim" x="{x(at):.0f}" y="{y(0) + 18}" text-anchor="middle">{at:g}</text>'
            for at in (0, 0.5, 1)
        ),
        *(f'<text class="dim" x="{_LEFT - 6}" y="{y(at) + 5}" text-anchor="end">{at:g}</text>' for at in marks),
    ]
    for arm, found in bins.items():
        for each in found:
            rate = each["rate"]
            text = f"{arm}: score {each['score']:.3f}, {estimate_text('accuracy', rate)} of {each['n']:,}"
            at = x(each["score"])
            parts.append(
                f'<g class="{escape(arm)}"><title>{escape(text)}</title>'
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(rate["low"]):.1f}" y2="{y(rate["high"]):.1f}" '
                f'stroke-width="2"/><circle cx="{at:.1f}" cy="{y(rate["value"]):.1f}" r="4"/></g>'
            )
    width, height = _LEFT + _SIZE + 20, _TOP + _SIZE + 26
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Share of positives over mean score, both arms">{"".join(parts)}</svg></figure>'
    )


# --- slices


def _slices(found: Mapping[str, Any]) -> list[str]:
    worst = found["worst"]
    left_out = ", ".join(found["columns_left_out"])
    effects = ", ".join(f"{_NAMES[name]} {value:.2f}" for name, value in found["design_effects"].items() if value > 1)
    parts = [
        heading("Worst slices of this stage"),
        note(
            f"{found['slices']:,} slices by {len(found['columns']):,} inputs, hour and day. {found['looked_at']:,} "
            f"tests were made, each of one metric in one slice; {found['too_small']:,} more were not looked at, as an "
            f"arm has too few requests there. {found['findings']:,} stand after the correction for that number "
            f"({found['correction']}'s, at most {found['false_findings']:.0%} chance of any false one). Bands of "
            "numbers and the texts that have a slice of their own were chosen on a sample of "
            f"{found['cut_by_rows']:,} rows; what is counted in them is of all rows."
            + (f" Design effects of repeat requests: {effects}." if effects else "")
            + (f" Not cut by: {left_out}." if left_out else "")
        ),
    ]
    if not worst:
        return [*parts, note("No slice is large enough to be looked at.")]
    for metric in dict.fromkeys(each["metric"] for each in worst):
        chosen = [each for each in worst if each["metric"] == metric and each["finding"]][:_PICTURED]
        if chosen:
            parts += [f"<h3>{escape(_NAMES[metric])}: challenger minus champion</h3>", _effects(metric, chosen)]
    lines = [
        (
            each["dimension"],
            each["slice"],
            _NAMES[each["metric"]],
            *(estimate_text(each["metric"], each[side]) for side in (*_ARMS, "effect")),
            f"{each['p']:.2g}",
            f"{each['corrected']:.2g}",
            "worse" if each["finding"] else "may be chance",
        )
        for each in worst
    ]
    header = ("input", "slice", "metric", *_ARMS, "effect", "p", "corrected p", "")
    return [*parts, table(header, lines)]


def _effects(metric: str, found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        Interval(
            f"{each['dimension']}: {each['slice']}",
            each["effect"]["value"],
            each["effect"]["low"],
            each["effect"]["high"],
            estimate_text(metric, each["effect"]),
        )
        for each in found
    ]
    return intervals(rows, _shown(metric), reference=0.0)
