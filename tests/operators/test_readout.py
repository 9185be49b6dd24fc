"""The task that reads an A/B test out: what it leaves in the stage's run, and what it says to the decision."""

import random
from pathlib import Path
from typing import Any

import pytest
from tests.operators.report_world import World, make_world

from model_rollouts.adapters.delta_files import LogReadError
from model_rollouts.adapters.delta_log import table_path
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.operators.readout import ReadoutOperator

GATES = (Gate(Metric.VALUE, Role.OBJECTIVE, coverage=0.8), Gate(Metric.ERROR_RATE, Role.TRIPWIRE))
STAGE = Stage(share=50.0, gates=GATES, bake_seconds=0.0, deadline_seconds=86_400.0)


@pytest.fixture
def world(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    plan = Plan(Pattern.AB_TEST, (STAGE,), label_maturity_seconds=30.0)
    return make_world(plan, mlflow_server, tmp_path, monkeypatch)


def dealt(world: World, lift: float, stray: int = 0) -> None:
    """200 units with two requests each, dealt to the arms; some are in both."""
    dice = random.Random(3)
    rows: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    for u in range(200):
        for k in range(2):
            arm = "challenger" if (u + (k if u < stray else 0)) % 2 else "champion"
            rows.append(world.row(f"u{u}k{k}", u + k, arm, unit_id=f"u{u}"))
            value = 10 * (1 + lift * (arm == "challenger")) + dice.gauss(0, 1)
            known = {"request_id": f"u{u}k{k}", "ts": rows[-1]["ts"], "label": "1", "value": value}
            outcomes.append(known)
    world.log("predictions", rows)
    world.log("outcomes", outcomes)


def read_out(world: World) -> dict[str, Any]:
    return world.report(ReadoutOperator(task_id="readout"))


@pytest.mark.parametrize(("lift", "verdict"), [(0.1, "winner"), (0.0, "no difference"), (-0.1, "loser")])
def test_whatever_came_of_the_test_is_a_readout(world: World, lift: float, verdict: str) -> None:
    dealt(world, lift)
    result = read_out(world)
    assert result["state"] == "ok"
    assert result["detail"].startswith(f"{verdict}: value per request ")
    run = world.run()
    assert {"readout.json", "readout.html"} <= world.artifacts()
    low, high = (run.data.metrics[f"readout_value_per_request_relative_{end}"] for end in ("low", "high"))
    assert low < lift < high
    assert run.data.tags["rollout.readout"] == "ok"


def test_units_in_both_arms_fail_the_check(world: World) -> None:
    dealt(world, 0.1, stray=3)
    result = read_out(world)
    assert result["state"] == "failed"
    assert "3 of 200 units were in both arms (1.50%)" in result["detail"]
    assert "readout.html" in world.artifacts()


def test_a_stage_without_values_is_missing(world: World) -> None:
    world.log("predictions", [world.row(f"r{u}", 1, ("champion", "challenger")[u % 2]) for u in range(100)])
    result = read_out(world)
    assert result["state"] == "missing"
    assert "readout_value_per_request_low" not in world.run().data.metrics


def test_a_log_that_can_not_be_read_fails_the_task(world: World) -> None:
    table_path(world.wiring.settings.log_dir, world.model, "predictions").mkdir(parents=True)
    with pytest.raises(LogReadError):
        read_out(world)
