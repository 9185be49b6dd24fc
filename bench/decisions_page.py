"""The benchmark of the decisions as a page and a picture."""

import platform
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import scipy
from matplotlib.figure import Figure

from bench import simulate as sim
from bench.decision_time import LOOKS, Times
from bench.decisions import BAD, CHAMPION, OURS, OURS_WITH_MARGIN, RUNS, SEEDS, SLOW_RUNS, TRAFFIC, Row

_MOSTLY = 0.97
# Percent: what is below is drawn in a band of its own, one place under the other, as there is no logarithm of 0.
_FLOOR, _LOWEST, _STEP = 0.1, 0.04, 0.77
_STYLES = [("#999999", "s"), ("#CC79A7", "^"), ("#882255", "v"), ("#56B4E9", "D"), ("#E69F00", "P")]
_OUR_STYLES = {OURS.name: ("#009E73", "o"), OURS_WITH_MARGIN.name: ("#004D40", "o")}


def row_text(row: Row) -> str:
    """The row of the table."""
    cells = [f"{_percent(c.false)} / {_percent(c.detected)} / {c.exposed:,.0f}" for c in row.cells]
    return f"| {' | '.join([row.rule.name, *cells, _percent(row.waving)])} |"


def page(rows: Sequence[Row], times: Times) -> str:
    """The Markdown page; the same for the same seeds and versions."""
    head = ["rule", *(traffic.name for traffic in TRAFFIC), "healthy, ramp and daily wave"]
    oracle = ["oracle: one test of fixed size, 90 % power", *(f"{sim.oracle(t.mean_share):,.0f}" for t in TRAFFIC), ""]
    rules = "\n".join(f"- **{row.rule.name}**: {row.rule.says}." for row in rows)
    return f"""# Decisions: the engine beside the usual rules

Written by `make bench-decisions` (`bench/decisions.py`); do not edit.

Simulated rollouts of {sim.LOOKS} looks. Healthy: both versions fail {100 * CHAMPION:g} % of the requests. Bad: the
challenger fails {100 * BAD:g} %. Cells: healthy challengers rolled back % / bad ones found % / mean challenger requests
until then. The promise is {100 * sim.ALPHA:g} % of the healthy ones, over the whole rollout.

| {" | ".join(head)} |
|{" --- |" * len(head)}
{chr(10).join(row_text(row) for row in rows)}
| {" | ".join(oracle)} |

![False rollbacks against exposed requests](decisions.svg)

In the last column the share goes from 1 to 50 % while the error rate of both versions moves with the hour, from half to
one and a half times. Whoever adds up all requests of an arm then compares the challenger's afternoon with the
champion's whole day; a test with one stratum a look does not.

## The rules

{rules}
- **oracle**: challenger requests of a test that knows both rates beforehand and is looked at once.

## How long a decision takes

A canary with the gates of `plan_canary` in its last stage, after {LOOKS:,} looks of 10^3 to 10^9 requests. Each time is
rounded up to 1, 2 or 5 times a power of ten. Absolute times are of one machine: compare them with each other, and with
the length of a look.

| one decision | at most |
| --- | --- |
| from nothing: all looks are tallied (`decide`) | {_at_most(times.from_nothing)} |
| one new look, the others being tallied (`Ledger`) | {_at_most(times.warm)} |
| the same when it ends in a verdict with confidence bounds, the first time | {_at_most(times.first_verdict)} |
| the same when it has done so before | {_at_most(times.verdict)} |

## How it was made

{RUNS} rollouts a cell ({SLOW_RUNS} for the Mann-Whitney judge); the standard error of a rate of 1 % is 0.3 %. The
engine's rows go through its own functions (`core/odds_ratio.py`); `tests/acceptance/test_same_rule.py` shows that
`decide` gives the same numbers. Seeds: {", ".join(f"{name} {seed}" for name, seed in SEEDS.items())}. Python
{".".join(platform.python_version_tuple()[:2])}, numpy {np.__version__}, scipy {scipy.__version__}.
"""


def draw(rows: Sequence[Row], path: Path) -> None:
    """One panel a traffic: down and to the left is better."""
    mpl.rcParams["svg.hashsalt"] = "decisions"
    figure = Figure(figsize=(10, 8.2))
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    others = iter(_STYLES)
    styles = {row.rule.name: _OUR_STYLES.get(row.rule.name) or next(others) for row in rows}
    for position, (traffic, axes) in enumerate(zip(TRAFFIC, panels.flat, strict=True)):
        needed = sim.oracle(traffic.mean_share)
        axes.axhline(100 * sim.ALPHA, color="#444444", linewidth=0.8, linestyle="--")
        axes.axvline(needed, color="#444444", linewidth=0.8, linestyle=":")
        place = {"fontsize": 8, "color": "#444444"}
        axes.text(0.97 * needed, 25, f"oracle: {needed:,.0f}", rotation=90, ha="right", va="center", **place)
        axes.text(95, 1.08, "promised: 1 %", va="bottom", **place)
        axes.axhspan(_LOWEST, _FLOOR * 1.2, color="#f4f4f4", zorder=0)
        low = _FLOOR
        for row in rows:
            cell, (colour, marker) = row.cells[position], styles[row.rule.name]
            height = 100 * cell.false
            if height <= _FLOOR:
                height, low = low, low * _STEP
            axes.plot(
                cell.exposed,
                height,
                marker,
                color=colour,
                markerfacecolor=colour if cell.detected >= _MOSTLY else "white",
                markersize=9 if row.rule.name in _OUR_STYLES else 7.5,
                markeredgewidth=1.6,
                label=row.rule.name if position == 0 else None,
            )
        axes.set(xscale="log", yscale="log", xlim=(90, 20_000), ylim=(_LOWEST, 160))
        axes.set_title(traffic.name, fontsize=11)
        axes.set_xticks([100, 300, 1000, 3000, 10_000], ["100", "300", "1,000", "3,000", "10,000"])
        axes.set_yticks([_FLOOR, 1, 10, 100], [f"≤ {_FLOOR:g} %", "1 %", "10 %", "100 %"])
        axes.minorticks_off()
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.supxlabel("challenger requests exposed until a bad version is rolled back (mean)", fontsize=10, y=0.115)
    figure.supylabel("healthy versions rolled back", fontsize=10, x=0.008)
    handles = [
        mpl.lines.Line2D([], [], linestyle="", marker=m, color=c, markersize=8, label=name)
        for name, (c, m) in styles.items()
    ]
    hollow = mpl.lines.Line2D([], [], linestyle="", marker="o", color="#444444", markerfacecolor="white", markersize=8)
    hollow.set_label(f"hollow: finds less than {100 * _MOSTLY:g} % of the bad ones")
    figure.legend(handles=[*handles, hollow], loc="lower center", ncols=3, fontsize=9, frameon=False)
    figure.subplots_adjust(left=0.1, right=0.98, top=0.95, bottom=0.18, hspace=0.16, wspace=0.06)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.1f}" if 0 < value < 10 or 90 < value < 100 else f"{value:.0f}"


def _at_most(seconds: float) -> str:
    milliseconds = seconds * 1000
    power = 10.0 ** np.floor(np.log10(milliseconds))
    bound = next(step * power for step in (1, 2, 5, 10) if step * power >= milliseconds)
    return f"{bound:,.0f} ms" if bound >= 1 else f"{bound:.1g} ms"
