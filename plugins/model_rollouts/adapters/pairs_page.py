"""The pairs of a stage as a page: agreement first, then the worst slices, the disagreements, scores and latency."""

from collections.abc import Mapping
from typing import Any

from model_rollouts.adapters.html_page import banner, heading, note, page, table
from model_rollouts.adapters.interval_picture import Interval, intervals

_QUANTILES = ("p1", "p5", "p25", "p50", "p75", "p95", "p99")


def render(document: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        document: As `write_pairs` puts it into pairs.json.
    """
    body = [
        note(
            f"Rollout {document['rollout']}, stage {document['stage'] + 1} at {document['share']:g} %, answers from "
            f"{document['from']} to {document['until']}. {_alike(document['tolerance'])}"
        ),
        banner("wait" if document["state"] == "missing" else "info", "pairs of answers", document["reason"]),
        note("The stage is decided by the agreement gate, with bounds that hold at any time; this page is to be read."),
        heading("Pairs"),
        table(("", "requests"), _counts(document)),
        note(document["coverage_note"]),
        heading("Worst slices"),
        *_worst(document),
        heading("Disagreements"),
        *_disagreements(document),
        heading("Differences"),
        *_differences(document),
        heading("All slices"),
        *_slices(document),
    ]
    return page(
        f"{document['model']}: answers of {document['challenger']} beside those of {document['champion']}", body
    )


def _alike(tolerance: float | None) -> str:
    if tolerance is None:
        return "Answers agree when they are equal as texts."
    return f"Answers agree when they are numbers that differ by at most {tolerance:g}."


def _counts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    failed = document["challenger_failed"]
    dropped = document["dropped"]
    return [
        ("champion's good answers (asked)", f"{document['asked']:,}"),
        ("given to the challenger too (paired)", f"{document['paired']:,}, of {document['paired_units']:,} units"),
        ("with one answer only (dropped)", "not known from the log" if dropped is None else f"{dropped:,}"),
        ("challenger failed", f"{failed['error']:,} errors, {failed['timeout']:,} timeouts"),
        ("champion failed (nothing to agree with)", f"{document['champion_failed']:,}"),
        ("agreement", _rate(document["agreement"])),
    ]


def _worst(document: Mapping[str, Any]) -> list[str]:
    worst = document["worst_slices"]
    if not worst:
        return [note(f"No slice has {document['least_slice']:,} pairs.")]
    rows = [_interval("all pairs", document["agreement"], "champion")]
    rows += [_interval(f"{each['feature']}: {each['value']}", each["agreement"]) for each in worst]
    named = [f"{each['feature']}: {each['value']}" for each in worst if each["below_average"]]
    return [
        intervals(rows, lambda share: f"{share:.1%}", document["agreement"]["rate"], bounds=(0.0, 1.0)),
        note(
            f"Below the agreement of all pairs: {', '.join(named)}."
            if named
            else "No slice's interval is wholly below the agreement of all pairs."
        ),
        note(
            f"Exploratory: {len(document['slices']):,} slices of {document['columns']:,} inputs were looked at, each "
            "with a 95 % interval of its own, so some look bad by chance. Ordered by the upper end of the interval, so "
            f"that a tiny slice does not come first by chance; slices of fewer than {document['least_slice']:,} pairs "
            "are left out."
        ),
    ]


def _disagreements(document: Mapping[str, Any]) -> list[str]:
    shown = document["disagreements"]
    if not shown:
        return [note("None.")]
    total = document["paired"] - document["agreement"]["count"]
    seen = sum(each["count"] for each in shown)
    return [
        table(
            ("champion", "challenger", "pairs", "of all disagreements"),
            (
                (_answer(each["champion"]), _theirs(each), f"{each['count']:,}", f"{each['count'] / total:.1%}")
                for each in shown
            ),
        ),
        note(
            f"The {len(shown):,} most frequent of {document['disagreement_kinds']:,} kinds: {seen:,} of {total:,} "
            "disagreements."
        ),
    ]


def _differences(document: Mapping[str, Any]) -> list[str]:
    latency = document["latency_ms"]
    columns = {
        "score, challenger less champion": document["score_difference"],
        "latency of the champion, ms": latency.get("champion"),
        "latency of the challenger, ms": latency.get("challenger"),
        "latency, challenger less champion, ms": latency.get("difference"),
    }
    cells = {name: _numbers(numbers) for name, numbers in columns.items()}
    lines = ("pairs", "mean", "mean size", "largest size", *_QUANTILES)
    return [
        table(("", *columns), ((line, *(cells[name][at] for name in columns)) for at, line in enumerate(lines))),
        note(
            "Over pairs that both versions answered; scores and latencies that are no finite numbers are left out. "
            "Size is the absolute value. What runs in the background does not wait as a caller's request may: read its "
            "latency beside the other's, not as what callers would meet."
        ),
    ]


def _slices(document: Mapping[str, Any]) -> list[str]:
    left_out = document["columns_left_out"]
    body = [
        table(
            ("input", "value", "agreement", "pairs"),
            (
                (each["feature"], each["value"], _rate(each["agreement"]), f"{each['agreement']['of']:,}")
                for each in document["slices"]
            ),
        ),
        note(
            "Numbers are cut at the quartiles of the champion's requests, texts at their most frequent values. "
            "Intervals take requests as independent; where a few units send many of the requests they are too narrow."
        ),
    ]
    if left_out:
        body.append(note(f"Not looked at, for the bound on columns: {', '.join(left_out)}."))
    return body if document["slices"] else [note("No inputs are logged with the pairs."), *body[2:]]


def _interval(label: str, rate: Mapping[str, Any], kind: str = "challenger") -> Interval:
    return Interval(label, rate["rate"], rate["low"], rate["high"], f"{_rate(rate)} of {rate['of']:,}", kind)


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["rate"] is None:
        return "none yet"
    return f"{rate['rate']:.2%} ({rate['low']:.2%} to {rate['high']:.2%})"


def _answer(text: str | None) -> str:
    return "(no answer)" if text is None else text


def _theirs(each: Mapping[str, Any]) -> str:
    return _answer(each["challenger"]) if each["status"] == "ok" else f"({each['status'] or 'no status'})"


def _numbers(numbers: Mapping[str, Any] | None) -> tuple[str, ...]:
    if numbers is None:
        return ("none", *[""] * (3 + len(_QUANTILES)))
    values = (numbers["mean"], numbers["mean_size"], numbers["largest_size"])
    quantiles = (numbers["quantiles"][name] for name in _QUANTILES)
    return (f"{numbers['count']:,}", *(f"{value:,.4g}" for value in (*values, *quantiles)))
