"""What an offline stage reads from, writes to, and counts in real Delta tables."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.adapters.log_kinds import damage
from tests.adapters.unit_log import first_outcome, numbers, same, sums_by_pairs, unit_of

from model_rollouts.adapters.delta_files import LogReadError
from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.adapters.offline_log import DeltaOfflineLog
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.evidence import LabelCounts, Look
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow
from model_rollouts.core.rollout import Rollout, State
from model_rollouts.core.unit_evidence import PairCounts
from model_rollouts.looks import batch_looks
from model_rollouts.offline import LoggedRequest, OfflineAnswer
from model_rollouts.ports import ModelVersion, StageWindow, Window

OPENED = datetime(2026, 3, 8, 12, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
MATURITY = timedelta(hours=1)
PLAN = plan_shadow(ShadowParameters(offline=True, label_maturity_seconds=MATURITY.total_seconds()))
ROLLOUT = Rollout(
    "ro", "delays", "3", "4", PLAN, State.BAKING, 0, "salt", 2, OPENED, "test", opened_at=OPENED, judged_from=OPENED
)
VERSION = ModelVersion("delays", "4", inputs=(("x", "double"), ("n", "long")), optional=frozenset({"n"}))

Row = dict[str, Any]


def asked(request_id: str, before: timedelta = HOUR, /, **changes: Any) -> Row:
    """A row of the champion, so long before the stage was opened."""
    return {
        "request_id": request_id,
        "ts": OPENED - before,
        "model": "delays",
        "version": "3",
        "arm": "champion",
        "cohort": None,
        "served": True,
        "rollout_id": None,
        "stage": None,
        "unit_id": None,
        "status": "ok",
        "error": None,
        "latency_ms": 3.5,
        "prediction": "1",
        "score": None,
        "gateway_id": "g1",
        "traffic_revision": 7,
        "features": {"x": 0.5, "n": 2},
    } | changes


class Bench:
    """A log with a writer at hand."""

    def __init__(self, root: LogRoot) -> None:
        self.root = root
        self.writer = log_appender(root, "g1")
        self.version = 0

    def write(self, *rows: Row, table: Any = "predictions") -> None:
        self.version += 1
        assert self.writer.append("delays", table, rows, self.version)

    def log(self, rollout: Rollout = ROLLOUT, version: ModelVersion = VERSION, **limits: Any) -> DeltaOfflineLog:
        return DeltaOfflineLog(self.root, rollout, version, **limits)

    def ids(self, n: int = 1000, **limits: Any) -> list[str]:
        return [each.request_id for each in self.log(**limits).requests(n)]


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


# --- which requests


def test_it_is_the_champions_requests_of_the_time_before_the_stage(bench: Bench) -> None:
    bench.write(
        asked("outside a rollout"),
        asked("in its own cohort", HOUR, cohort="champion", rollout_id="older", stage=1),
        asked("failed", HOUR, status="error", prediction=None),
        asked("first", 7 * DAY + MATURITY),
        asked("too early", 7 * DAY + MATURITY + SECOND),
        asked("last", SECOND),
        asked("too late", timedelta(0)),
        asked("another version's", HOUR, version="2"),
        asked("a challenger's", HOUR, arm="challenger", cohort="challenger"),
        asked("in the challenger's place", HOUR, cohort="challenger"),
    )
    assert sorted(bench.ids()) == ["failed", "first", "in its own cohort", "last", "outside a rollout"]


def test_a_resumed_stage_takes_what_was_logged_until_then(bench: Bench) -> None:
    bench.write(asked("before"), asked("meanwhile", -HOUR))
    resumed = replace(ROLLOUT, judged_from=OPENED + 2 * HOUR)
    assert bench.ids() == ["before"]
    assert sorted(each.request_id for each in bench.log(resumed).requests(9)) == ["before", "meanwhile"]


def test_a_request_is_asked_once_as_its_first_row(bench: Bench) -> None:
    bench.write(
        asked("again", HOUR, features={"x": 1.0, "n": 1}),
        asked("again", HOUR - SECOND, features={"x": 2.0, "n": 1}),
        asked("again", HOUR / 2, features={"x": 3.0, "n": 1}, status="error"),
    )
    (only,) = bench.log().requests(9)
    assert only.features == {"f_x": 1.0, "f_n": 1.0}


def test_of_two_rows_of_one_time_the_failed_one_counts(bench: Bench) -> None:
    bench.write(asked("twin", HOUR, features={"x": 1.0}), asked("twin", HOUR, status="error", features={"x": 2.0}))
    (only,) = bench.log().requests(9)
    assert only.features["f_x"] == 2.0


def test_requests_come_in_an_order_that_has_nothing_to_do_with_time_and_is_always_the_same(bench: Bench) -> None:
    bench.write(*(asked(f"r{i}", i * SECOND + SECOND) for i in range(600)))
    ids = bench.ids()
    assert ids == bench.ids()
    assert len(set(ids)) == 600
    first = [int(each[1:]) for each in ids[:200]]
    assert 240 < sum(first) / 200 < 360  # 300 on average, 11 its standard error
    other = [each.request_id for each in bench.log(replace(ROLLOUT, salt="another")).requests(200)]
    assert other != ids[:200]


def test_of_more_than_it_may_take_it_draws_a_sample_that_holds_what_it_has_scored(bench: Bench) -> None:
    bench.write(*(asked(f"r{i}", i * SECOND + SECOND) for i in range(2000)))
    every = bench.ids(5000)
    drawn = bench.ids(5000, most_requests=500)
    assert 400 < len(drawn) < 600
    assert drawn == every[: len(drawn)]
    late = next(each for each in bench.log().requests(5000) if each.request_id == every[-1])
    log = bench.log(most_requests=500)
    log.append(0, OPENED, [late], [OfflineAnswer("ok", 1.0, "1")])
    (look,) = looks_of(log)
    assert look.pairs == PairCounts(1, 1, 1)


def test_without_a_log_there_are_no_requests(bench: Bench) -> None:
    assert bench.ids() == []
    assert bench.log().batches() == []
    bench.write(asked("another version's", HOUR, version="2"))
    assert bench.ids() == []


def test_a_broken_log_is_no_empty_one(bench: Bench) -> None:
    bench.write(asked("r1", HOUR))
    damage(bench.root, "delays", "predictions")
    with pytest.raises(LogReadError):
        bench.ids()


# --- inputs


def test_an_input_without_a_column_or_any_value_is_named(bench: Bench) -> None:
    bench.write(asked("r1", HOUR, features={"n": 1, "empty": None, "y": 1.0}), asked("r2", HOUR, features={"n": 1}))
    bench.write(asked("older", 20 * DAY, features={"x": 1.0}))
    bench.write(asked("another version's", HOUR, version="2", features={"empty": 1.0}))
    for name in ("distance", "x", "empty"):
        version = replace(VERSION, inputs=(("n", "long"), (name, "double")), optional=frozenset())
        with pytest.raises(NotReadyError, match=f"of delays from 2026-03-01 .* has no values of the inputs {name}, "):
            bench.log(version=version).requests(9)


def test_inputs_that_may_be_missing_may_all_be_but_one(bench: Bench) -> None:
    bench.write(asked("r1", HOUR, features={"n": 1.0}))
    version = replace(VERSION, optional=frozenset({"x", "n"}))
    (only,) = bench.log(version=version).requests(9)
    assert only.features == {"f_n": 1.0}
    with pytest.raises(NotReadyError, match="has none of the inputs y"):
        bench.log(version=replace(VERSION, inputs=(("y", "double"),), optional=frozenset({"y"}))).requests(9)


def test_requests_of_before_an_input_was_logged_are_left_out(bench: Bench) -> None:
    bench.write(
        asked("before", 3 * HOUR, features={"n": 1}), asked("since", 2 * HOUR), asked("null", HOUR, features={"n": 1})
    )
    assert sorted(bench.ids()) == ["null", "since"]  # whose null may be what the caller sent


def test_a_null_number_stays_apart_from_an_unknown_one(bench: Bench) -> None:
    bench.write(asked("r1", 2 * HOUR), asked("r2", HOUR, features={"x": math.nan, "n": None}))
    found = {each.request_id: each.features for each in bench.log().requests(9)}
    assert math.isnan(found["r2"]["f_x"])
    assert found["r2"]["f_n"] is None


def test_columns_may_have_any_name(bench: Bench) -> None:
    names = ['a "quoted" one', "{braces} %s", "it's"]
    bench.write(asked("r1", HOUR, features=dict.fromkeys(names, 1.0)))
    version = replace(VERSION, inputs=tuple((name, "double") for name in names), optional=frozenset())
    (only,) = bench.log(version=version).requests(9)
    assert only.features == {f"f_{name}": 1.0 for name in names}


def test_versions_and_limits_that_make_no_sense_are_refused(bench: Bench) -> None:
    with pytest.raises(NotReadyError, match="no signature with named inputs"):
        bench.log(version=ModelVersion("delays", "4"))
    with pytest.raises(ValueError, match="days is 0"):
        bench.log(days=0)
    with pytest.raises(ValueError, match=r"most is 200001, must be between 1 and 200,000"):
        bench.log(most_requests=200_001)
    with pytest.raises(NotReadyError, match="no open stage"):
        bench.log(replace(ROLLOUT, opened_at=None))


# --- answers


def looks_of(log: DeltaOfflineLog, kept: int = 0) -> list[Look]:
    batches = log.batches()
    ends = [*(batch.at for batch in batches[1:]), batches[-1].at + timedelta(microseconds=1)]
    windows = [StageWindow(0, Window(i, b.at, end)) for i, (b, end) in enumerate(zip(batches, ends, strict=True))]
    return batch_looks(log, ROLLOUT, windows, kept)


def test_a_batch_is_written_once(bench: Bench) -> None:
    bench.write(asked("r1"), asked("r2"), asked("r3"))
    log = bench.log()
    answers = [OfflineAnswer("ok", 1.0, "1"), OfflineAnswer("error", 0.0, error="not asked: x", asked=False)]
    assert log.append(0, OPENED, log.requests(2), answers)
    assert not bench.log().append(0, OPENED + SECOND, log.requests(1), answers[:1])
    (batch,) = log.batches()
    assert (batch.at, batch.asked, batch.unfit) == (OPENED, 1, 1)
    assert len(bench.ids()) == 1
    assert bench.log(replace(ROLLOUT, id="another")).batches() == []
    assert len(bench.log(replace(ROLLOUT, id="another")).requests(9)) == 3


def test_requests_that_could_not_be_asked_have_no_pair_and_are_no_errors(bench: Bench) -> None:
    bench.write(*(asked(f"r{i}", HOUR, status="error" if i < 2 else "ok") for i in range(5)))
    log = bench.log()
    requests = log.requests(9)
    unfit = {"r1", "r4"}
    log.append(
        0, OPENED, requests, [OfflineAnswer("ok", 1.0, "1", asked=each.request_id not in unfit) for each in requests]
    )
    (look,) = looks_of(log)
    assert (look.champion.requests, look.champion.errors) == (3, 1)
    assert (look.challenger.requests, look.challenger.errors) == (3, 0)
    assert look.pairs == PairCounts(asked=3, paired=2, agreed=2)


def test_answers_are_compared_within_the_gates_tolerance(bench: Bench) -> None:
    bench.write(*(asked(f"r{i}", HOUR, prediction="10") for i in range(3)))
    log = bench.log()
    requests = log.requests(9)
    log.append(0, OPENED, requests, [OfflineAnswer("ok", 1.0, text) for text in ("10.4", "10.6", "ten")])
    windows = [Window(0, OPENED, OPENED + SECOND)]
    assert log.pair_counts("delays", "ro", 0, windows, 0.5) == [PairCounts(3, 3, 1)]
    assert log.pair_counts("delays", "ro", 0, windows, None) == [PairCounts(3, 3, 0)]


@pytest.mark.parametrize("seed", range(3))
def test_looks_of_many_batches_are_what_counting_pair_by_pair_gives(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)
    rows, outcomes = past(dice)
    bench.write(*rows)
    bench.write(*outcomes, table="outcomes")
    log = bench.log()
    asked_in: list[list[tuple[LoggedRequest, OfflineAnswer]]] = []
    looks: list[Look] = []
    while requests := log.requests(70):
        answers = [answer_of(dice) for _ in requests]
        log.append(len(asked_in), OPENED + len(asked_in) * SECOND, requests, answers)
        asked_in.append(list(zip(requests, answers, strict=True)))
        looks += looks_of(log, len(looks))
    assert [(each.stage, each.index) for each in looks] == [(0, i) for i in range(len(asked_in))]
    assert looks_of(bench.log()) == looks  # another task counts the same
    first = {row["request_id"]: row for row in sorted(rows, key=lambda r: r["ts"], reverse=True)}
    assert numbers([summary(look) for look in looks]) == expected(asked_in, first, outcomes)
    for part, sums in slow_sums(asked_in, first, outcomes).items():
        assert [flat(look, part) for look in looks] == [same(each) for each in sums], part
    assert sum(len(batch) for batch in asked_in) == len(first)


def past(dice: random.Random) -> tuple[list[Row], list[Row]]:
    """Requests of few units, some of them with several rows; labels that come in time, late, twice or not at all."""
    rows, outcomes = [], []
    for i in range(400):
        made = asked(
            f"r{i}{dice.choice(['', ':0', ':1'])}",
            dice.uniform(0.5, 40) * HOUR,
            unit_id=dice.choice(["u1", "u1", "u2", "u3", "u4", None]),
            status=dice.choice(["ok"] * 9 + ["error"]),
            prediction=dice.choice("01"),
            latency_ms=round(dice.lognormvariate(1, 1), 1),
        )
        rows.append(made)
        if dice.random() < 0.1:
            rows.append(made | {"ts": made["ts"] + dice.choice([SECOND, HOUR / 3]), "prediction": "7"})
        for _ in range(dice.choice([0, 1, 1, 2])):
            at = made["ts"] + dice.choice([dice.random() * MATURITY, MATURITY, MATURITY + SECOND, -SECOND])
            outcomes.append({"request_id": made["request_id"], "ts": at, "label": dice.choice(["0", "1", None])})
    return [row for row in rows if row["ts"] < OPENED], outcomes


def answer_of(dice: random.Random) -> OfflineAnswer:
    if dice.random() < 0.1:
        return OfflineAnswer("error", 0.0, error="not asked: n", asked=False)
    status = dice.choice(["ok"] * 8 + ["error", "timeout"])
    return OfflineAnswer(status, round(dice.lognormvariate(1, 1), 1), dice.choice("01") if status == "ok" else None)


def summary(look: Look) -> list[Any]:
    return [
        [look.champion.requests, look.champion.errors, look.challenger.requests, look.challenger.errors],
        look.pairs,
        [look.champion_labels, look.challenger_labels],
    ]


def expected(
    batches: Sequence[Sequence[tuple[LoggedRequest, OfflineAnswer]]], first: dict[str, Row], outcomes: list[Row]
) -> list[Any]:
    found = []
    for at, batch in enumerate(batches):
        both = [(first[request.request_id], answer) for request, answer in batch]
        fit = [(row, answer) for row, answer in both if answer.asked]
        good = [(row, answer) for row, answer in both if row["status"] == "ok"]
        pairs = [(row, answer) for row, answer in good if answer.asked]
        labels = [labels_of(row, answer, outcomes, at) for row, answer in fit]
        found.append(
            [
                [
                    len(fit),
                    sum(row["status"] != "ok" for row, _ in fit),
                    len(fit),
                    sum(answer.status != "ok" for _, answer in fit),
                ],
                numbers(PairCounts(len(good), len(pairs), sum(row["prediction"] == a.prediction for row, a in pairs))),
                [
                    numbers(LabelCounts(*(sum(parts) for parts in zip(*arm, strict=True))))
                    for arm in zip(*labels, strict=True)
                ],
            ]
        )
    return found


def labels_of(row: Row, answer: OfflineAnswer, outcomes: list[Row], at: int) -> list[tuple[int, int, int]]:
    """(due, labelled, wrong) of the champion and the challenger."""
    matured = row["ts"] + MATURITY <= OPENED + at * SECOND
    label = first_outcome(row, outcomes, "label", row["ts"] + MATURITY)
    return [
        (int(due), int(due and label is not None), int(due and label is not None and label != said))
        for due, said in (
            (matured and row["status"] == "ok", row["prediction"]),
            (matured and answer.status == "ok", answer.prediction),
        )
    ]


def slow_sums(
    batches: Sequence[Sequence[tuple[LoggedRequest, OfflineAnswer]]], first: dict[str, Row], outcomes: list[Row]
) -> dict[str, list[Any]]:
    both = [[(first[request.request_id], answer) for request, answer in batch] for batch in batches]
    fit = [[(row, answer) for row, answer in batch if answer.asked] for batch in both]
    labels = [[(row, labels_of(row, a, outcomes, at)) for row, a in batch] for at, batch in enumerate(fit)]
    return {
        "pair_clusters": sums_by_pairs(
            [
                [(unit_of(row), int(row["prediction"] != a.prediction)) for row, a in batch if row["status"] == "ok"]
                for batch in fit
            ]
        ),
        "champion_units": sums_by_pairs([[(unit_of(r), int(r["status"] != "ok")) for r, _ in b] for b in fit]),
        "challenger_units": sums_by_pairs([[(unit_of(r), int(a.status != "ok")) for r, a in b] for b in fit]),
        "champion_label_clusters": sums_by_pairs([[(unit_of(r), c[2]) for r, (c, _) in b if c[1]] for b in labels]),
        "challenger_label_clusters": sums_by_pairs([[(unit_of(r), c[2]) for r, (_, c) in b if c[1]] for b in labels]),
    }


def flat(look: Look, part: str) -> list[float]:
    found = getattr(look, part)
    if part.endswith("_units"):
        found = found.clusters["error_rate"]
    counted = numbers(found)
    return [counted[name] for name in sorted(counted)]
