"""What can be monitored of a champion, as read from real Delta tables."""

import math
import random
from datetime import timedelta
from typing import Any

import pytest
from tests.adapters.log_kinds import damage
from tests.adapters.unit_log import DAY, MINUTE, SECOND, START, TICK, Bench, Row, call_of, outcome, row, unit_of

from model_rollouts.adapters.delta_files import LogReadError
from model_rollouts.adapters.delta_monitoring import DeltaMonitoringLog
from model_rollouts.adapters.delta_schema import TableName
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.core.evidence import latency_bin
from model_rollouts.core.monitoring import MonitoredCounts, readiness_of
from model_rollouts.core.readiness import Monitored

PLAIN: dict[str, Any] = {"rollout_id": None, "stage": None, "cohort": None}


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


def counts(bench: Bench, seconds: float = 600, maturity: timedelta = MINUTE, version: str = "3") -> MonitoredCounts:
    end = START + timedelta(seconds=seconds)
    return DeltaMonitoringLog(bench.root).monitored("delays", version, START, end, maturity)


def test_a_champions_answers_count_in_and_out_of_rollouts(bench: Bench) -> None:
    bench.predictions(
        row("a", 0, unit_id="u", features={"x": 1.0, "carrier": "AA"}, **PLAIN),
        row("b", 10, unit_id="u", latency_ms=7.0, features={"x": 2.0}),
        row("c", 20, unit_id="v", served=False, features={"carrier": "UA"}),  # a control request at 100 %
        row("d", 30, status="error", prediction=None, served=False, features={"x": 3.0}),  # nobody got an answer
        row("e", 40, latency_ms=math.nan, features={"x": math.nan}),
        row("f", 50, latency_ms=0.0, features={}),
        row("g", 580, features={"x": 5.0}, **PLAIN),  # too young for a label
    )
    out: list[Row] = [
        {"version": "2"},
        {"cohort": "challenger"},  # answered for a challenger that failed
        {"arm": "challenger"},
        {"ts": START - TICK},
        {"ts": START + 600 * SECOND},
    ]
    bench.predictions(*(row(f"out{i}", 5, unit_id=f"out{i}") | changes for i, changes in enumerate(out)))
    bench.outcomes(outcome("a", 10, "1", 1.0), outcome("b", 30, "0", 4.0), outcome("c", 50, "1", 900.0))
    bench.outcomes(outcome("d", 60, "1", 900.0), outcome("g", 581, "0", 900.0), outcome("f", 51, None, 1e300))
    found = counts(bench)
    assert (found.requests, found.errors, found.with_status, found.answered, found.timed) == (7, 2, 7, 6, 4)
    assert found.latency == {latency_bin(3.5): 3, latency_bin(7.0): 1}
    assert (found.features, found.featured) == (2, 5)
    assert (found.units, found.seconds, found.days) == (6, 580.0, 1)
    assert (found.due, found.labelled, found.wrong) == (5, 3, 1)
    assert (found.label_delay_p50, found.label_delay_p95) == (20.0, 30.0)
    # c was answered by another version, d not at all, g is too young; the value of f is beyond any
    assert (found.value_due, found.valued, found.value_mean) == (4, 2, 2.5)
    assert found.value_error is None  # both are of one unit


@pytest.mark.parametrize("empty", ["no table", "no rows of the version", "no rows in the time"])
def test_an_empty_log_shows_nothing(bench: Bench, empty: str) -> None:
    if empty == "no rows of the version":
        bench.predictions(row("a", 5, version="9"))
    if empty == "no rows in the time":
        bench.predictions(row("a", 5 * 86400.0))
    found = counts(bench)
    assert found.requests == found.due == found.featured == 0
    assert {item.name for item in readiness_of(found, ()) if item.refuses} == set(Monitored)


@pytest.mark.parametrize("table", ["predictions", "outcomes"])
def test_a_log_that_can_not_be_read_is_an_error_and_never_empty(bench: Bench, table: TableName) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 6, "1"))
    damage(bench.root, "delays", table)
    with pytest.raises(LogReadError, match=table):
        counts(bench)


def test_a_request_that_is_logged_again_counts_once_as_its_first_row(bench: Bench) -> None:
    bench.predictions(row("a", 5, status="error"), row("a", 6), row("a", 7, stage=1), row("b", -5), row("b", 5))
    found = counts(bench)
    assert (found.requests, found.errors) == (1, 1)


@pytest.mark.parametrize(("end", "due"), [(65.0, 1), (64.999999, 0)])
def test_labels_are_due_at_their_maturity_and_count_up_to_then(bench: Bench, end: float, due: int) -> None:
    bench.predictions(row("a", 5), row("b", 4))
    bench.outcomes(outcome("a", 65, "1"), outcome("b", 64.000001, "0"))
    found = counts(bench, end)
    assert (found.due, found.labelled) == (due + 1, due)


