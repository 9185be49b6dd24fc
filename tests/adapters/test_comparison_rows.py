"""The comparison over all rows: its sums against plain Python, the bad slice that it has to find, and what it says of
what can't be computed."""

import csv
import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.test_comparison import look, rollout
from tests.adapters.unit_log import DAY, START, Bench, Row, outcome, row

from model_rollouts.adapters import comparison_facts
from model_rollouts.adapters.comparison import write_comparison
from model_rollouts.adapters.comparison_facts import NAMES, Asked, Facts, read_facts
from model_rollouts.adapters.comparison_queries import SLICE_SUMS
from model_rollouts.adapters.delta_log import REPEAT_SECONDS
from model_rollouts.adapters.log_places import EngineLog, LogRoot
from model_rollouts.adapters.postgres_engine import PostgresEngine
from model_rollouts.adapters.postgres_log import PostgresLog
from model_rollouts.core.decision import Decision, decide
from model_rollouts.core.evidence import LATENCY_BINS, Look, latency_bin

MATURITY = timedelta(minutes=20)
SLACK = DAY
HOURS = timedelta(hours=2)
END = START + HOURS
AS_OF = END + timedelta(minutes=5)


def asked(**changes: Any) -> Asked:
    return replace(Asked("delays", "ro", 1, START, END, AS_OF, MATURITY), **changes)


def random_rows(rng: random.Random, n: int) -> tuple[list[Row], list[Row]]:
    """A log with everything that can go wrong in it; binary labels and scores, and a few of other kinds."""
    predictions, outcomes = [], []
    for at in range(n):
        request_id = f"r{rng.randrange(n)}" if rng.random() < 0.4 else f"r-{at}"
        seconds = rng.uniform(-1000, HOURS.total_seconds() + 60)
        arm = rng.choice(["champion", "challenger"])
        made = row(
            request_id,
            round(seconds, 6),
            arm,
            stage=rng.choice([0, 1, 1, 1, 2]),
            cohort=arm if rng.random() < 0.9 else "champion",
            status=rng.choice(["ok"] * 8 + ["error", "timeout"]),
            latency_ms=rng.choice([0.001, math.nan, math.inf, 1e305, *[rng.lognormvariate(2, 1)] * 12]),
            prediction=rng.choice(["0", "1", "1", "0.5", "late", None]),
            score=rng.choice([None, math.nan, 0.0, 1.0, rng.random(), rng.random(), rng.uniform(-3, 4)]),
            served=rng.random() < 0.8,
            features={"x": rng.choice([math.nan, math.inf, rng.gauss(0, 1), rng.gauss(0, 1)])}
            | {'it\'s "t"{}': rng.choice(["a", "b'", "ü{x}", f"rare {at}"])},
        )
        predictions.append(made)
        if rng.random() < 0.2:  # again, soon or late
            later = seconds + rng.choice([0.0, 5.0, REPEAT_SECONDS - 0.5, REPEAT_SECONDS, 2000.0])
            predictions.append(made | {"ts": START + timedelta(seconds=round(later, 6)), "latency_ms": 7.0})
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            known = seconds + rng.choice([-90_000.0, -60.0, 0.0, 30.0, 1199.0, 1201.0, 90_000.0])
            label = rng.choice(["0", "1", "1", "0.25", "late", None])
            value = rng.choice([None, math.nan, 2e9, 1.5, -4.0])
            outcomes.append(outcome(request_id, round(known, 6), label, value))
    return predictions, outcomes


def us(moment: Any) -> int:
    return (moment - START) // timedelta(microseconds=1)


