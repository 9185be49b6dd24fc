"""The comparison that goes with a verdict: its numbers, its page, and what it says when little is known."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.adapters.comparison import wilson, write_comparison
from model_rollouts.adapters.delta_log import DeltaLogWriter, DeltaPredictionLog, LogReadError, table_path
from model_rollouts.core.decision import decide
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts, latency_bin
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Rollout, State

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAST, SLOW = latency_bin(10.0), latency_bin(200.0)


def rollout(**changes: Any) -> Rollout:
    plan = plan_canary(CanaryParameters(steps=(10, 100), look_seconds=60))
    made = Rollout(
        id="ro",
        model="delays",
        champion="3",
        challenger="4",
        plan=plan,
        state=State.BAKING,
        stage=0,
        salt="s",
        revision=2,
        created_at=START,
        created_by="test",
        opened_at=START,
        judged_from=START,
    )
    return replace(made, **changes)


def look(index: int, *, labels: bool = True) -> Look:
    return Look(
        0,
        index,
        RequestCounts(100, 2, {FAST: 90, SLOW: 8}),
        RequestCounts(10, 1, {FAST: 9}),
        LabelCounts(98, 90, 9) if labels else None,
        LabelCounts(9, 8, 2) if labels else None,
    )


def write(
    root: Path, looks: list[Look], log: DeltaPredictionLog | None = None, **changes: Any
) -> tuple[dict[str, Any], str, dict[str, float]]:
    subject = rollout(**changes)
    decision = decide(subject.plan, 0, looks, 120.0)
    result = write_comparison(subject, decision, looks, log or DeltaPredictionLog(root / "log"), root / "out")
    assert [file.name for file in result.files] == ["comparison.json", "comparison.html", "comparison.csv"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(result.files[0].read_text(), parse_constant=refuse)
    return document, result.files[1].read_text(), result.metrics


def scored(root: Path) -> DeltaPredictionLog:
    def row(request_id: str, arm: str, at: float, score: float) -> dict[str, Any]:
        return {
            "request_id": request_id,
            "ts": START + timedelta(seconds=at),
            "model": "delays",
            "version": "3",
            "arm": arm,
            "cohort": arm,
            "served": True,
            "rollout_id": "ro",
            "stage": 0,
            "status": "ok",
            "latency_ms": 1.0,
            "prediction": "1",
            "score": score,
            "gateway_id": "g1",
            "traffic_revision": 1,
        }

    rows = [row("a", "champion", 1, 0.2), row("b", "champion", 2, 0.4), row("c", "challenger", 3, 0.9)]
    rows.append(row("late", "champion", 121, 9.0))  # after the last closed look
    DeltaLogWriter(root / "log", "g1").append("delays", "predictions", rows, 0)
    return DeltaPredictionLog(root / "log")


def test_the_arms_numbers_are_sums_of_the_looks(tmp_path: Path) -> None:
    document, _, metrics = write(tmp_path, [look(0), look(1)], scored(tmp_path))
    champion, challenger = document["arms"]["champion"], document["arms"]["challenger"]
    assert (champion["requests"], champion["errors"]["count"], champion["errors"]["rate"]) == (200, 4, 0.02)
    assert (challenger["requests"], challenger["labelled"], challenger["due"]) == (20, 16, 18)
    assert champion["accuracy"]["rate"] == 0.9
    assert challenger["coverage"] == pytest.approx(16 / 18)
    assert (champion["scores"], champion["mean_score"]) == (2, pytest.approx(0.3))
    assert metrics["challenger_error_rate"] == 0.1
    assert metrics["challenger_mean_score"] == 0.9
    assert metrics["champion_accuracy"] == 0.9
    assert document["decision"]["gates"][0]["measured"]["challenger_n"] == 20


def test_latency_quantiles_are_at_most_one_bin_too_slow_and_never_too_fast(tmp_path: Path) -> None:
    document, page, metrics = write(tmp_path, [look(0)])
    latency = document["arms"]["champion"]["latency_ms"]
    assert 10.0 <= latency["p50"] <= 10.0 * 1.02**2
    assert 200.0 <= latency["p95"] <= 200.0 * 1.02**2
    assert metrics["champion_latency_p99_ms"] == latency["p99"]
    assert document["latency_bin_width"] == 0.02
    assert "each 2% wide" in page


def test_the_stage_is_told_apart_from_the_rollout(tmp_path: Path) -> None:
    subject = rollout(stage=1, opened_at=START + timedelta(minutes=5))
    looks = [look(0), replace(look(0), stage=1)]
    decision = decide(subject.plan, 1, looks, 60.0)
    result = write_comparison(subject, decision, looks, DeltaPredictionLog(tmp_path / "log"), tmp_path)
    document = json.loads(result.files[0].read_text())
    assert document["arms"]["challenger"]["requests"] == 20
    assert document["stage_arms"]["challenger"]["requests"] == 10
    assert (document["stage"], document["share"]) == (1, 100.0)


def test_nothing_known_is_said_and_never_a_zero_rate(tmp_path: Path) -> None:
    document, page, metrics = write(tmp_path, [])
    champion = document["arms"]["champion"]
    assert (champion["errors"]["rate"], champion["accuracy"]["rate"], champion["coverage"]) == (None, None, None)
    assert champion["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert "none yet" in page
    assert "champion_error_rate" not in metrics
    assert metrics["challenger_requests"] == 0


def test_labels_that_have_not_matured_are_none_due(tmp_path: Path) -> None:
    document, page, metrics = write(tmp_path, [look(0, labels=False)])
    assert document["arms"]["champion"]["coverage"] is None
    assert "none due" in page
    assert "champion_accuracy" not in metrics


def test_evidence_beyond_a_float_is_shown_and_left_out_of_the_metrics(tmp_path: Path) -> None:
    looks = [Look(0, 0, RequestCounts(10**6, 0, {FAST: 10**6}), RequestCounts(10**5, 10**5))]
    subject = rollout()
    decision = decide(subject.plan, 0, looks, 120.0)
    first = decision.gates[0]
    gates = (replace(first, measured=replace(first.measured, log_e_pass=-math.inf)), *decision.gates[1:])
    log = DeltaPredictionLog(tmp_path / "log")
    result = write_comparison(subject, replace(decision, gates=gates), looks, log, tmp_path)
    assert "error_rate_log_e_pass" not in result.metrics
    assert result.metrics["error_rate_log_e_harm"] > 1000
    page = result.files[1].read_text()
    assert "fail: roll back" in page
    assert "0 of 20" in page
    assert json.loads(result.files[0].read_text())["decision"]["gates"][0]["measured"]["log_e_pass"] == "-inf"


def test_a_log_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    table_path(tmp_path / "log", "delays", "predictions").mkdir(parents=True)
    with pytest.raises(LogReadError):
        write(tmp_path, [look(0)])


def test_the_page_is_self_contained_well_formed_and_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    _, page, _ = write(tmp_path, [look(0), look(1)], id=evil, champion=evil)
    assert "<img" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page
    assert page.count("<circle") == 4  # two rates of two arms
    assert 'aria-label="error rate, champion: 2.00%' in page
    open_tags: list[str] = []

    class Walk(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag != "meta":
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Walk().feed(page)
    assert open_tags == []


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [  # R: prop.test(count, of, correct = FALSE)
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 10, 0.01787621, 0.4041500),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_intervals_are_wilsons(count: int, of: int, low: float, high: float) -> None:
    rate = wilson(count, of)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@pytest.mark.parametrize(("count", "of"), [(-1, 10), (11, 10)])
def test_an_impossible_share_is_refused(count: int, of: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count} of {of}, must be between 0 and {of}"):
        wilson(count, of)
