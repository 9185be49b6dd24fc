"""The benchmark of the gateway as a page and a picture."""

import os
import platform
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.gateway_results import (
    ALONE,
    BATCH,
    CONNECTIONS,
    GATEWAY,
    MIRRORED,
    MLFLOW,
    NAMES,
    PARSE,
    PEER,
    TWO,
    Results,
)

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "gateway.md"
_LABELS = {
    GATEWAY: "gateway, one process",
    TWO: "gateway, two processes on one port",
    BATCH: "*limit*: the bare model on all that is pending, on the event loop",
    PARSE: "*limit*: parse, and a constant answer",
    PEER: "LitServe 0.2.19, batches of at most 64 and 5 ms, fast queue",
    MLFLOW: "mlflow models serve, one worker",
}
_COLORS = {
    GATEWAY: "#009E73",
    TWO: "#004D40",
    BATCH: "#999999",
    PARSE: "#cccccc",
    PEER: "#E69F00",
    MLFLOW: "#CC79A7",
}


def write(results: Results) -> None:
    """The page, and the picture beside it."""
    OUT.write_text(page(results))
    picture(results).savefig(OUT.with_suffix(".svg"))


def page(results: Results) -> str:
    """The Markdown page."""
    rows = "\n".join(_row(results, name) for name in NAMES)
    promises = "\n".join(
        f"| {what} | {found} | {bound} | {'yes' if holds else '**no**'} |"
        for what, found, bound, holds in _promises(results)
    )
    runs = results.windows[GATEWAY][CONNECTIONS[-1]]
    failed = sum(run.failed for what in (ALONE, MIRRORED) for run in results.paced[what])
    sent = failed + sum(len(run.ms) for what in (ALONE, MIRRORED) for run in results.paced[what])
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"""# The gateway beside other servers, and beside what is possible

Written by `make bench-gateway` (`bench/gateway.py`); do not edit. One machine ({machine}), everything on
loopback, wrk with one thread on the same cores; one row of 30 features a request (JSON), the same pipeline of
StandardScaler and LogisticRegression behind every server, whose answers to 200 rows were checked first. {len(runs)}
rounds, interleaved; medians. Absolute times are of this machine; ratios are the middle of the rounds' own ratios. The
gateway routes, and logs every answer to a Delta table, inputs included.

| server | requests/s at 1 / 8 / 32 connections | p50 ms at 1 | p99 ms at 8 / 32 | memory MiB |
| --- | --- | --- | --- | --- |
{rows}

![Requests a second](gateway.svg)

Memory is the proportional set size of all processes after the load, for the gateway with two versions loaded.

## What was promised

| one process unless said | measured | bound | holds |
| --- | --- | --- | --- |
{promises}

At half its highest rate requests leave on time whatever the gateway does, and a request's time counts from when it was
to leave: {failed} of {sent:,} failed. With mirroring every request is scored by a second version as well, and logged
twice.
"""


def _row(results: Results, name: str) -> str:
    one, eight, many = (results.median(name, connections) for connections in CONNECTIONS)
    memory = f"{results.mib(name):.0f}"
    return (
        f"| {_LABELS[name]} | {one.rate:,.0f} / {eight.rate:,.0f} / {many.rate:,.0f} | {one.p50:.2f} | "
        f"{eight.p99:.1f} / {many.p99:.1f} | {memory} |"
    )


def _promises(results: Results) -> list[tuple[str, str, str, bool]]:
    most = CONNECTIONS[-1]

    def least(what: str, found: float, bound: float) -> tuple[str, str, str, bool]:
        return what, f"{found:.2f} times", f"at least {bound:g}", found >= bound

    def at_most(what: str, found: float, bound: float, unit: str = " times") -> tuple[str, str, str, bool]:
        return what, f"{found:.2f}{unit}", f"at most {bound:g}", found <= bound

    alone, mirrored = results.paced_p99(ALONE), results.paced_p99(MIRRORED)
    return [
        least("throughput at 32 connections, of `mlflow models serve`", results.ratio(GATEWAY, MLFLOW, most), 40),
        least("the same, of the batching peer", results.ratio(GATEWAY, PEER, most), 6),
        least("the same, of the bare batched limit", results.ratio(GATEWAY, BATCH, most), 0.5),
        at_most("p50 at 1 connection, of `mlflow models serve`", results.ratio(GATEWAY, MLFLOW, 1, "p50"), 0.125),
        at_most("the same, of the bare batched limit", results.ratio(GATEWAY, BATCH, 1, "p50"), 1.5),
        at_most("p99 at half the highest throughput", alone, 20, " ms"),
        at_most("the same with mirroring, of that without", mirrored / alone, 1.3),
        at_most("memory, of `mlflow models serve`", results.mib(GATEWAY) / results.mib(MLFLOW), 1),
        least("throughput of two processes at 32 connections, of one", results.ratio(TWO, GATEWAY, most), 1.7),
    ]


def picture(results: Results) -> Figure:
    """Requests a second, by connections; logarithmic, as there are orders of magnitude between."""
    with mpl.rc_context({"svg.hashsalt": "gateway", "font.size": 9}):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(NAMES)
        for place, name in enumerate(NAMES):
            at = [group + (place - (len(NAMES) - 1) / 2) * width for group in range(len(CONNECTIONS))]
            rates = [results.median(name, connections).rate for connections in CONNECTIONS]
            bars = axes.bar(at, rates, width, color=_COLORS[name], label=_LABELS[name].replace("*", ""))
            axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], fontsize=6, rotation=90, padding=2)
        axes.set_yscale("log")
        axes.set_ylim(30, 60_000)
        axes.set_xticks(range(len(CONNECTIONS)), [f"{c} connection{'s' if c > 1 else ''}" for c in CONNECTIONS])
        axes.set_ylabel("requests a second")
        axes.legend(fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure
