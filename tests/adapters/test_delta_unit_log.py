"""Units, pairs, business values and the baseline as read from real Delta tables.

The random cases are counted a second time here, in plain Python and by the definitions of `core/unit_evidence.py`:
one pair of requests after the other.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.adapters.delta_log import (
    REPEAT_SECONDS,
    DeltaLogWriter,
    DeltaPredictionLog,
    LogReadError,
    table_path,
)
from model_rollouts.core.baseline import Baseline
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, UnitCounts, ValueSums
from model_rollouts.ports import StageWindow, Window

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
TICK = timedelta(microseconds=1)
PRIOR = (START - 3 * DAY, START)
ARMS = ("champion", "challenger")
QUANTILES = {"latency_p50": Fraction(50, 100), "latency_p95": Fraction(95, 100), "latency_p99": Fraction(99, 100)}
METRICS = ("error_rate", *QUANTILES)
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


class Bench:
    """A log with a writer at hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = DeltaPredictionLog(root)
        self.writer = DeltaLogWriter(root, "g1")
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
        return self.log.label_clusters("delays", "ro", looks, fresh, maturity)

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


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- the same numbers, counted the slow way


def unit_of(each: Row) -> tuple[str, str]:
    return ("request", each["request_id"]) if each["unit_id"] is None else ("unit", each["unit_id"])


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
        and (field == "label" or math.isfinite(o[field]))
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
    for arm in ARMS:
        mine = [[r for r in each if r["arm"] == arm] for each in placed]
        good = [[r for r in each if r["status"] == "ok" and math.isfinite(r["latency_ms"])] for each in mine]
        sums[arm, "error_rate"] = sums_by_pairs(
            [[(unit_of(r), int(r not in ok)) for r in each] for each, ok in zip(mine, good, strict=True)]
        )
        for metric, q in QUANTILES.items():
            cuts = [sorted(r["latency_ms"] for r in ok)[math.ceil(q * len(ok)) - 1] if ok else 0.0 for ok in good]
            sums[arm, metric] = sums_by_pairs(
                [[(unit_of(r), int(r["latency_ms"] > cut)) for r in ok] for ok, cut in zip(good, cuts, strict=True)]
            )
    firsts: dict[Any, tuple[int, str]] = {}
    for at, r in sorted(((at, r) for at, each in enumerate(placed) for r in each), key=lambda pair: pair[1]["ts"]):
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
    seen: set[Any] = set()
    result = []
    for each in evidence(rows, looks):
        due = sorted((r for r in each if r["status"] == "ok"), key=lambda r: r["ts"])
        have = [(r, first_outcome(r, outcomes, "value", r["ts"] + maturity)) for r in due]
        valued = [(unit_of(r), r["arm"], y, known.get(unit_of(r), anybody)) for r, y in have if y is not None]
        sums: dict[str, Any] = {f"{arm}_due": sum(r["arm"] == arm for r in due) for arm in ARMS}
        for arm in ARMS:
            sums[f"{arm}_n"] = sum(a == arm for _, a, _, _ in valued)
            sums[f"{arm}_y"] = sum((y for _, a, y, _ in valued if a == arm), 0.0)
            sums[f"{arm}_x"] = sum((x for _, a, _, x in valued if a == arm), 0.0)
            sums[f"{arm}_units"] = 0
        for unit, arm, _, _ in valued:
            sums[f"{arm}_units"] += unit not in seen
            seen.add(unit)
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
        made = row(f"r{i}", at, arm, unit_id=unit, stage=stage, prediction=dice.choice("01"))
        made["latency_ms"] = round(dice.lognormvariate(1, 1), 1) if dice.random() < 0.95 else math.nan
        made["status"] = dice.choice(["ok"] * 8 + ["error", "timeout"])
        if stage is None:
            made |= {"rollout_id": None, "cohort": None, "served": dice.random() < 0.9}
        elif dice.random() < 0.1:
            made |= dice.choice(
                [{"cohort": None}, {"cohort": "challenger"}, {"rollout_id": "no"}, {"stage": 1}, {"stage": 0}]
            )
        rows.append(made)
        if dice.random() < 0.1:
            later = dice.choice([1.0, 300.0, 899.999999, 900.0, 1200.0])
            rows.append(made | {"ts": made["ts"] + timedelta(seconds=later), "status": dice.choice(["ok", "error"])})
    outcomes = []
    for made in rows:
        for _ in range(dice.choice([0, 1, 1, 1, 2])):
            at = (made["ts"] - START).total_seconds() + dice.choice([dice.uniform(0, 90), 30.0, 60.0, -5.0])
            label = dice.choice(["0", "1", None])
            value = dice.choice([None, math.nan, *(dice.gauss(100 + 10 * hash_of(made), 5) for _ in range(4))])
            outcomes.append(outcome(made["request_id"], at, label, value))
    dice.shuffle(rows)
    dice.shuffle(outcomes)
    return rows, outcomes


def hash_of(made: Row) -> int:
    return sum(map(ord, made["unit_id"] or "")) % 7


@pytest.mark.parametrize("seed", range(3))
def test_random_logs_give_the_numbers_of_the_definitions_in_one_call_and_look_by_look(
    tmp_path: Path, seed: int
) -> None:
    bench = Bench(tmp_path)
    rows, outcomes = random_log(seed)
    for part in range(3):
        bench.predictions(*rows[part::3])
        bench.outcomes(*outcomes[part::3])
    checks: list[tuple[Callable[..., Any], Any]] = [
        (bench.units, slow_units(rows, LOOKS)),
        (bench.labels, slow_labels(rows, outcomes, LOOKS, MINUTE)),
        (bench.values, slow_values(rows, outcomes, LOOKS, MINUTE)),
    ]
    for ask, expected in checks:
        assert flat(ask()) == same(expected)
        for k in range(len(LOOKS) + 1):
            assert flat(ask(LOOKS, k)) == same(expected[k:])  # looks that are counted late
            if k < len(LOOKS):
                assert flat(ask(LOOKS[: k + 1], k)) == same(expected[k : k + 1])  # each look when it is closed
    units, values = checks[0][1], checks[2][1]
    assert all(sum(counts[arm].new for counts in units[3:]) for arm in (0, 1))  # the case is no empty one
    assert all(value.champion_n and value.challenger_n and value.xx for value in values[1:])


def test_the_counts_are_those_of_the_existing_evidence(bench: Bench) -> None:
    rows, outcomes = random_log(7)
    bench.predictions(*rows)
    bench.outcomes(*outcomes)
    for stage, looks in ((0, LOOKS[:3]), (1, LOOKS[3:])):
        windows = [each.window for each in looks]
        at = slice(3 * stage, 3 * stage + 3)
        requests = bench.log.request_counts("delays", "ro", stage, windows)
        labels = bench.log.label_counts("delays", "ro", stage, windows, MINUTE)
        for counted, units in zip(requests, bench.units()[at], strict=True):
            for mine, unit in zip(counted, units, strict=True):
                assert unit.clusters["error_rate"].judged == mine.requests
                assert unit.clusters["latency_p95"].judged == mine.requests - mine.errors
        assert [tuple(arm.judged for arm in each) for each in bench.labels()[at]] == [
            tuple(arm.labelled for arm in each) for each in labels
        ]
        assert [(each.champion_due, each.challenger_due) for each in bench.values()[at]] == [
            tuple(arm.due for arm in each) for each in labels
        ]


# --- units


def test_a_unit_is_new_once_and_counts_for_the_arm_of_its_first_row(bench: Bench) -> None:
    bench.predictions(row("a", 5, unit_id="u"), row("b", 700, unit_id="u"), row("c", 650, "challenger", unit_id="v"))
    bench.predictions(row("d", 2200, "challenger", unit_id="u", stage=1), row("e", 2300, unit_id="w", stage=1))
    assert bench.new() == [(1, 0), (0, 1), (0, 0), (1, 0), (0, 0), (0, 0)]


def test_a_request_without_a_unit_is_a_unit_of_its_own_and_never_the_unit_of_its_name(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2), row("c", 3, unit_id="a"), row("d", 4, unit_id="a"), row("a", 5))
    assert bench.new()[0] == (3, 0)
    clusters = bench.units()[0][0].clusters["error_rate"]
    assert (clusters.judged, clusters.squares) == (4, 1 + 1 + 4)


def test_a_request_of_another_stage_makes_no_unit_known(bench: Bench) -> None:
    bench.predictions(
        row("a", 5, unit_id="u", stage=1), row("b", 1810, unit_id="u"), row("c", 2200, unit_id="u", stage=1)
    )
    assert bench.new() == [(0, 0)] * 3 + [(1, 0), (0, 0), (0, 0)]


def test_a_request_that_is_repeated_in_the_next_stage_counts_in_both_like_its_request_counts(bench: Bench) -> None:
    looks = [look(0, 0, 0), look(1, 0, 10)]
    bench.predictions(row("a", 599), row("a", 601, stage=1))
    units = [champion.clusters["error_rate"].judged for champion, _ in bench.units(looks)]
    requests = [bench.log.request_counts("delays", "ro", each.stage, [each.window])[0][0].requests for each in looks]
    assert units == requests == [1, 1]


def test_rows_of_no_arm_make_no_unit_known(bench: Bench) -> None:
    bench.predictions(row("a", 5, "nobody", unit_id="u"), row("b", 6, unit_id="u"))
    assert bench.new()[0] == (1, 0)


def test_a_single_request_has_no_spread_and_no_pairs(bench: Bench) -> None:
    bench.predictions(row("a", 5, status="error"))
    clusters = bench.units()[0][0].clusters
    assert clusters["error_rate"] == ClusterSums(1, 1, 0.0, 0.0, 0.0)
    assert clusters["latency_p50"] == ClusterSums()


def test_a_latency_beyond_the_last_bin_is_an_error_and_no_slow_answer(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2, latency_ms=1e300))
    clusters = bench.units()[0][0].clusters
    assert clusters["error_rate"].judged == 2
    assert clusters["latency_p50"].judged == 1


def test_pairs_of_a_unit_are_found_across_looks(bench: Bench) -> None:
    """Two units with two requests in each of two looks: one fails always, one never."""
    for at in (0, 600):
        for unit, status in (("u", "ok"), ("v", "error")):
            bench.predictions(*(row(f"{unit}{at}{i}", at + i, unit_id=unit, status=status) for i in (1, 2)))
    first, second = (units[0].clusters["error_rate"] for units in bench.units()[:2])
    spread = 0.25 * 4 / 3
    within = 4 * 0.25 + 4 * spread / 4
    assert flat(first) == same(ClusterSums(4, 8, within, 4 * spread, 4 * spread**2))
    assert flat(second) == same(ClusterSums(4, 24, within + 16 * 0.25, 20 * spread, 20 * spread**2))


# --- maturity


@pytest.mark.parametrize(("late", "judged"), [(timedelta(0), 1), (TICK, 0)])
def test_an_outcome_counts_up_to_the_end_of_the_maturity(bench: Bench, late: timedelta, judged: int) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 65, "0", 7.0) | {"ts": START + 65 * SECOND + late}, outcome("a", 66, "1", 8.0))
    assert bench.labels()[0][0].judged == judged
    (values,) = bench.values(LOOKS[:1])
    assert (values.champion_due, values.champion_n, values.champion_y) == (1, judged, 7.0 * judged)
    baseline = bench.baseline()
    assert (baseline.due, baseline.labelled, baseline.wrong, baseline.valued) == (1, judged, judged, judged)


def test_the_first_outcome_of_a_request_counts_and_repeats_count_once(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 6))
    bench.outcomes(outcome("a", 20, "0", 2.0), outcome("a", 10, "1", 1.0), outcome("a", 10, "1", 1.0))
    assert bench.labels()[0][0].judged == 1
    assert bench.values(LOOKS[:1])[0] == ValueSums(champion_due=2, champion_n=1, champion_y=1.0, champion_units=1)


def test_a_missing_prediction_is_wrong_wherever_there_is_a_label(bench: Bench) -> None:
    bench.predictions(row("a", 5, prediction=None), row("b", 6))
    bench.outcomes(outcome("a", 20, "1"), outcome("b", 20, "1"))
    bench.predictions(row("c", 605, prediction=None, unit_id="u"), row("d", 606, unit_id="u"))
    bench.outcomes(outcome("c", 620, "1"), outcome("d", 620, "1"))
    assert flat(bench.labels()[1][0]) == same(sums_by_pairs([[("u", 1), ("u", 0)]])[0])
    assert bench.labels()[1][0].scale == pytest.approx(2 * 0.5)
    assert bench.baseline(700).wrong == 2


# --- pairs


def test_pairs_are_requests_of_the_champions_own_cohort(bench: Bench) -> None:
    control = {"cohort": "champion"}
    bench.predictions(row("mirrored", 1), row("mirrored", 1, "challenger", served=False))
    bench.predictions(row("control", 2, served=False), row("control", 2, "challenger", **control))
    bench.predictions(row("fallback", 3, cohort="challenger"), row("fallback", 3, "challenger", status="error"))
    bench.predictions(row("alone", 4), row("failed", 5, status="error"), row("failed", 5, "challenger"))
    bench.predictions(row("outside", 6, cohort=None), row("outside", 6, "challenger"))
    assert bench.pairs() == [PairCounts(3, 2, 2), PairCounts(), PairCounts()]


@pytest.mark.parametrize(
    "changes",
    [{"status": "error"}, {"status": "timeout"}, {"prediction": "0"}, {"prediction": None}, {"prediction": "1.0"}],
)
def test_a_failure_or_another_answer_is_a_pair_that_disagrees(bench: Bench, changes: Row) -> None:
    bench.predictions(row("a", 1), row("a", 1, "challenger", cohort=None, **changes))
    assert bench.pairs()[0] == PairCounts(1, 1, 0)


@pytest.mark.parametrize("changes", [{"rollout_id": "other"}, {"stage": 1}, {"rollout_id": None}, {"stage": None}])
def test_answers_of_another_rollout_or_stage_make_no_pair(bench: Bench, changes: Row) -> None:
    bench.predictions(row("a", 1), row("a", 1, "challenger", **changes))
    assert bench.pairs()[0] == PairCounts(1, 0, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_answers_of_an_id_that_comes_back_later_make_no_pair(bench: Bench, sign: int) -> None:
    bench.predictions(row("a", 950), row("b", 951))
    bench.predictions(row("a", 950 + sign * REPEAT_SECONDS, "challenger"))
    bench.predictions(row("b", 951 + sign * (REPEAT_SECONDS - 1e-6), "challenger"))
    assert bench.pairs() == [PairCounts(), PairCounts(2, 1, 1), PairCounts()]


def test_a_repeated_request_is_asked_once_and_its_first_answers_are_compared(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("a", 2), row("a", 601))
    bench.predictions(row("a", 3, "challenger"), row("a", 2, "challenger", prediction="0"))
    bench.predictions(row("b", 1), row("b", 2, "challenger"), row("b", 3, "challenger", status="error"))
    assert bench.pairs() == [PairCounts(2, 2, 1), PairCounts(), PairCounts()]


@pytest.mark.parametrize("changes", [{"status": "error"}, {"prediction": "0"}, {"prediction": None}])
def test_of_two_answers_of_one_time_the_worse_one_is_compared(bench: Bench, changes: Row) -> None:
    bench.predictions(row("a", 1), row("a", 1, "challenger"), row("a", 1, "challenger", **changes))
    assert bench.pairs()[0] == PairCounts(1, 1, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ("1", "1.5", 1),
        ("1", "1.500001", 0),
        ("1.5", "1", 1),
        ("1", "1", 1),
        ("late", "late", 0),
        ("nan", "nan", 0),
        ("1", "nan", 0),
        ("nan", "1", 0),
        ("inf", "inf", 0),
        ("-inf", "inf", 0),
        ("1e308", "-1e308", 0),
        (None, None, 0),
        ("1", None, 0),
        (None, "1", 0),
    ],
)
def test_numbers_agree_within_the_tolerance(bench: Bench, ours: str | None, theirs: str | None, agreed: int) -> None:
    bench.predictions(row("a", 1, prediction=ours), row("a", 1, "challenger", prediction=theirs))
    assert bench.pairs(0.5)[0] == PairCounts(1, 1, agreed)