def evidence(predictions: Sequence[Row]) -> list[Row]:
    """The rows that count: of a request in a stage and arm, those that come long enough after the one before."""
    groups = defaultdict(list)
    for each in predictions:
        if each["arm"] == each["cohort"] and START - timedelta(seconds=REPEAT_SECONDS) <= each["ts"] < END:
            groups[each["stage"], each["request_id"], each["arm"]].append(each)

    def place(each: Row) -> tuple[Any, ...]:
        latency = math.inf if math.isnan(each["latency_ms"]) else each["latency_ms"]
        slow = (0, 0.0) if math.isnan(each["latency_ms"]) else (1, -latency)
        return us(each["ts"]), each["status"] == "ok", slow, each["prediction"] is None, each["prediction"] or ""

    kept = []
    for group in groups.values():
        before = None
        for each in sorted(group, key=place):
            if before is None or us(each["ts"]) - us(before["ts"]) >= REPEAT_SECONDS * 1_000_000:
                kept.append(each)
            before = each
    return [each for each in kept if each["ts"] >= START and each["stage"] <= 1]


def first(outcomes: Sequence[Row], each: Row, name: str) -> Row | None:
    found = [
        known
        for known in outcomes
        if known["request_id"] == each["request_id"]
        and each["ts"] - SLACK <= known["ts"] <= each["ts"] + MATURITY
        and known[name] is not None
        and (name == "label" or abs(known[name]) <= 1e9)
    ]
    return min(found, key=lambda known: (known["ts"], known[name]), default=None)


def number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def tallied(rows: Sequence[Row], outcomes: Sequence[Row]) -> dict[str, Any]:
    """The sums of some rows, one row after the other."""
    sums: dict[str, Any] = dict.fromkeys(NAMES, 0)
    for each in rows:
        ok, latency, score = each["status"] == "ok", each["latency_ms"], each["score"]
        failed = not ok or not math.isfinite(latency) or latency > 1e300 or latency_bin(latency) >= LATENCY_BINS
        due = ok and each["ts"] + MATURITY <= AS_OF
        label, value = (first(outcomes, each, name) if due else None for name in ("label", "value"))
        usable = ok and score is not None and math.isfinite(score)
        sums["requests"] += 1
        sums["errors"] += failed
        sums["due"] += due
        sums["scored"] += usable
        sums["score"] += score if usable else 0
        if not failed:
            sums["log_latency"] += math.log(max(latency, 0.01))
        if due and each["served"]:
            sums["value_due"] += 1
            sums["valued"] += value is not None
            sums["value"] += value["value"] if value else 0
        if label is None:
            continue
        text = label["label"]
        sums["labelled"] += 1
        sums["wrong"] += text != each["prediction"]
        sums["binary"] += text in ("0", "1")
        if text in ("0", "1") and usable:
            sums["judged"] += 1
            sums["miss"] += (score - int(text)) ** 2
        numbers = number(each["prediction"]), number(text)
        if None not in numbers:
            gap = numbers[0] - numbers[1]  # type: ignore[operator]
            sums["measured"] += 1
            sums["gap"] += gap
            sums["gap_size"] += abs(gap)
            sums["gap_4"] += gap**4
    return sums


CHECKED = [
    "requests",
    "errors",
    "due",
    "labelled",
    "wrong",
    "binary",
    "scored",
    "judged",
    "measured",
    "value_due",
    "valued",
]
FLOATS = ["score", "miss", "gap", "gap_size", "gap_4", "value", "log_latency"]
FLOATS_OF_SLICES = [name for name in FLOATS if name in SLICE_SUMS]


def check(found: Any, expected: dict[str, Any], floats: Sequence[str] = FLOATS) -> None:
    assert {name: found[name] for name in CHECKED} == {name: expected[name] for name in CHECKED}
    for name in floats:
        assert (found[name] or 0.0) == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("seed", [1, 2])
