"""Drift of the model that serves: its window against a reference, by scores over all rows, with Evidently's picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from model_rollouts.adapters.delta_drift import DeltaDriftLog, bins_of
from model_rollouts.adapters.drift_report import comparison_tables, few_texts, sample_told
from model_rollouts.adapters.evidently_report import Picture, picture, with_picture
from model_rollouts.adapters.html_page import banner, heading, note, page
from model_rollouts.core.drift_finding import TOO_MANY, ComparisonDrift, Sides, find_drift
from model_rollouts.core.drift_plan import Comparison, DriftPlan, DriftRole
from model_rollouts.core.monitoring_limits import Drift

SEED = 20130101
SAMPLE_ROWS = 5_000  # a side, of the picture
_KIND = Comparison.BEFORE
_DETAIL = 1000  # characters


@dataclass(frozen=True, slots=True)
class Served:
    """A version's answers as champion in a time.

    Attributes:
        version: Which.
        window: [start, end), UTC.
    """

    version: str
    window: tuple[datetime, datetime]

    def __str__(self) -> str:
        start, end = (moment.isoformat(timespec="seconds") for moment in self.window)
        return f"version {self.version}, {start} to {end}"


@dataclass(frozen=True, slots=True)
class LiveDrift:
    """What was found and written.

    Attributes:
        drift: In short.
        files: `drift.json` and `drift.html`; none where there is nothing to compare.
        metrics: Numbers by name; None where they are not known.
    """

    drift: Drift
    files: tuple[Path, ...]
    metrics: Mapping[str, float | None]


def live_drift(
    log: DeltaDriftLog, model: str, current: Served, reference: Served, plan: DriftPlan, out_dir: Path
) -> LiveDrift:
    """Compare inputs, predictions and scores over all rows, and write what was found.

    Args:
        log: The prediction log.
        model: Registered model name.
        current: What is looked at.
        reference: What it is compared with.
        plan: Limits, and which columns are ignored; its level bounds calling drift where nothing drifted.
        out_dir: Gets the files.

    Raises:
        LogReadError: The log can't be read.
    """
    spans = (reference.window, current.window)
    columns = log.columns(model, min(start for start, _ in spans), max(end for _, end in spans))
    sides = (reference, current)
    samples = [log.champion_sample(model, each.version, each.window, columns, SAMPLE_ROWS, SEED) for each in sides]
    bins = bins_of(columns, samples, None)
    before, now = (log.champion_profile(model, each.version, each.window, columns, bins) for each in sides)
    found = find_drift(plan, {_KIND: Sides(before, now, list(columns), str(reference))})
    compared = found.comparisons[_KIND]
    ignored = sorted(column for column in columns if plan.role_of(column) is DriftRole.IGNORE)
    if not compared.columns:
        detail = "neither the window nor the reference has an input or a prediction"
        if ignored:
            detail = f"nothing is left to compare: {', '.join(ignored)} are ignored"[:_DETAIL]
        return LiveDrift(Drift(False, 0, 0, detail), (), {})
    drift = _short(compared, ignored)
    named = [each.column for each in compared.columns if any(sample[each.column].notna().any() for sample in samples)]
    sample, other = few_texts(samples, named)
    shown = picture(sample, other, named, seed=SEED)
    rows = tuple(max((each.rows for each in side.values()), default=0) for side in (before, now))
    title = f"{model} {current} against {reference}"
    out_dir.mkdir(parents=True, exist_ok=True)
    files = (out_dir / "drift.json", out_dir / "drift.html")
    told = {"title": title, "computed": drift.computed, "drifted": drift.drifted, "detail": drift.detail,
        "ignored": ignored, **found.to_dict()["comparisons"][_KIND.value], "rows": rows,
        "sample": sample_told(shown)}  # fmt: skip
    files[0].write_text(json.dumps(told, indent=2, allow_nan=False), encoding="utf-8")
    files[1].write_text(with_picture(_page(title, drift, compared, rows, shown), shown.html), encoding="utf-8")
    scores = [each.psi for each in compared.columns if each.psi is not None]
    share = drift.drifted / drift.columns if drift.columns else None
    return LiveDrift(drift, files, {"drift_share": share, "drift_psi_max": max(scores, default=None)})


def _short(compared: ComparisonDrift, ignored: Sequence[str]) -> Drift:
    """Counts of the columns that are known. One that is not leaves the whole uncomputed, and the counts as they are.

    What is known of a column is known though not all of it is: one that drifted counts. What is not known is told once
    for all columns of which it is for the same reason, behind what drifted.
    """
    drifted = [each for each in compared.columns if each.drifted]
    unknown: dict[str, list[str]] = {}
    for each in compared.columns:
        if each.problem and not each.drifted:
            unknown.setdefault(each.problem, []).append(each.column)
    known = len(compared.columns) - sum(map(len, unknown.values()))
    counted = f"{known} columns that can be told of" if unknown else f"{known} columns"
    told = [f"{len(drifted)} of {counted} drifted", *(each.summary() for each in drifted)]
    for problem, names in unknown.items():
        told.append(f"not known of {', '.join(names)} ({problem})")
    if texts := unknown.get(TOO_MANY):
        told.append(f"name {', '.join(texts)} in ignored_columns to leave out what is a free text or an id")
    if ignored:
        told.append(f"ignored: {', '.join(ignored)}")
    return Drift(not unknown, len(drifted), known, "; ".join(told)[:_DETAIL])


def _page(title: str, drift: Drift, compared: ComparisonDrift, rows: tuple[int, ...], shown: Picture) -> str:
    state, headline = ("fail", "drift") if drift.drifted else ("pass", "no drift found")
    if not drift.computed and drift.drifted:
        headline = "drift, and not known of every column"
    elif not drift.computed:
        state, headline = "inconclusive", "not fully computed"
    body = [
        banner(state, headline, drift.detail),
        note(f"Scores over all rows: reference {rows[0]:,}, window {rows[1]:,}. Infinite numbers count as missing."),
        heading("Columns"),
        *comparison_tables(compared),
        heading("A sample, as Evidently shows it"),
        note(
            f"A seeded sample of {shown.rows[0]:,} rows of the reference and {shown.rows[1]:,} of the window: a "
            "picture. What Evidently calls drift in it decides nothing."
        ),
    ]
    return page(title, body)