def test_two_missing_answers_do_not_agree_as_texts(bench: Bench) -> None:
    bench.predictions(row("a", 1, prediction=None), row("a", 1, "challenger", prediction=None))
    assert bench.pairs()[0] == PairCounts(1, 1, 0)


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -0.1])
def test_a_tolerance_that_lets_everything_pass_is_refused(bench: Bench, tolerance: float) -> None:
    with pytest.raises(ValueError, match=f"tolerance is {tolerance}, must be a finite number of at least 0"):
        bench.pairs(tolerance)


# --- values


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_missing(bench: Bench, missing: float | None) -> None:
    bench.predictions(row("a", 1), row("b", 2))
    bench.outcomes(outcome("a", 10, "1", missing), outcome("b", 10, "1", 3.0))
    (values,) = bench.values(LOOKS[:1])
    assert (values.champion_due, values.champion_n, values.champion_y) == (2, 1, 3.0)


def test_a_unit_has_the_worth_it_had_before_the_rollout_and_a_new_one_the_mean(bench: Bench) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None}
    bench.predictions(row("p1", -500, unit_id="u", **plain), row("p2", -400, unit_id="u", **plain))
    bench.predictions(row("p3", -300, unit_id="v", **plain), row("p4", -10, unit_id="u", **plain))
    bench.outcomes(outcome("p1", -450, None, 1.0), outcome("p2", -1, None, 3.0), outcome("p3", -200, None, 8.0))
    bench.outcomes(outcome("p4", 0, None, 999.0))  # known too late to be from before the rollout
    bench.predictions(row("a", 1, unit_id="u"), row("b", 2, unit_id="v"), row("c", 3, "challenger", unit_id="new"))
    bench.outcomes(*(outcome(each, 20, None, 1.0) for each in "abc"))
    (values,) = bench.values(LOOKS[:1])
    assert (values.champion_x, values.challenger_x) == (2.0 + 8.0, 5.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"arm": "challenger"},
        {"served": False},
        {"ts": PRIOR[0] - TICK},
        {"ts": PRIOR[1]},
    ],
)
def test_what_is_no_answer_of_the_champions_before_the_rollout_is_no_worth(bench: Bench, changes: Row) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None}
    bench.predictions(row("p1", -500, unit_id="u", **plain), row("p2", -400, unit_id="u", **plain) | changes)
    known = min(changes.get("ts", START) + SECOND, START - TICK)
    bench.outcomes(outcome("p1", -400, None, 1.0), outcome("p2", -1, None, 77.0) | {"ts": known})
    bench.predictions(row("a", 1, unit_id="u"))
    bench.outcomes(outcome("a", 20, None, 1.0))
    assert bench.values(LOOKS[:1])[0].champion_x == 1.0


def test_a_repeated_request_before_the_rollout_is_worth_once(bench: Bench) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None, "unit_id": "u"}
    bench.predictions(row("p1", -500, **plain), row("p1", -499, **plain), row("p2", -400, **plain))
    bench.outcomes(outcome("p1", -400, None, 1.0), outcome("p2", -390, None, 4.0))
    bench.predictions(row("a", 1, unit_id="u"))
    bench.outcomes(outcome("a", 20, None, 1.0))
    assert bench.values(LOOKS[:1])[0].champion_x == 2.5


