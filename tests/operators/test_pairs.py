"""The task that compares pairs: what it leaves in the stage's run, and what it says to the decision."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.operators.report_world import Row, World, make_world

from model_rollouts.adapters.delta_files import LogReadError
from model_rollouts.adapters.delta_log import table_path
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.operators.pairs import ComparePairsOperator, settled_window

GATES = (Gate(Metric.AGREEMENT), Gate(Metric.ERROR_RATE))
STAGE = Stage(share=0.0, gates=GATES, bake_seconds=0.0, deadline_seconds=7200.0, mirror_percent=100.0)


@pytest.fixture
def world(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    plan = Plan(Pattern.SHADOW, (STAGE,), grace_seconds=300.0)
    return make_world(plan, mlflow_server, tmp_path, monkeypatch)


def pair(world: World, name: str, at: float, theirs: str = "1") -> list[Row]:
    return [world.row(name, at, "champion"), world.row(name, at, "challenger", served=False, prediction=theirs)]


def test_pairs_become_artifacts_metrics_and_a_state(world: World) -> None:
    rows = [each for i in range(20) for each in pair(world, f"r{i}", i, "0" if i == 0 else "1")]
    world.log("predictions", rows)
    result = world.report(ComparePairsOperator(task_id="compare_pairs"))
    assert result == {"state": "ok", "detail": "19 of 20 pairs agree (95.00%, 76.39% to 99.11%)"}
    run = world.run()
    assert {"pairs.json", "pairs.html"} <= world.artifacts()
    assert (run.data.metrics["pairs_agreement"], run.data.metrics["pairs_dropped"]) == (0.95, 0)
    assert run.data.tags["rollout.compare_pairs"] == "ok"


def test_a_stage_without_pairs_is_missing(world: World) -> None:
    world.log("predictions", [world.row("alone", 1, "champion")])
    result = world.report(ComparePairsOperator(task_id="compare_pairs"))
    assert result["state"] == "missing"
    assert "pairs_agreement" not in world.run().data.metrics
    assert "pairs.html" in world.artifacts()


def test_a_log_that_can_not_be_read_fails_the_task(world: World) -> None:
    table_path(world.wiring.settings.log_dir, world.model, "predictions").mkdir(parents=True)
    with pytest.raises(LogReadError):
        world.report(ComparePairsOperator(task_id="compare_pairs"))


def test_what_may_not_be_written_yet_is_not_taken_for_dropped(world: World) -> None:
    before = datetime.now(UTC)
    start, end = settled_window(world.wiring.store.rollout(world.id))
    assert start == world.opened_at
    assert before <= end + timedelta(seconds=300) <= datetime.now(UTC)
    now = (before - world.opened_at).total_seconds()
    world.log("predictions", [*pair(world, "a", 1.0), world.row("just now", now, "champion")])
    world.report(ComparePairsOperator(task_id="compare_pairs"))
    assert world.run().data.metrics["pairs_asked"] == 1
