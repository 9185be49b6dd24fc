"""The benchmark of evidence and comparison as a page and a picture."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.compare_log import NUMBERS, ROWS_A_DAY, TEXTS

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "compare.md"
_GIB = 2**30
_SIZE, _HUGE = 20_000_000, 100_000_000
_NAMES = {
    "bare": "*limit*: bare scan, count, least and greatest of each column",
    "evidence": "all evidence (requests, labels, units, repeat labels, values), looks of an hour",
    "comparison": "comparison: all metrics, stage and rollout, and all slices",
    "look": "one look of a minute, after the one before it",
    "look_with_values": "the same with business values",
    "report": "drift report with Evidently's page",
}

Result = dict[str, Any]


def write(results: Sequence[Result]) -> None:
    """The page, and the picture beside it."""
    OUT.write_text(page(results), encoding="utf-8")
    picture(results).savefig(OUT.with_suffix(".svg"))
    print(f"wrote {OUT}")


def of(result: Result, step: str, what: str = "seconds") -> float:
    """A step's number; the median where it was measured several times."""
    return float(median(each[what] for each in result["steps"] if each["step"] == step))


def has(result: Result, step: str) -> bool:
    """Whether a step was measured at this size."""
    return any(each["step"] == step for each in result["steps"])


def ratio(result: Result, what: str = "seconds") -> float:
    """Evidence and comparison together, of the bare scan."""
    return (of(result, "evidence", what) + of(result, "comparison", what)) / of(result, "bare", what)


def peak(result: Result) -> float:
    """Peak memory of evidence and comparison, in GiB."""
    return max(of(result, step, "peak") for step in ("evidence", "comparison")) / _GIB


def page(results: Sequence[Result]) -> str:
    """The Markdown page."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    rows = "\n".join(
        f"| {result['rows']:,} | {_NAMES[step]} | {of(result, step):.1f} | {of(result, step, 'cpu_seconds'):.1f} | "
        f"{of(result, step, 'peak') / 2**20:,.0f} |"
        for result in results
        for step in _NAMES
        if has(result, step)
    )
    promises = "\n".join(
        f"| {what} | {found} | {bound} | {'not measured' if holds is None else 'yes' if holds else '**no**'} |"
        for what, found, bound, holds in _promises(results)
    )
    return f"""# Evidence and comparison over a whole log

Written by `make bench-compare` (`bench/compare.py`); do not edit. One machine ({machine}). A synthetic Delta
log, {ROWS_A_DAY:,} predictions a day with {NUMBERS} numbers and {TEXTS} texts as inputs, request ids of 32 random
digits, units of 20 requests, nine of ten predictions with a label and a value; files of a million rows. Every step runs
in a process of its own, imports included. Ratios are of one run on one machine; the seconds of processor tell how far
other work on the machine got in the way. A unit's requests are spread over all looks: the more looks there are, the
fewer of them fall into one, so that the sums by unit and look grow faster than the rows until nearly each row has one.

| predictions | work | seconds | of processor | peak MiB |
| --- | --- | --- | --- | --- |
{rows}

![Seconds by rows](compare.svg)

## What was promised

| | measured | bound | holds |
| --- | --- | --- | --- |
{promises}
"""


def _promises(results: Sequence[Result]) -> list[tuple[str, str, str, bool | None]]:
    by_rows = {result["rows"]: result for result in results}
    size = min(results, key=lambda each: abs(each["rows"] - _SIZE))
    rows = f"{size['rows']:,}"
    told: list[tuple[str, str, str, bool | None]] = [
        (
            f"evidence and comparison of {rows}, of the bare scan",
            f"{ratio(size):.1f} times ({ratio(size, 'cpu_seconds'):.1f} by processor)",
            "at most 5",
            _holds(ratio(size) <= 5, size["rows"] >= _SIZE),
        ),
        ("peak memory of it", f"{peak(size):.2f} GiB", "at most 2", _holds(peak(size) <= 2, size["rows"] >= _SIZE)),
    ]
    small, large = min(by_rows), max(by_rows)
    if small < large:
        grown = {
            size: sum(of(by_rows[size], step, "cpu_seconds") for step in ("evidence", "comparison")) / size
            for size in (small, large)
        }
        off = grown[large] / grown[small] - 1
        told.append(
            (
                f"processor time a row at {large:,}, against {small:,}",
                f"{off:+.0%}",
                "at most +20 %",
                _holds(off <= 0.2, large >= _HUGE),
            )
        )
    if large < _HUGE:
        told.append((f"the same at {_HUGE:,}, peak memory of it", "", "at most 4 GiB", None))
    else:
        told.append(
            (f"peak memory at {large:,}", f"{peak(by_rows[large]):.2f} GiB", "at most 4", peak(by_rows[large]) <= 4)
        )
    whole = [each for each in results if has(each, "report")]
    for last in sorted(whole, key=lambda each: int(each["rows"]))[-1:]:
        report = of(last, "report")
        told += [
            (
                f"one look at {ROWS_A_DAY:,} rows a day, {last['rows']:,} rows into the rollout",
                f"{of(last, 'look'):.1f} s ({of(last, 'look_with_values'):.1f} s with business values)",
                "at most 1 s",
                of(last, "look") <= 1,
            ),
            (f"Evidently's page for a stage of {last['rows']:,}", f"{report:.1f} s", "at most 15 s", report <= 15),
        ]
    for result in results:
        if drift := result.get("drift"):
            alike = drift["drifted"] == drift["evidently_drifted"]
            told.append(
                (
                    f"drift scores, {drift['rows']:,} x {drift['columns']} against as many, of Evidently's preset",
                    f"1/{drift['ratio']:.0f}, {'the same' if alike else 'other'} columns called drifted",
                    "at most 1/50, the same",
                    _holds(alike and drift["ratio"] >= 50, drift["rows"] >= 1_000_000),
                )
            )
    return told


def _holds(so: bool, large_enough: bool) -> bool | None:
    """What is broken at a smaller size is broken; what holds there is not shown to hold at the size of the promise."""
    return so and (True if large_enough else None)


def picture(results: Sequence[Result]) -> Figure:
    """Seconds of each step, by size."""
    with mpl.rc_context({"svg.hashsalt": "compare", "font.size": 9}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        steps = ("bare", "comparison", "evidence")
        colors = {"bare": "#999999", "comparison": "#009E73", "evidence": "#0072B2"}
        width = 0.8 / len(steps)
        for place, step in enumerate(steps):
            at = [group + (place - 1) * width for group in range(len(results))]
            bars = axes.bar(at, [of(each, step) for each in results], width, color=colors[step], label=step)
            axes.bar_label(bars, [f"{of(each, step):,.0f}" for each in results], fontsize=7, padding=2)
        axes.set_xticks(range(len(results)), [f"{each['rows']:,} rows" for each in results])
        axes.set_ylabel("seconds")
        axes.legend(frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure
