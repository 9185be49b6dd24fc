"""The readout of an A/B test as a page: the verdict first, then the picture, the effects and what they rest on."""

from collections.abc import Mapping, Sequence
from typing import Any

from model_rollouts.adapters.html_page import banner, heading, note, page, table
from model_rollouts.adapters.interval_picture import Interval, intervals

_COLOURS = {"winner": "pass", "loser": "fail", "no difference": "inconclusive", "none": "inconclusive"}
_VALUES = ("value_per_request", "value_per_request_unadjusted", "value_per_unit")
_RATES = ("error_rate", "accuracy")
_LARGEST_PICTURED = 10.0  # relative effects beyond it are cut off in the picture


def render(document: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        document: As `write_readout` puts it into readout.json.
    """
    found = document["effects"]
    body = [
        note(
            f"Rollout {document['rollout']}, stage {document['stage'] + 1}, {document['dealt_percent']:g} % of the "
            f"units dealt to the challenger, requests from {document['from']} to {document['until']}."
        ),
        banner(_colour(document), f"challenger: {_headline(document)}", document["reason"]),
        note(
            "The decision is made by the value gate, whose bounds hold at any time. This readout is the summary with a "
            "fixed horizon, made once at the end: after an early stop its intervals are too narrow, and nothing is to "
            "be decided by looking at it again and again."
        ),
        heading("Relative effects, values"),
        _picture([found[name] for name in _VALUES]),
        heading("Relative effects, guardrails"),
        *(_picture([found[name]]) for name in _RATES),  # their axes have nothing in common
        heading("Effects"),
        table(
            ("metric", "champion", "challenger", "difference", "relative", "p-value", "units"),
            (_effect_row(effect) for effect in found.values()),
        ),
        note(
            "Intervals are at 95 % for each metric by itself, over units, which may ask often. Values are of requests "
            "whose answer the caller got and that are old enough; per unit they are of units that have one. Adjusted: "
            "for what the units were worth in the 30 days before the rollout (CUPED). Primary: "
            f"{_name(document['primary'])}."
        ),
        heading("Guardrails"),
        table(("metric", "state"), ((_name(name), state) for name, state in document["guardrails"].items())),
        note("A guardrail holds where no harm is proven; it is unknown where there is too little to prove any by."),
        heading("What it rests on"),
        table(("check", "state", "found"), ((c["name"], c["state"], c["detail"]) for c in document["checks"])),
        heading("Arms"),
        table(("", "champion", "challenger"), _arms(document["arms"])),
        note(
            f"Units that were in both arms ({document['units_in_both_arms']:,} of {document['units']:,}, with "
            f"{document['requests_of_units_in_both_arms']:,} of {document['requests']:,} requests) are in no arm here. "
            "A request without a unit is a unit of its own."
        ),
    ]
    return page(f"{document['model']}: A/B readout of {document['challenger']} against {document['champion']}", body)


def worded(effect: Mapping[str, Any]) -> str:
    """An effect in one sentence."""
    if effect["problem"]:
        return f"{_name(effect['metric'])}: {effect['problem']}"
    ours, theirs = effect["champion"], effect["challenger"]
    means = f"{_name(effect['metric'])} {theirs:,.5g} against {ours:,.5g}"
    if effect["relative"] is None:
        return f"{means}, {_interval(effect, '', ',.3g')}, {_p_value(effect)}"
    return f"{means}, {_interval(effect, 'relative', '.2%')}, {_p_value(effect)}"


def _headline(document: Mapping[str, Any]) -> str:
    if document["state"] != "ok":
        return "no verdict"
    worse = [_name(name) for name, state in document["guardrails"].items() if state == "worse"]
    return f"{document['verdict']}, but worse in {' and '.join(worse)}" if worse else str(document["verdict"])


def _colour(document: Mapping[str, Any]) -> str:
    """A winner that harms is no plain winner."""
    if document["verdict"] == "winner" and "worse" in document["guardrails"].values():
        return "inconclusive"
    return _COLOURS[document["verdict"]]


def _picture(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        Interval(
            _name(effect["metric"]),
            effect["relative"],
            effect["relative_low"],
            effect["relative_high"],
            effect["problem"] or _relative(effect),
        )
        for effect in found
    ]
    return intervals(rows, lambda share: f"{share:+.1%}", 0.0, bounds=(-1.0, _LARGEST_PICTURED))


def _effect_row(effect: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{_name(effect['metric'])}, adjusted" if effect["adjusted"] else _name(effect["metric"]),
        _number(effect["champion"]),
        _number(effect["challenger"]),
        "unknown" if effect["difference"] is None else _interval(effect, "", ",.3g"),
        effect["problem"] or _relative(effect),
        "none" if effect["p_value"] is None else f"{effect['p_value']:.2g}",
        f"{effect['champion_units']:,} and {effect['challenger_units']:,}",
    )


def _relative(effect: Mapping[str, Any]) -> str:
    return "not known" if effect["relative"] is None else _interval(effect, "relative", ".2%")


def _interval(effect: Mapping[str, Any], kind: str, form: str) -> str:
    """The estimate, and its interval where there is one."""
    middle = effect[kind or "difference"]
    low, high = (effect[f"{kind}_{end}" if kind else end] for end in ("low", "high"))
    shown = f"{middle:+{form}}"
    return shown if low is None or high is None else f"{shown} ({low:+{form}} to {high:+{form}})"


def _p_value(effect: Mapping[str, Any]) -> str:
    return f"p = {effect['p_value']:.2g}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.5g}"


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _arms(arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    labels = {
        "units": "units",
        "units_with_prior": "units with a value before the rollout",
        "requests": "requests",
        "errors": "errors",
        "due": "values due",
        "valued": "values there",
        "value": "sum of the values",
        "labelled": "labelled",
        "correct": "right predictions",
    }
    return [
        (text, *(_number(arms[arm][key]) if key == "value" else f"{arms[arm][key]:,}" for arm in arms))
        for key, text in labels.items()
    ]