def test_the_sums_are_those_of_the_rows(log_root: LogRoot, seed: int) -> None:
    predictions, outcomes = random_rows(random.Random(seed), 400)
    log = Bench(log_root)
    log.predictions(*predictions)
    log.outcomes(*outcomes)
    facts = read_facts(log_root, asked())
    rows = evidence(predictions)
    assert {stage for stage, _ in facts.arms} == {0, 1}
    for (stage, arm), found in facts.arms.items():
        of = [each for each in rows if each["stage"] == stage and each["arm"] == arm]
        assert len(of) > 30
        check(found.sums, tallied(of, outcomes))
        assert sum(found.latency.values()) == found.sums["requests"] - found.sums["errors"]
        assert sum(found.delay.values()) == found.sums["labelled"]
        assert sum(each.n for each in found.scores) == found.sums["judged"]
        assert [each.bin for each in found.scores] == sorted(each.bin for each in found.scores)
    check_slices(facts, [each for each in rows if each["stage"] == 1], outcomes)


def check_slices(facts: Facts, rows: Sequence[Row], outcomes: Sequence[Row]) -> None:
    """Each dimension holds every row of the stage once, in the slice that its name says."""
    assert facts.columns == ('it\'s "t"{}', "x")
    texts = {part.label: part for part in facts.parts if part.dimension == facts.columns[0]}
    assert {"a", "b'", "ü{x}", "(other values)"} <= texts.keys()
    for label, part in texts.items():
        for arm, found in part.arms.items():
            of = [each for each in rows if each["arm"] == arm]
            shown = [each for each in of if each["features"][facts.columns[0]] == label]
            if label == "(other values)":
                shown = [each for each in of if each["features"][facts.columns[0]] not in texts]
            check(found, tallied(shown, outcomes), FLOATS_OF_SLICES)
            assert [found[name] for name in FLOATS if name not in SLICE_SUMS] == [None] * 3
    numbers = [part for part in facts.parts if part.dimension == "x"]
    assert {"(not finite)"} < {part.label for part in numbers}
    assert len(numbers) == 6
    for dimension in {part.dimension for part in facts.parts}:
        counted = sum(
            sums["requests"] for part in facts.parts if part.dimension == dimension for sums in part.arms.values()
        )
        assert counted == len(rows), dimension


def alike(found: Any, expected: Any) -> None:
    known = [{name: value for name, value in sums.items() if value is not None} for sums in (found, expected)]
    assert known[0] == pytest.approx(known[1], rel=1e-9, abs=1e-9)


def test_inside_of_postgresql_the_sums_are_the_same(postgres_server: str, tmp_path: Path) -> None:
    predictions, outcomes = random_rows(random.Random(3), 300)
    stored = PostgresLog(postgres_server, schema="compared inside")
    for root in (tmp_path, stored):
        log = Bench(root)
        log.predictions(*predictions)
        log.outcomes(*outcomes)
    expected, found = (read_facts(root, asked()) for root in (tmp_path, EngineLog(stored, PostgresEngine())))
    assert found.arms.keys() == expected.arms.keys()
    for place, arm in expected.arms.items():
        alike(found.arms[place].sums, arm.sums)
        assert (found.arms[place].latency, found.arms[place].delay) == (arm.latency, arm.delay)
        places = [[(s.bin, s.tenth, s.truth, s.n) for s in facts.arms[place].scores] for facts in (found, expected)]
        assert places[0] == places[1]
    slices = [{(part.dimension, part.label): part.arms for part in facts.parts} for facts in (found, expected)]
    assert slices[0].keys() == slices[1].keys()
    for part, arms in slices[1].items():
        for side, sums in arms.items():
            alike(slices[0][part][side], sums)


def test_the_log_of_another_rollout_is_not_read(log_root: LogRoot) -> None:
    log = Bench(log_root)
    assert read_facts(log_root, asked()).arms == {}
    log.predictions(row("a", 1, stage=1, rollout_id="other"), row("b", 1, stage=2), row("c", 1, stage=None))
    assert read_facts(log_root, asked()).arms == {}


