"""The comparison over all rows of a stage whose requests were scored in a task, beside counting them one by one."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.log_kinds import damage

from model_rollouts.adapters import comparison_offline
from model_rollouts.adapters.comparison import write_comparison
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.core.decision import decide
from model_rollouts.core.evidence import Look, RequestCounts
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow
from model_rollouts.core.rollout import Rollout, State

OPENED = datetime(2026, 3, 10, tzinfo=UTC)
AS_OF = OPENED + timedelta(days=3)
ODD = 'of "{x}"'
PLAN = replace(plan_shadow(ShadowParameters(offline=True)), label_maturity_seconds=3_600.0)
MADE: Any = ("ro", "m", "3", "4", PLAN, State.BAKING, 0, "s", 1, OPENED, "test")
ROLLOUT = Rollout(*MADE, opened_at=OPENED, judged_from=OPENED)
ROWS = 600
SINCE = OPENED - timedelta(days=7) - timedelta(hours=1)  # as the sample of the requests: days, and the labels' maturity


def champion(at: int, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": f"r{at}", "ts": OPENED - timedelta(hours=1, minutes=at), "model": "m", "version": "3",
        "arm": "champion", "cohort": None, "served": True, "rollout_id": None, "stage": None, "unit_id": f"u{at}",
        "status": "error" if at % 100 == 0 else "ok", "latency_ms": 5.0 + at % 7, "score": (at % 10) / 10,
        "prediction": None if at % 100 == 0 else str(at % 2), "gateway_id": "g1", "traffic_revision": 7,
        "features": {"x": float(at % 50), ODD: "late" if at % 3 else "early"},
    } | changes  # fmt: skip


def challenger(at: int, **changes: Any) -> dict[str, Any]:
    """Scored in batches of 200; wrong for each tenth, failed for each fiftieth; the last ones could not be asked."""
    failed = at % 50 == 0
    own = {
        "ts": OPENED + timedelta(minutes=at // 200), "version": "4", "arm": "challenger", "rollout_id": "ro",
        "stage": 0, "cohort": "challenger" if at < 580 else None, "served": False,
        "status": "error" if failed else "ok", "prediction": None if failed else str((at + (at % 10 == 1)) % 2),
        "score": None if failed else 0.5,
        "latency_ms": 900.0, "gateway_id": "offline",
    }  # fmt: skip
    return champion(at) | own | changes


@pytest.fixture
def write(log_root: LogRoot) -> Callable[..., None]:
    numbers = iter(range(9))

    def write(table: Any, *rows: dict[str, Any]) -> None:
        assert log_appender(log_root, "g1").append("m", table, rows, next(numbers))

    return write


def told(root: LogRoot, out: Path, since: datetime | None = SINCE) -> Any:
    looks = [Look(0, 0, RequestCounts(600, 6), RequestCounts(600, 12))]
    decision = decide(PLAN, 0, looks, 60.0)
    made = write_comparison(ROLLOUT, decision, looks, DeltaPredictionLog(root), out, AS_OF, requests_from=since)
    return json.loads(made.files[0].read_text())["all_rows"], made.metrics


def test_every_scored_request_counts_for_both(log_root: LogRoot, write: Callable[..., None], tmp_path: Path) -> None:
    write("predictions", *map(champion, range(ROWS)))
    write("predictions", champion(7, ts=OPENED - timedelta(days=20), traffic_revision=9, prediction="0"))
    write("predictions", champion(10_000), champion(3, version="2", prediction="0"))  # never scored; another version's
    write("predictions", *map(challenger, range(ROWS)))
    write("predictions", challenger(5, rollout_id="another", prediction="9"), challenger(5, stage=1, prediction="9"))
    write(
        "outcomes",
        *({"request_id": f"r{at}", "ts": champion(at)["ts"] + timedelta(minutes=9), "label": str(at % 2)}
          for at in range(0, ROWS, 2)),
    )  # fmt: skip
    rows, metrics = told(log_root, tmp_path / "out")
    assert rows["computed"] is True, rows["reason"]
    asked = range(580)
    assert metrics["stage_champion_error_rate"] == pytest.approx(sum(at % 100 == 0 for at in asked) / 580)
    assert metrics["stage_challenger_error_rate"] == pytest.approx(sum(at % 50 == 0 for at in asked) / 580)
    both = [at for at in asked if at % 50]
    paired = [at for at in asked if at % 100]
    assert len(paired) > len(both)  # the champion answered, the challenger failed: that is no agreement
    assert rows["pairs"]["agreement"]["value"] == pytest.approx(sum(at % 10 != 1 for at in both) / len(paired))
    right = [at % 10 != 1 for at in both if at % 2 == 0]
    assert metrics["stage_challenger_accuracy"] == pytest.approx(sum(right) / len(right))
    assert metrics["stage_champion_accuracy"] == 1.0
    assert metrics["stage_champion_latency_p50_ms"] == metrics["stage_challenger_latency_p50_ms"]
    assert rows["slices"]["looked_at"] > 0


def other(at: int, ts: datetime) -> dict[str, Any]:
    """A request of another day with the same id, answered otherwise."""
    answer = str((at // 10 + at) % 2)
    return champion(at, ts=ts, status="ok", prediction=answer, features={"x": 9.0, ODD: "late"})


def test_ids_that_come_back_are_paired_with_the_request_that_was_scored(
    log_root: LogRoot, write: Callable[..., None], tmp_path: Path
) -> None:
    write("predictions", *map(champion, range(ROWS)))
    write("predictions", *map(challenger, range(ROWS)))
    alone, metrics = told(log_root, tmp_path / "alone")
    agreement = alone["pairs"]["agreement"]["value"]
    assert 0.8 < agreement < 0.95
    for at in (SINCE - timedelta(days=33), SINCE - timedelta(hours=1), OPENED + timedelta(hours=1)):
        write("predictions", *(other(each, at) for each in range(ROWS)))  # a daily batch, before and since
    again, same = told(log_root, tmp_path / "again")
    assert (again["pairs"], same) == (alone["pairs"], pytest.approx(metrics))
    write("predictions", *(other(each, SINCE + timedelta(hours=1)) for each in range(ROWS)))  # now it is the first
    wrong, _ = told(log_root, tmp_path / "wrong")
    assert wrong["pairs"]["agreement"]["value"] != pytest.approx(agreement, abs=0.2)


def test_a_repeat_of_a_request_from_before_the_time_is_not_the_first(
    log_root: LogRoot, write: Callable[..., None], tmp_path: Path
) -> None:
    """As in the sample: the request was asked a minute before the time, and once more in it."""
    write("predictions", *map(champion, range(ROWS)), *map(challenger, range(ROWS)))
    alone, metrics = told(log_root, tmp_path / "alone")
    write("predictions", *(other(each, SINCE - timedelta(minutes=1)) for each in range(ROWS)))
    write("predictions", *(other(each, SINCE + timedelta(minutes=1)) for each in range(ROWS)))
    again, same = told(log_root, tmp_path / "again")
    assert (again["pairs"], same) == (alone["pairs"], pytest.approx(metrics))


def test_files_of_before_the_time_are_not_read(
    log_root: LogRoot, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("predictions", *map(champion, range(ROWS)), *map(challenger, range(ROWS)))
    read: list[datetime] = []
    run = comparison_offline.run_local

    def watched(sql: str, tables: Any, given: Any) -> Any:
        read.extend(start for _, start, _ in tables.values())
        return run(sql, tables, given)

    monkeypatch.setattr(comparison_offline, "run_local", watched)
    told(log_root, tmp_path / "out")
    assert min(read) >= SINCE - timedelta(minutes=15)


def test_where_it_is_not_known_which_requests_were_scored_nothing_is_compared(
    log_root: LogRoot, write: Callable[..., None], tmp_path: Path
) -> None:
    write("predictions", *map(champion, range(ROWS)), *map(challenger, range(ROWS)))
    rows, metrics = told(log_root, tmp_path / "out", None)
    assert (rows["computed"], "stage_agreement" in metrics) == (False, False)
    assert rows["reason"].startswith("from when on requests were scored is not known")


def test_what_is_not_scored_yet_is_said(log_root: LogRoot, write: Callable[..., None], tmp_path: Path) -> None:
    assert told(log_root, tmp_path / "out")[0] == {
        "computed": False, "reason": "no request of the offline stage is scored yet",
    }  # fmt: skip
    write("predictions", *map(champion, range(50)))
    assert told(log_root, tmp_path / "out")[0]["computed"] is False
    write("predictions", challenger(590))  # which could not be asked
    assert told(log_root, tmp_path / "out")[0]["computed"] is False
    damage(log_root, "m", "predictions")
    with pytest.raises(LogReadError):
        told(log_root, tmp_path / "out")