def test_what_a_unit_was_worth_days_before_is_read_from_files_of_that_time(bench: Bench) -> None:
    ago = (PRIOR[0] - START).total_seconds()
    bench.predictions(row("p1", ago, unit_id="u", rollout_id=None, stage=None, cohort=None))
    bench.outcomes(outcome("p1", ago + 10, None, 6.0))
    bench.predictions(row("a", 1, unit_id="u"))
    bench.outcomes(outcome("a", 20, None, 1.0))
    assert bench.values(LOOKS[:1])[0].champion_x == 6.0


def test_without_any_value_from_before_the_worth_is_zero(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2, "challenger"))
    bench.outcomes(outcome("a", 10, None, 3.0), outcome("b", 10, None, 5.0))
    assert bench.values(LOOKS[:1]) == [ValueSums(1, 1, 1, 1, 3.0, 5.0, 0.0, 0.0, 1, 1, yy=0.5, xy=0.0, xx=0.0)]


def test_a_units_score_goes_over_both_arms(bench: Bench) -> None:
    """The unit moves to the challenger between the looks; its deviations from the two means are the same."""
    bench.predictions(row("a", 1, unit_id="u"), row("b", 2, "challenger", unit_id="v"))
    bench.predictions(row("c", 601, "challenger", unit_id="u"), row("d", 602, unit_id="w"))
    bench.outcomes(outcome("a", 9, None, 4.0), outcome("b", 9, None, 2.0))
    bench.outcomes(outcome("c", 609, None, 4.0), outcome("d", 609, None, 2.0))
    first, second = bench.values(LOOKS[:2])
    assert first.yy == pytest.approx(0.5)
    # u: -0.5, then +0.5 makes 0; w is new with +0.5.
    assert second.yy == pytest.approx((0.0 - 0.25) + 0.25)
    assert (first.champion_units, first.challenger_units) == (1, 1)
    assert (second.champion_units, second.challenger_units) == (1, 0)


def test_a_prior_time_that_reaches_into_the_rollout_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"prior time is .* must end at 2026-03-01T12:00:00"):
        bench.values(prior=(START - DAY, START + TICK))
    with pytest.raises(ValueError, match="prior time is"):
        bench.values(prior=(START, START - DAY))


def test_values_too_large_to_be_added_up_are_an_error(bench: Bench) -> None:
    bench.predictions(row("a", 1), row("b", 2, "challenger"))
    bench.outcomes(outcome("a", 10, None, 1e300), outcome("b", 10, None, -1e300))
    with pytest.raises(LogReadError, match="INT128"):
        bench.values(LOOKS[:1])


# --- baseline


def test_a_baseline_counts_a_champions_served_answers_in_and_out_of_rollouts(bench: Bench) -> None:
    plain = {"rollout_id": None, "stage": None, "cohort": None}
    bench.predictions(row("a", 0, unit_id="u", **plain), row("b", 10, unit_id="u"), row("c", 20, unit_id="v"))
    bench.predictions(row("d", 30, status="error"), row("e", 40, latency_ms=math.nan), row("f", 541, **plain))
    bench.predictions(row("b", 11, unit_id="u", stage=1))  # again, in the next stage
    out: list[Row] = [
        {"version": "2"},
        {"served": False},
        {"cohort": "challenger"},
        {"arm": "challenger"},
        {"ts": START - TICK},
        {"ts": START + 600 * SECOND},
    ]
    bench.predictions(*(row(f"out{i}", 5, unit_id=f"out{i}") | changes for i, changes in enumerate(out)))
    bench.outcomes(outcome("a", 10, "1", 1.0), outcome("b", 20, "0", 4.0), outcome("c", 30, None, math.nan))
    bench.outcomes(outcome("e", 50, "1", 7.0), outcome("f", 550, "1", 50.0), outcome("d", 50, "1", 60.0))
    assert bench.baseline() == Baseline(
        requests=6,
        errors=2,
        seconds=600.0,
        due=4,  # f is too young, d failed
        labelled=3,
        wrong=1,
        units=5,
        valued=3,
        value_mean=4.0,
        value_sd=3.0,
    )


