"""A log to ask about units, and its answers counted a second time, in plain Python and by the definitions of
`core/unit_evidence.py`: one pair of requests after the other.
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.adapters.delta_log import REPEAT_SECONDS, DeltaPredictionLog
from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.core.baseline import Baseline
from model_rollouts.core.evidence import LabelCounts
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, UnitCounts, ValueSums
from model_rollouts.ports import StageWindow, Window

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
TICK = timedelta(microseconds=1)
PRIOR = (START - 3 * DAY, START)
ARMS = ("champion", "challenger")
QUANTILES = {"latency_p50": Fraction(50, 100), "latency_p95": Fraction(95, 100), "latency_p99": Fraction(99, 100)}
METRICS = [f"{of}{metric}" for of in ("", "call_") for metric in ("error_rate", *QUANTILES)]
NO_UNITS = UnitCounts(0, {metric: ClusterSums() for metric in METRICS})

Row = dict[str, Any]


def look(stage: int, index: int, minutes: float, length: float = 10) -> StageWindow:
    start = START + minutes * MINUTE
    return StageWindow(stage, Window(index, start, start + length * MINUTE))


LOOKS = [look(0, 0, 0), look(0, 1, 10), look(0, 2, 20), look(1, 0, 35), look(1, 1, 45), look(1, 2, 55)]


def row(request_id: str, at: float = 0.0, arm: str = "champion", /, **changes: Any) -> Row:
    """A prediction of stage 0, `at` seconds after START."""
    return {
        "request_id": request_id,
        "ts": START + timedelta(seconds=at),
        "model": "delays",
        "version": "3" if arm == "champion" else "4",
        "arm": arm,
        "cohort": arm,
        "served": True,
        "rollout_id": "ro",
        "stage": 0,
        "unit_id": None,
        "status": "ok",
        "latency_ms": 3.5,
        "prediction": "1",
        "gateway_id": "g1",
        "traffic_revision": 2,
        "features": {},
    } | changes


def outcome(request_id: str, at: float, label: str | None = None, value: float | None = None) -> Row:
    return {"request_id": request_id, "ts": START + timedelta(seconds=at), "label": label, "value": value}


def label_counts(
    log: DeltaPredictionLog, model: str, rollout_id: str, stage: int, windows: Sequence[Window], maturity: timedelta
) -> list[tuple[LabelCounts, LabelCounts]]:
    """(champion, challenger) in each window of a stage."""
    looks = [StageWindow(stage, each) for each in windows]
    labels = log.label_evidence(model, rollout_id, looks, 0, maturity)
    return [(champion.counts, challenger.counts) for champion, challenger in labels]


class Bench:
    """A log with a writer at hand."""

    def __init__(self, root: LogRoot, scratch: Path | None = None) -> None:
        self.root = root
        self.scratch = scratch
        self.log = DeltaPredictionLog(root)
        self.writer = log_appender(root, "g1")
        self.version = 0

    def predictions(self, *rows: Row) -> None:
        self.version += 1
        assert self.writer.append("delays", "predictions", rows, self.version)

    def outcomes(self, *rows: Row) -> None:
        self.version += 1
        assert self.writer.append("delays", "outcomes", rows, self.version)

    def units(self, looks: Sequence[StageWindow] = LOOKS, fresh: int = 0) -> list[tuple[UnitCounts, UnitCounts]]:
        return self.log.unit_counts("delays", "ro", looks, fresh)

    def new(self, looks: Sequence[StageWindow] = LOOKS) -> list[tuple[int, int]]:
        return [(champion.new, challenger.new) for champion, challenger in self.units(looks)]

    def labels(
        self, looks: Sequence[StageWindow] = LOOKS, fresh: int = 0, maturity: timedelta = MINUTE
    ) -> list[tuple[ClusterSums, ClusterSums]]:
        labels = self.log.label_evidence("delays", "ro", looks, fresh, maturity)
        return [(champion.clusters, challenger.clusters) for champion, challenger in labels]

    def pairs(self, tolerance: float | None = None, looks: Sequence[StageWindow] = LOOKS[:3]) -> list[PairCounts]:
        return self.log.pair_counts("delays", "ro", 0, [each.window for each in looks], tolerance)

    def values(
        self,
        looks: Sequence[StageWindow] = LOOKS,
        fresh: int = 0,
        maturity: timedelta = MINUTE,
        prior: tuple[datetime, datetime] = PRIOR,
    ) -> list[ValueSums]:
        return self.log.value_sums("delays", "ro", looks, fresh, maturity, prior)

    def baseline(self, end: float = 600, maturity: timedelta = MINUTE) -> Baseline:
        return self.log.baseline("delays", "3", START, START + timedelta(seconds=end), maturity)


# --- the same numbers, counted the slow way


def unit_of(each: Row) -> tuple[str, str]:
    return ("request", each["request_id"]) if each["unit_id"] is None else ("unit", each["unit_id"])


def call_of(each: Row) -> str:
    name, _, end = each["request_id"].rpartition(":")
    return name if end.isdecimal() else each["request_id"]


def first_rows(rows: Iterable[Row]) -> list[Row]:
    last: dict[Any, datetime] = {}
    kept = []
    for each in sorted(rows, key=lambda r: r["ts"]):
        key = (each["stage"], each["request_id"], each["arm"])
        if key not in last or each["ts"] - last[key] >= REPEAT_SECONDS * SECOND:
            kept.append(each)
        last[key] = each["ts"]
    return kept


def evidence(rows: Iterable[Row], looks: Sequence[StageWindow]) -> list[list[Row]]:
    kept = first_rows(r for r in rows if r["rollout_id"] == "ro" and r["arm"] == r["cohort"] and r["arm"] in ARMS)
    return [
        [r for r in kept if r["stage"] == each.stage and each.window.start <= r["ts"] < each.window.end]
        for each in looks
    ]


def first_outcome(each: Row, outcomes: Iterable[Row], field: str, end: datetime) -> Any:
    found = [
        (o["ts"], o[field])
        for o in outcomes
        if o["request_id"] == each["request_id"]
        and each["ts"] - DAY <= o["ts"] <= end
        and o[field] is not None
        and (field == "label" or abs(o[field]) <= 1e9)
    ]
    return min(found)[1] if found else None


def sums_by_pairs(looks: Sequence[Sequence[tuple[Any, int]]]) -> list[ClusterSums]:
    """`looks` has (unit, 0 or 1) of each request, of one arm and metric."""
    before: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    result = []
    for requests in looks:
        n = len(requests)
        mean = sum(y for _, y in requests) / n if n else 0.0
        spread = mean * (1 - mean) * n / (n - 1) if n > 1 else 0.0
        now: dict[Any, list[tuple[float, float]]] = defaultdict(list)
        for unit, y in requests:
            now[unit].append((y - mean, spread))
        squares, products, scale, noise = 0, 0.0, 0.0, 0.0
        for unit, mine in now.items():
            squares += (len(before[unit]) + len(mine)) ** 2 - len(before[unit]) ** 2
            pairs = [*permutations(mine, 2)]
            products += len(pairs) * spread / n
            pairs += [pair for a in mine for b in before[unit] for pair in ((a, b), (b, a))]
            products += sum(a * b for (a, _), (b, _) in pairs)
            scale += sum(math.sqrt(a) * math.sqrt(b) for (_, a), (_, b) in pairs)
            noise += sum(a * b for (_, a), (_, b) in pairs)
        for unit, mine in now.items():
            before[unit] += mine
        result.append(ClusterSums(n, squares, products, scale, noise))
    return result


def slow_units(rows: Sequence[Row], looks: Sequence[StageWindow]) -> list[tuple[UnitCounts, UnitCounts]]:
    placed = evidence(rows, looks)
    sums: dict[tuple[str, str], list[ClusterSums]] = {}
    # a call is of one look: its rows come at one moment
    keys = (("", lambda _, r: unit_of(r)), ("call_", lambda at, r: (at, call_of(r))))
    for arm, (prefix, of) in product(ARMS, keys):
        mine = [[r for r in each if r["arm"] == arm] for each in placed]
        good = [[r for r in each if r["status"] == "ok" and math.isfinite(r["latency_ms"])] for each in mine]
        sums[arm, f"{prefix}error_rate"] = sums_by_pairs(
            [
                [(of(at, r), int(r not in ok)) for r in each]
                for at, (each, ok) in enumerate(zip(mine, good, strict=True))
            ]
        )
        for metric, q in QUANTILES.items():
            cuts = [sorted(r["latency_ms"] for r in ok)[math.ceil(q * len(ok)) - 1] if ok else 0.0 for ok in good]
            sums[arm, f"{prefix}{metric}"] = sums_by_pairs(
                [
                    [(of(at, r), int(r["latency_ms"] >= cut)) for r in ok]
                    for at, (ok, cut) in enumerate(zip(good, cuts, strict=True))
                ]
            )
    firsts: dict[Any, tuple[int, str]] = {}
    everything = [(at, r) for at, each in enumerate(placed) for r in each]
    for at, r in sorted(everything, key=lambda pair: (pair[1]["ts"], pair[1]["arm"])):
        firsts.setdefault(unit_of(r), (at, r["arm"]))
    counts = [
        [
            UnitCounts(
                sum(first == (at, arm) for first in firsts.values()),
                {metric: sums[arm, metric][at] for metric in METRICS},
            )
            for arm in ARMS
        ]
        for at in range(len(looks))
    ]
    return [(champion, challenger) for champion, challenger in counts]


def slow_labels(
    rows: Sequence[Row], outcomes: Sequence[Row], looks: Sequence[StageWindow], maturity: timedelta
) -> list[tuple[ClusterSums, ClusterSums]]:
    placed = evidence(rows, looks)

    def of(arm: str) -> list[ClusterSums]:
        judged = []
        for each in placed:
            mine = [r for r in each if r["arm"] == arm and r["status"] == "ok"]
            labelled = [(r, first_outcome(r, outcomes, "label", r["ts"] + maturity)) for r in mine]
            judged.append([(unit_of(r), int(label != r["prediction"])) for r, label in labelled if label is not None])
        return sums_by_pairs(judged)

    return list(zip(of("champion"), of("challenger"), strict=True))


def slow_values(
    rows: Sequence[Row], outcomes: Sequence[Row], looks: Sequence[StageWindow], maturity: timedelta
) -> list[ValueSums]:
    worth: dict[Any, list[float]] = defaultdict(list)
    champions = first_rows(r | {"stage": None} for r in rows if r["arm"] == "champion" and r["served"])
    for r in champions:
        if PRIOR[0] <= r["ts"] < PRIOR[1]:
            value = first_outcome(r, outcomes, "value", PRIOR[1] - TICK)
            if value is not None:
                worth[unit_of(r)].append(value)
    known = {unit: sum(values) / len(values) for unit, values in worth.items()}
    anybody = sum(known.values()) / len(known) if known else 0.0

    score: dict[Any, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    seen: set[tuple[Any, str]] = set()
    result = []
    for each in evidence(rows, looks):
        due = sorted((r for r in each if r["status"] == "ok" and r["served"]), key=lambda r: r["ts"])
        have = [(r, first_outcome(r, outcomes, "value", r["ts"] + maturity)) for r in due]
        valued = [(unit_of(r), r["arm"], y, known.get(unit_of(r), anybody)) for r, y in have if y is not None]
        sums: dict[str, Any] = {f"{arm}_due": sum(r["arm"] == arm for r in due) for arm in ARMS}
        for arm in ARMS:
            sums[f"{arm}_n"] = sum(a == arm for _, a, _, _ in valued)
            sums[f"{arm}_y"] = sum((y for _, a, y, _ in valued if a == arm), 0.0)
            sums[f"{arm}_x"] = sum((x for _, a, _, x in valued if a == arm), 0.0)
            sums[f"{arm}_units"] = 0
        for unit, arm, _, _ in valued:
            sums[f"{arm}_units"] += (unit, arm) not in seen
            seen.add((unit, arm))
        n = len(valued) or 1
        mean_y, mean_x = sum(y for *_, y, _ in valued) / n, sum(x for *_, x in valued) / n
        share = sums["challenger_n"] / n
        old = dict(score)
        for unit, arm, y, x in valued:
            tilt = (arm == "challenger") - share
            score[unit] = (score[unit][0] + (y - mean_y) * tilt, score[unit][1] + (x - mean_x) * tilt)

        def growth(old: dict[Any, tuple[float, float]], a: int, b: int) -> float:
            return sum(s[a] * s[b] - (p := old.get(u, (0.0, 0.0)))[a] * p[b] for u, s in score.items())

        result.append(ValueSums(**sums, yy=growth(old, 0, 0), xy=growth(old, 0, 1), xx=growth(old, 1, 1)))
    return result


def numbers(part: Any) -> Any:
    """Nested results as nested lists of numbers, for `pytest.approx`."""
    if isinstance(part, int | float):
        return part
    if isinstance(part, dict):
        return {key: numbers(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [numbers(each) for each in part]
    return {name: numbers(getattr(part, name)) for name in part.__dataclass_fields__}


def flat(part: Any) -> list[float]:
    part = numbers(part)
    if isinstance(part, dict):
        return [n for key in sorted(part) for n in flat(part[key])]
    return [n for each in part for n in flat(each)] if isinstance(part, list) else [part]


def same(part: Any) -> Any:
    return pytest.approx(flat(part), rel=1e-6, abs=1e-7)  # summed up in billionths and millionths


def random_log(seed: int) -> tuple[list[Row], list[Row]]:
    """Two stages whose share grows from 30 to 70 %, a time before them, and all that can go wrong with a row."""
    dice = random.Random(seed)
    rows: list[Row] = []
    place = {f"u{i}": dice.random() for i in range(12)}
    for i in range(700):
        unit = dice.choice([*place, "u0", "u0", "u1", None, "r5"])
        at = dice.uniform(-3600, 66 * 60)
        stage = None if at < 0 else 0 if at < 30 * 60 else 1
        share = {None: 0.0, 0: 0.3, 1: 0.7}[stage]
        arm = "challenger" if place.get(unit, dice.random()) < share else "champion"
        made = row(f"r{i}{dice.choice(['', '', ':x1', ':'])}", at, arm, unit_id=unit, stage=stage)
        made["prediction"] = dice.choice("01")
        made["latency_ms"] = round(dice.lognormvariate(1, 1), 1) if dice.random() < 0.95 else math.nan
        made["status"] = dice.choice(["ok"] * 8 + ["error", "timeout"])
        made["served"] = dice.random() < 0.9
        if stage is None:
            made |= {"rollout_id": None, "cohort": None}
        elif dice.random() < 0.1:
            made |= dice.choice(
                [{"cohort": None}, {"cohort": "challenger"}, {"rollout_id": "no"}, {"stage": 1}, {"stage": 0}]
            )
        rows.append(made)
        if dice.random() < 0.2:  # a call of several rows, whose arms may differ
            made["request_id"] = f"call{i}:0"
            for part in range(1, dice.choice([3, 12])):
                more = {"request_id": f"call{i}:{part}", "unit_id": dice.choice([*place, None])}
                if stage is not None and dice.random() < 0.3:
                    more |= {"arm": "challenger", "cohort": "challenger"}
                rows.append(made | more)
        if dice.random() < 0.1:
            later = dice.choice([1.0, 300.0, 899.999999, 900.0, 1200.0])
            rows.append(made | {"ts": made["ts"] + timedelta(seconds=later), "status": dice.choice(["ok", "error"])})
    outcomes = []
    for made in rows:
        for _ in range(dice.choice([0, 1, 1, 1, 2])):
            at = (made["ts"] - START).total_seconds() + dice.choice([dice.uniform(0, 90), 30.0, 60.0, -5.0])
            label = dice.choice(["0", "1", None])
            values = [dice.gauss(100 + 10 * hash_of(made), 5) for _ in range(4)]
            value = dice.choice([None, math.nan, 2e9, -1e300, *values])
            outcomes.append(outcome(made["request_id"], at, label, value))
    dice.shuffle(rows)
    dice.shuffle(outcomes)
    return rows, outcomes


def hash_of(made: Row) -> int:
    return sum(map(ord, made["unit_id"] or "")) % 7
