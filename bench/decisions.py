"""How the engine decides, beside the usual rules: false rollbacks, bad versions found, requests exposed to them.

`make bench-decisions` writes docs/benchmarks/decisions.md and decisions.svg. Everything is simulated with fixed seeds,
and the engine's row goes through the engine's own functions.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import rivals
from bench import simulate as sim
from bench.decision_time import measure

RUNS, SLOW_RUNS = 1000, 300
SEEDS = {"healthy": 20261124, "bad": 20261125, "baseline": 20261126}
CHAMPION, BAD = 0.02, 0.04
TRAFFIC = (sim.FEW, sim.SOME, sim.MANY, sim.RAMPING)
OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"


@dataclass(frozen=True)
class Rule:
    """A rule for rolling back.

    Attributes:
        name: Shown in the table.
        hits: Where it rolls back, by the counts and their traffic.
        says: What it does, and where that is written.
        runs: Rollouts to simulate.
    """

    name: str
    hits: Callable[[sim.Counts, sim.Traffic], sim.Bools]
    says: str
    runs: int = RUNS


@dataclass(frozen=True)
class Cell:
    """What a rule does at one traffic.

    Attributes:
        false: Share of the healthy challengers that it rolls back.
        detected: Share of the bad ones.
        exposed: Mean challenger requests until it rolls a bad one back, or all.
    """

    false: float
    detected: float
    exposed: float


@dataclass(frozen=True)
class Row:
    """A rule with what it does.

    Attributes:
        rule: The rule.
        cells: One a traffic.
        waving: Share of the healthy challengers that it rolls back while the share ramps up and a day goes by.
    """

    rule: Rule
    cells: tuple[Cell, ...]
    waving: float


def _ours(rollback_odds: float) -> Callable[[sim.Counts, sim.Traffic], sim.Bools]:
    return lambda counts, traffic: sim.reached(sim.harm(counts, rollback_odds, traffic.starts), sim.ALPHA)


OURS = Rule(
    "this project, no margin",
    _ours(1.0),
    "conditional odds-ratio e-process with `rollback_odds=1`, one stratum a look and one start a stage "
    "(`core/odds_ratio.py`)",
)
OURS_WITH_MARGIN = Rule(
    "this project, its default margin",
    _ours(1.25),
    "the same with `rollback_odds=1.25`: harm below a quarter more is accepted, so that 2 % has to be told from 2.5 %",
)
RULES = (
    Rule(
        "z-test at every look, 1 %",
        lambda counts, _: rivals.z_test_at_every_look(counts),
        "two proportions, pooled variance, one-sided at 1 %, looked at after every look",
    ),
    Rule(
        "threshold, 5 failed checks",
        lambda counts, _: rivals.threshold(counts),
        "a look with an error rate above 3 % is a failed check, the fifth rolls back (Flagger's `thresholdRange` and "
        "`threshold`, Argo Rollouts' `failureLimit`)",
    ),
    Rule(
        "threshold, 5 failed in a row",
        lambda counts, _: rivals.consecutive_threshold(counts),
        "the same with five failed checks in a row (an alert that has to hold for some time)",
    ),
    Rule(
        "Mann-Whitney judge, 4 runs of 50 points",
        lambda counts, _: rivals.mann_whitney_judge(counts, SEEDS["baseline"]),
        "Kayenta's NetflixACAJudge with its defaults: 98 % confidence, a tolerance of 25 % of the Hodges-Lehmann "
        "estimate, a baseline as large as the canary; 50 looks are one run, any failed run rolls back",
        SLOW_RUNS,
    ),
    Rule(
        "mSPRT",
        lambda counts, _: rivals.msprt(counts),
        "Johari, Koomen, Pekelis and Walsh, Always valid inference (2022): normal mixture of width 0.01 on the "
        "difference of the rates, estimated variance, one-sided at 1 %",
    ),
    OURS,
    OURS_WITH_MARGIN,
)


def _cell(rule: Rule, traffic: sim.Traffic, seed: int) -> Cell:
    healthy = sim.counts(SEEDS["healthy"] + seed, rule.runs, traffic, CHAMPION, CHAMPION)
    bad = sim.counts(SEEDS["bad"] + 100 + seed, rule.runs, traffic, CHAMPION, BAD)
    found = rule.hits(bad, traffic)
    return Cell(
        float(rule.hits(healthy, traffic).any(1).mean()),
        float(found.any(1).mean()),
        float(sim.exposed(found, bad[..., 1]).mean()),
    )


def rows() -> list[Row]:
    """Simulate everything."""
    result = []
    for rule in RULES:
        cells = tuple(_cell(rule, traffic, seed) for seed, traffic in enumerate(TRAFFIC))
        day = sim.counts(SEEDS["healthy"] + 50, rule.runs, sim.RAMPING, CHAMPION, CHAMPION, sim.WAVE)
        result.append(Row(rule, cells, float(rule.hits(day, sim.RAMPING).any(1).mean())))
    return result


def main() -> None:
    """Simulate, time, write."""
    from bench.decisions_page import draw, page, row_text  # matplotlib takes a second

    began = time.monotonic()
    print(f"seeds: {SEEDS}; {RUNS} rollouts a cell, {SLOW_RUNS} for Mann-Whitney")
    table = rows()
    for row in table:
        print(row_text(row))
    times = measure()
    for name, seconds in vars(times).items():
        print(f"one decision, {name}: {seconds * 1000:.1f} ms")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "decisions.md").write_text(page(table, times))
    draw(table, OUT / "decisions.svg")
    print(f"wrote {OUT}/decisions.md and decisions.svg in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