def test_scores_keep_their_order_on_any_scale(log_root: LogRoot) -> None:
    scores = [-1e308, -1e6, -3.0, -1e-9, 0.0, 1e-300, 1e-9, 0.2, 0.5, 0.7, 1 - 1e-9, 1.0, 1.5, 40.0, 1e9, 1e308]
    log = Bench(log_root)
    log.predictions(*(row(f"{at}", at, stage=1, score=score) for at, score in enumerate(scores)))
    log.outcomes(*(outcome(f"{at}", at + 1, "1") for at in range(len(scores))))
    found = read_facts(log_root, asked()).arms[1, "champion"].scores
    in_order = [(each.bin, each.score / each.n) for each in sorted(found, key=lambda each: each.score / each.n)]
    assert in_order == sorted(in_order)
    assert len({each.bin for each in found}) >= len(scores) - 4  # the smallest fall together


def test_an_end_before_the_start_is_refused(log_root: LogRoot) -> None:
    with pytest.raises(ValueError, match="must be after the start"):
        read_facts(log_root, asked(end=START))


# --- the whole comparison


def stage_log(
    root: Path, n: int, bad: float = 0.0, seed: int = 5, share: float = 0.5
) -> tuple[Bench, list[Look], Decision]:
    """A stage of binary predictions; the challenger is wrong `bad` more often where the carrier is "B6"."""
    rng = random.Random(seed)
    rows, labels = [], []
    for at in range(n):
        arm = "challenger" if rng.random() < share else "champion"
        carrier = rng.choice(["AA", "B6", "UA", "DL"])
        score = rng.random()
        label = rng.random() < score
        if arm == "challenger" and carrier == "B6" and rng.random() < bad:
            score = 1 - score
        rows.append(
            row(
                f"q{at}",
                at * 119 / n,
                arm,
                prediction=str(int(score > 0.5)),
                score=score,
                latency_ms=rng.lognormvariate(2, 0.5),
                status="error" if rng.random() < 0.02 else "ok",
                features={"carrier": carrier, "distance": rng.gauss(0, 1)},
            )
        )
        labels.append(outcome(f"q{at}", at * 119 / n + 1, str(int(label)), rng.expovariate(1)))
    log = Bench(root / "log")
    log.predictions(*rows)
    log.outcomes(*labels)
    looks = [look(0), look(1)]
    return log, looks, decide(rollout().plan, 0, looks, 120.0)


def compared(
    root: Path, log: Bench, looks: list[Look], decision: Decision, **changes: Any
) -> tuple[dict[str, Any], str, dict[str, float]]:
    subject = rollout(**changes)
    late = START + timedelta(seconds=120 + subject.plan.label_maturity_seconds)
    result = write_comparison(subject, decision, looks, log.log, root / "out", late)
    document = json.loads(result.files[0].read_text())
    return document["all_rows"], result.files[1].read_text(), result.metrics


def test_a_planted_bad_slice_is_found_and_no_other_input(tmp_path: Path) -> None:
    rows, page, metrics = compared(tmp_path, *stage_log(tmp_path, 12_000, bad=0.8))
    found = [
        each for each in rows["slices"]["worst"] if each["finding"] and each["dimension"] in ("carrier", "distance")
    ]
    assert {(each["dimension"], each["slice"]) for each in found if each["dimension"] == "carrier"} == {
        ("carrier", "B6")
    }
    worst = rows["slices"]["worst"][0]
    assert (worst["dimension"], worst["slice"]) == ("carrier", "B6")
    assert worst["metric"] in ("wrong_rate", "brier")
    assert worst["effect"]["low"] > 0
    assert rows["slices"]["looked_at"] == 5 * (4 + 5)  # metrics, carriers and bands: hour and day are the whole stage
    assert {each["dimension"] for each in rows["slices"]["worst"]} == {"carrier", "distance"}
    assert rows["slices"]["correction"] == "Holm"
    assert "B6" in page
    assert "worse" in page
    assert metrics["slices_found"] == rows["slices"]["findings"]