def test_a_label_whose_clock_is_behind_has_no_delay(bench: Bench) -> None:
    bench.predictions(row("a", 5))
    bench.outcomes(outcome("a", 1, "1"))
    assert counts(bench).label_delay_p95 == 0.0


def test_a_status_that_the_contract_does_not_know_is_none(bench: Bench) -> None:
    bench.predictions(row("a", 5, status="fine"), row("b", 6))
    found = counts(bench)
    assert (found.requests, found.with_status, found.errors) == (2, 1, 1)


def test_features_with_odd_names_are_read(bench: Bench) -> None:
    odd = {'a"b': 1.0, "{x}": 2.0, "it's": "t"}
    bench.predictions(*(row(name, 5, features={name: value}) for name, value in odd.items()), row("none", 6))
    found = counts(bench)
    assert (found.features, found.featured) == (3, 3)


def test_days_with_requests_are_counted(bench: Bench) -> None:
    bench.predictions(row("a", 5), row("b", 2 * 86400.0), row("c", 2 * 86400.0 + 5))
    found = counts(bench, 3 * 86400.0)
    assert (found.days, found.seconds) == (2, 2 * 86400.0)


@pytest.mark.parametrize(("end", "message"), [(START, "must be after the start"), (START - DAY, "must be after")])
def test_a_time_without_length_is_refused(bench: Bench, end: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeltaMonitoringLog(bench.root).monitored("delays", "3", START, end, MINUTE)


# --- repeats of units and calls, counted a second time by their definition


def effect(rows: list[Row], group: Any, hit: Any) -> float:
    """The variance of the hits as they come in groups, over that of independent rows."""
    groups: dict[Any, list[bool]] = {}
    for each in rows:
        groups.setdefault(group(each), []).append(hit(each))
    n = len(rows)
    rate = sum(map(sum, groups.values())) / n
    if rate in (0, 1):
        return sum(len(hits) ** 2 for hits in groups.values()) / n
    spread = sum((sum(hits) - rate * len(hits)) ** 2 for hits in groups.values()) * len(groups) / (len(groups) - 1)
    return min(max(1.0, spread / (n * rate * (1 - rate))), float(n))


@pytest.mark.parametrize("seed", range(6))
def test_repeats_weigh_as_their_groups_vary(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)
    rows: list[Row] = []
    outcomes: list[Row] = []
    wrong_units = {f"u{i}" for i in range(3)}
    for i in range(120):
        unit = dice.choice([*(f"u{j}" for j in range(20)), None])
        fails, slow = dice.random() < 0.1, dice.random() < 0.1
        for part in range(dice.choice([1, 1, 6])):
            name = f"r{i}:{part}"
            status = "error" if fails else "ok"
            latency = dice.uniform(50, 60) if slow else dice.uniform(1, 5)
            rows.append(row(name, i, unit_id=unit, status=status, latency_ms=latency, prediction="1"))
            label = "0" if unit in wrong_units or dice.random() < 0.05 else "1"
            outcomes.append(outcome(name, i + 1, label, float(dice.randrange(100))))
    bench.predictions(*rows)
    bench.outcomes(*outcomes)
    found = counts(bench)
    failed = [each["status"] != "ok" for each in rows]
    answered = [each for each, gone in zip(rows, failed, strict=True) if not gone]
    p95 = sorted(each["latency_ms"] for each in answered)[math.ceil(0.95 * len(answered)) - 1]
    labels = {each["request_id"]: each["label"] for each in outcomes}
    for got, of, hit, groups in (
        (found.error_effect, rows, lambda each: each["status"] != "ok", (unit_of, call_of)),
        (found.slow_effect, answered, lambda each: each["latency_ms"] >= p95, (unit_of, call_of)),
        (found.wrong_effect, answered, lambda each: labels[each["request_id"]] != "1", (unit_of,)),
    ):
        assert got == pytest.approx(max(effect(of, group, hit) for group in groups))
        assert got > 1.05
    values = {each["request_id"]: each["value"] for each in outcomes}
    worth = [values[each["request_id"]] for each in answered]
    assert found.value_mean == pytest.approx(sum(worth) / len(worth))
    sums: dict[Any, float] = {}
    for each, value in zip(answered, worth, strict=True):
        sums[unit_of(each)] = sums.get(unit_of(each), 0.0) + value - sum(worth) / len(worth)
    spread = sum(each**2 for each in sums.values()) * len(sums) / (len(sums) - 1)
    assert found.value_error == pytest.approx(math.sqrt(spread) / len(worth))