@pytest.mark.parametrize(("end", "due"), [(65.0, 1), (64.999999, 0)])
def test_an_answer_is_due_once_its_maturity_has_passed(bench: Bench, end: float, due: int) -> None:
    bench.predictions(row("a", 5))
    assert bench.baseline(end).due == due


def test_a_request_that_began_before_the_baseline_is_none_of_it(bench: Bench) -> None:
    bench.predictions(row("a", -5), row("a", 5))
    assert bench.baseline().requests == 0


def test_one_value_has_no_spread(bench: Bench) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 10, None, 2.0))
    assert (bench.baseline().value_mean, bench.baseline().value_sd) == (2.0, None)


def test_a_baseline_of_values_too_large_to_be_added_up_is_an_error(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 6))
    bench.outcomes(outcome("a", 10, None, 1e300), outcome("b", 10, None, -1e300))
    with pytest.raises(LogReadError):
        bench.baseline()


def test_a_baseline_without_length_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="must be after the start"):
        bench.baseline(0)


# --- silence and damage

NO_BASELINE = Baseline(0, 0, 600.0, 0, 0, 0, 0, 0, None, None)


def test_a_model_that_nobody_has_called_yet_has_zeros(bench: Bench) -> None:
    assert bench.units(fresh=4) == [(NO_UNITS, NO_UNITS)] * 2
    assert bench.labels() == [(ClusterSums(), ClusterSums())] * 6
    assert bench.pairs() == [PairCounts()] * 3
    assert bench.values() == [ValueSums()] * 6
    assert bench.baseline() == NO_BASELINE
    assert not list(bench.root.iterdir())


def test_looks_without_rows_have_zeros(bench: Bench) -> None:
    bench.predictions(row("a", 5, rollout_id="other", version="9"))
    assert bench.units() == [(NO_UNITS, NO_UNITS)] * 6
    assert bench.labels() == [(ClusterSums(), ClusterSums())] * 6
    assert bench.pairs() == [PairCounts()] * 3
    assert bench.values() == [ValueSums()] * 6
    assert bench.baseline() == NO_BASELINE


def test_answers_without_any_outcome_are_due_and_missing(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 6, "challenger"))
    assert bench.labels()[0] == (ClusterSums(), ClusterSums())
    assert bench.values()[0] == ValueSums(champion_due=1, challenger_due=1)
    assert bench.baseline() == Baseline(1, 0, 595.0, 1, 0, 0, 1, 0, None, None)  # from its first request on


def test_no_windows_give_no_results(bench: Bench) -> None:
    assert bench.units([]) == bench.labels([]) == bench.pairs(None, []) == bench.values([]) == []
    assert bench.units(fresh=6) == bench.labels(fresh=6) == bench.values(fresh=6) == []


def every_question(bench: Bench) -> list[Callable[[], Any]]:
    return [bench.units, bench.labels, bench.pairs, bench.values, bench.baseline]


@pytest.mark.parametrize("question", range(5), ids=["units", "labels", "pairs", "values", "baseline"])
def test_a_damaged_log_is_an_error_and_not_a_smaller_count(bench: Bench, question: int) -> None:
    bench.predictions(row("a", 5))
    ask = every_question(bench)[question]
    ask()
    for file in table_path(bench.root, "delays", "predictions").glob("day=*/*.parquet"):
        file.unlink()
    with pytest.raises(LogReadError):
        ask()


@pytest.mark.parametrize("question", [1, 3, 4], ids=["labels", "values", "baseline"])
def test_lost_outcomes_are_an_error(bench: Bench, question: int) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 10, "1", 1.0))
    for file in table_path(bench.root, "delays", "outcomes").glob("day=*/*.parquet"):
        file.write_bytes(b"PAR1 not really")
    with pytest.raises(LogReadError):
        every_question(bench)[question]()


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        (
            [LOOKS[1], LOOKS[0]],
            "look 1 .stage 0. begins at 2026-03-01T12:00:00.* must not begin before 2026-03-01T12:20",
        ),
        ([LOOKS[0], look(0, 1, 9)], "look 1 .stage 0. begins at 2026-03-01T12:09:00.* must not begin before"),
        ([LOOKS[1], look(1, 0, 5)], "look 1 .stage 1. begins at 2026-03-01T12:05:00.* must not begin before"),
    ],
)
def test_looks_out_of_order_are_refused(bench: Bench, looks: list[StageWindow], message: str) -> None:
    for ask in (bench.units, bench.labels, bench.values):
        with pytest.raises(ValueError, match=message):
            ask(looks, prior=(START, START)) if ask == bench.values else ask(looks)