def test_an_equal_challenger_has_no_bad_slice_and_honest_numbers(tmp_path: Path) -> None:
    rows, page, metrics = compared(tmp_path, *stage_log(tmp_path, 6_000))
    assert rows["slices"]["findings"] == 0
    stage = rows["stage"]["metrics"]
    assert stage["auc"]["champion"]["low"] < 5 / 6 < stage["auc"]["champion"]["high"]  # of scores that are true
    assert stage["brier"]["challenger"]["low"] < 1 / 6 < stage["brier"]["challenger"]["high"]
    assert stage["calibration_offset"]["champion"]["low"] < 0 < stage["calibration_offset"]["champion"]["high"]
    assert stage["value_mean"]["champion"]["low"] < 1 < stage["value_mean"]["champion"]["high"]
    assert stage["accuracy"]["difference"]["low"] < 0 < stage["accuracy"]["difference"]["high"]
    assert stage["mae"]["champion"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "reason": "every label is 0 or 1: accuracy tells the same",
    }
    assert "stage_champion_mae" not in metrics
    assert metrics["stage_champion_auc"] == stage["auc"]["champion"]["value"]
    assert rows["pairs"]["agreement"]["reason"] == "no request goes to both versions at a share of 10 %"
    assert len(page) < 1_000_000
    with (tmp_path / "out" / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["scope"] for line in lines} == {"stage", "rollout"}
    line = next(line for line in lines if line["metric"] == "accuracy" and line["scope"] == "stage")
    assert float(line["difference_value"]) == pytest.approx(stage["accuracy"]["difference"]["value"])


def test_regression_has_errors_of_size_and_no_classes(tmp_path: Path) -> None:
    log = Bench(tmp_path / "log")
    for arm, off in (("champion", 1.0), ("challenger", -3.0)):
        log.predictions(*(row(f"{arm}{at}", at, arm, prediction=str(at + off), score=at + off) for at in range(50)))
        log.outcomes(*(outcome(f"{arm}{at}", at + 1, f"{at}") for at in range(50)))
    looks = [look(0), look(1)]
    rows, _, _ = compared(tmp_path, log, looks, decide(rollout().plan, 0, looks, 120.0))
    stage = rows["stage"]["metrics"]
    assert [stage[name]["champion"]["value"] for name in ("mae", "rmse", "bias")] == [1.0, 1.0, 1.0]
    assert [stage[name]["challenger"]["value"] for name in ("mae", "rmse", "bias")] == [3.0, 3.0, -3.0]
    assert stage["bias"]["difference"]["value"] == -4.0
    for name in ("auc", "brier", "calibration_error"):
        assert stage[name]["champion"]["value"] is None
        assert "neither 0 nor 1" in stage[name]["champion"]["reason"]
    assert "reason" in rows["calibration"]


def test_scores_that_are_no_probabilities_have_an_area_and_no_calibration(tmp_path: Path) -> None:
    log = Bench(tmp_path / "log")
    log.predictions(*(row(f"c{at}", at, prediction="1", score=at - 20.0) for at in range(50)))
    log.outcomes(*(outcome(f"c{at}", at + 1, str(int(at > 25))) for at in range(50)))
    looks = [look(0), look(1)]
    rows, _, _ = compared(tmp_path, log, looks, decide(rollout().plan, 0, looks, 120.0))
    stage = rows["stage"]["metrics"]
    assert stage["auc"]["champion"]["value"] == 1.0
    assert stage["auc"]["champion"]["low"] < 0.9
    assert "no probabilities" in stage["brier"]["champion"]["reason"]
    assert stage["auc"]["difference"]["value"] is None
    assert stage["auc"]["difference"]["reason"] == "challenger: no label at all with a score"


def test_labels_count_by_the_maturity_rule_of_the_verdicts(tmp_path: Path) -> None:
    log = Bench(tmp_path / "log")
    maturity = rollout().plan.label_maturity_seconds
    log.predictions(*(row(f"c{at}", 0) for at in range(3)))
    log.outcomes(outcome("c0", maturity, "1"), outcome("c1", maturity + 0.000001, "1"), outcome("c2", -86401, "1"))
    looks = [look(0), look(1)]
    decision = decide(rollout().plan, 0, looks, 120.0)
    rows, _, _ = compared(tmp_path, log, looks, decision)
    coverage = rows["stage"]["metrics"]["label_coverage"]["champion"]
    assert (coverage["value"], coverage["n"]) == (pytest.approx(1 / 3), 3)
    early = write_comparison(rollout(), decision, looks, log.log, tmp_path, START + timedelta(seconds=maturity - 1))
    told = json.loads(early.files[0].read_text())["all_rows"]["stage"]["metrics"]
    assert told["label_coverage"]["champion"]["reason"] == "no label is due"
    assert told["accuracy"]["champion"]["reason"] == "no label has matured"