@pytest.mark.parametrize("fresh", [-1, 7])
def test_a_position_outside_of_the_looks_is_refused(bench: Bench, fresh: int) -> None:
    with pytest.raises(ValueError, match=f"fresh is {fresh}, must be between 0 and 6"):
        bench.units(fresh=fresh)


# --- repeat requests among the pairs


def mirrored(seed: int) -> tuple[list[Row], list[Row]]:
    """Requests that both versions answered, with the champion's answer as the label: disagreeing is being wrong."""
    rng = random.Random(seed)
    rows, labels = [], []
    for i in range(300):
        window = rng.choice(LOOKS)
        at = (window.window.start - START).total_seconds() + rng.uniform(0, 590)
        own = {"stage": window.stage, "unit_id": rng.choice([None, "a", "b", "c", "d"])}
        rows.append(row(f"r{i}", at, **own, prediction="1"))
        if rng.random() < 0.9:
            same = rng.random() < (0.5 if own["unit_id"] == "a" else 0.9)
            rows.append(row(f"r{i}", at, "challenger", **own, prediction="1" if same else "0"))
        labels.append(outcome(f"r{i}", at, "1"))
    return rows, labels


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_a_unit_resemble_each_other_as_its_wrong_answers_do(bench: Bench, seed: int) -> None:
    rows, labels = mirrored(seed)
    bench.predictions(*rows)
    bench.outcomes(*labels)
    wrong = [challenger for _, challenger in bench.labels()]
    for fresh in (0, 3, 5):
        found = bench.log.pair_clusters("delays", "ro", LOOKS, fresh, None)
        assert found == wrong[fresh:]
    assert bench.log.pair_clusters("delays", "ro", LOOKS, 0, 0.5) == wrong  # 1 and 0 are further apart
    tolerant = bench.log.pair_clusters("delays", "ro", LOOKS, 0, 1.0)
    assert [sums.judged for sums in tolerant] == [sums.judged for sums in wrong]
    assert all(sums.scale == sums.products == 0 for sums in tolerant)
    assert [sums.judged for sums in wrong[:3]] == [pairs.paired for pairs in bench.pairs()]


def test_a_failed_answer_does_not_agree_and_a_stand_in_makes_no_pair(bench: Bench) -> None:
    bench.predictions(
        row("a", 1, unit_id="u"), row("a", 1, "challenger", unit_id="u", status="error", prediction=None),
        row("b", 2, unit_id="u"), row("b", 2, "challenger", unit_id="u"),
        row("c", 3, unit_id="u", cohort="challenger"), row("c", 3, "challenger", unit_id="u", status="error"),
    )  # fmt: skip
    (sums, *_) = bench.log.pair_clusters("delays", "ro", LOOKS, 0, None)
    assert (sums.judged, sums.squares) == (2, 4)
    # residuals of +- a half, and what centring on the look takes away given back: variance 1/2 over 2, twice
    assert (sums.products, sums.scale) == (pytest.approx(2 * (-0.25 + 0.25)), pytest.approx(2 * 0.5))


def test_pair_clusters_of_nothing_are_nothing_and_bad_tolerances_are_refused(bench: Bench) -> None:
    assert bench.log.pair_clusters("delays", "ro", LOOKS, 4, None) == [ClusterSums()] * 2
    with pytest.raises(ValueError, match="tolerance is nan, must be a finite number"):
        bench.log.pair_clusters("delays", "ro", LOOKS, 0, math.nan)