def test_agreement_is_of_requests_that_both_answered(tmp_path: Path) -> None:
    log = Bench(tmp_path / "log")
    for at in range(20):
        log.predictions(row(f"c{at}", at), row(f"c{at}", at, "challenger", prediction="1" if at < 15 else "0"))
    plan = rollout().plan
    first = plan.stages[0]
    mirrored = replace(first, share=0.0, mirror_percent=100.0, control_group=False, gates=first.gates[:1])
    plan = replace(plan, stages=(mirrored, *plan.stages[1:]))
    looks = [look(0), look(1)]
    rows, page, metrics = compared(tmp_path, log, looks, decide(plan, 0, looks, 120.0), plan=plan)
    assert (rows["pairs"]["paired"], rows["pairs"]["agreed"]) == (20, 15)
    assert metrics["stage_agreement"] == 0.75
    assert "Agreement: 75.00%" in page


@pytest.mark.parametrize(
    ("looks", "why"), [([], "no look of the stage is closed yet"), ([look(0)], "the log has no row")]
)
def test_a_stage_without_anything_is_not_compared_and_says_why(tmp_path: Path, looks: list[Look], why: str) -> None:
    log = Bench(tmp_path / "log")
    rows, page, metrics = compared(tmp_path, log, looks, decide(rollout().plan, 0, looks, 120.0))
    assert not rows["computed"]
    assert why in rows["reason"]
    assert f"Not computed: {why}" in page
    assert not [name for name in metrics if name.startswith("stage_")]


def test_names_from_the_log_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    log = Bench(tmp_path / "log")
    for arm in ("champion", "challenger"):
        log.predictions(*(row(f"{arm}{at}", at / 10, arm, features={evil: f"{evil}{at % 2}"}) for at in range(500)))
    looks = [look(0), look(1)]
    rows, page, _ = compared(tmp_path, log, looks, decide(rollout().plan, 0, looks, 120.0))
    assert rows["slices"]["worst"]
    assert "<script" not in page
    assert "&lt;script&gt;" in page


# --- the survey


def test_the_cuts_are_chosen_by_the_rows_with_the_least_hashes(
    log_root: LogRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions, _ = random_rows(random.Random(4), 2_000)
    Bench(log_root).predictions(*predictions)
    in_time = [each for each in predictions if START <= each["ts"] < END]
    of_stage = [each for each in in_time if each["stage"] == 1 and each["arm"] == each["cohort"]]
    assert read_facts(log_root, asked()).surveyed == len(of_stage)
    monkeypatch.setattr(comparison_facts, "SURVEY_ROWS", 100)
    monkeypatch.setattr(comparison_facts, "_MORE", 10.0)
    enough = read_facts(log_root, asked())
    monkeypatch.setattr(comparison_facts, "_MORE", 0.5)
    too_few = read_facts(log_root, asked())
    assert enough.surveyed == 100
    assert 20 < too_few.surveyed < 80


@pytest.mark.parametrize(("share", "above"), [(1.0, 0), (0.95, 0), (0.5, 450), (0.01, 989)])
def test_a_share_of_the_texts_has_hashes_up_to_a_bound(share: float, above: int) -> None:
    hashes = [hashlib.md5(str(at).encode(), usedforsecurity=False).hexdigest() for at in range(1_000)]
    assert sum(each > comparison_facts._hash_of(share) for each in hashes) == pytest.approx(above, abs=40)
