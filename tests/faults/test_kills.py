"""kill -9 of every process at every task boundary of canaries: each one is promoted all the same, and nobody notices.

A boundary is where Airflow's database says that a task runs, or that the watch is deferred: the one before it has
ended, and this one has not. A worker is LocalExecutor's process that runs the task; the task dies with it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tests.faults.callers import Callers
from tests.faults.canaries import (
    MODEL,
    PATIENCE,
    calling,
    check_callers,
    check_promoted,
    ended,
    following,
    serves,
    start,
)
from tests.faults.kills import strike_worker
from tests.faults.record import FULL, shown
from tests.faults.stack import GATEWAYS, Stack

from model_rollouts.core.rollout import State

pytestmark = pytest.mark.timeout(3600 if FULL else 1200)

WORKER, SCHEDULER, POSTGRES, TRIGGERER, GATEWAY, MLFLOW = KINDS = (
    "worker",
    "airflow-scheduler",
    "postgresql",
    "airflow-triggerer",
    "gateway",
    "mlflow",
)
API_SERVER = "airflow-api-server"  # where there is no worker to kill
STAGE = ("preflight", "acknowledge", "shift_traffic", "watch", "deferred", "compare", "validate_data", "drift_report",
    "approve", "decide", "end")  # fmt: skip

#: Three canaries of two stages come by every pair of a boundary and a process once.
CANARIES = 3 if FULL else 1
STEPS = (50, 100) if FULL else (100,)
SMALL = {"preflight": GATEWAY, "shift_traffic": SCHEDULER, "deferred": TRIGGERER, "compare": WORKER, "decide": POSTGRES,
    "end": MLFLOW}  # fmt: skip
MOST_MISSED = 0.2  # of the points: the task had gone on, or what was to be killed was down


@dataclass(frozen=True)
class Point:
    """Where what is killed."""

    canary: int
    stage: int
    boundary: str
    kind: str

    @property
    def task(self) -> str:
        """The task of the boundary."""
        if self.boundary == "deferred":
            return "watch"
        if self.boundary == "end":
            return "cut_over" if self.stage == len(STEPS) - 1 else "expand"
        return self.boundary

    @property
    def states(self) -> tuple[str, ...]:
        """The task's states there."""
        return {"deferred": ("deferred",), "watch": ("running",)}.get(self.boundary, ("running", "deferred"))

    def __str__(self) -> str:
        return f"{self.kind.removeprefix('airflow-')} at {self.boundary} of stage {self.stage + 1}"


def points(canary: int) -> Iterator[Point]:
    """In the order in which a canary comes by them."""
    for stage in range(len(STEPS)):
        for position, boundary in enumerate(STAGE):
            kind = KINDS[(position + canary + 3 * stage) % len(KINDS)] if FULL else SMALL.get(boundary, "")
            if kind == WORKER and boundary == "deferred":
                kind = API_SERVER
            if kind:
                yield Point(canary, stage, boundary, kind)


class Killer:
    """Goes with one canary from boundary to boundary."""

    def __init__(self, stack: Stack, rollout: str, first_run: str) -> None:
        self._stack, self._rollout, self._first = stack, rollout, first_run
        self._gateway = 0
        self.hit: list[Point] = []
        self.missed: list[Point] = []
        self.gateway_kills = 0

    def strike(self, point: Point) -> None:
        """Wait for the boundary, and kill. What was over, or was down, when it came to that is missed."""
        run = self._first if point.stage == 0 else f"{self._rollout}--stage-{point.stage + 1}"
        what = f"{point.boundary} of stage {point.stage + 1}"
        self._stack.until(what, lambda: self._reached(run, point), PATIENCE)
        if point.kind == GATEWAY:
            self._wait_other_gateway()
        found = self._stack.until(what, lambda: self._stack.task("canary", run, point.task), PATIENCE)
        hit = found["state"] in point.states and self._kill(point.kind, found)
        (self.hit if hit else self.missed).append(point)

    def _kill(self, kind: str, task: dict[str, Any]) -> bool:
        if kind == WORKER:
            return task["state"] == "running" and bool(task["pid"]) and strike_worker(int(task["pid"]))
        if kind != GATEWAY:
            return self._stack.kill(kind)
        hit = self._stack.kill(GATEWAYS[self._gateway % 2])
        self._gateway += 1
        self.gateway_kills += hit
        return hit

    def _reached(self, run: str, point: Point) -> bool:
        """Whether the task is there or past it; a rollout that has ended otherwise does not get there any more."""
        state = self._stack.task("canary", run, point.task).get("state")
        here = ("deferred",) if point.boundary == "deferred" else ("running", "deferred")
        if state in (*here, "success", "failed", "skipped"):
            return True
        self._require_alive()
        return False

    def _require_alive(self) -> None:
        known = [each for each in self._stack.store.rollouts(MODEL) if each.id == self._rollout]
        if known and known[0].state in (State.HOLDING, State.ROLLED_BACK):
            raise AssertionError(f"{self._rollout} is {known[0].state}: {known[0].reason}")

    def _wait_other_gateway(self) -> None:
        """One dies at a time, in turn: callers have two, not none."""
        other = GATEWAYS[(self._gateway + 1) % 2]
        self._stack.until("other gateway", lambda: serves(self._stack, other), 120)


@pytest.mark.parametrize("canary", range(CANARIES))
def test_a_canary_is_promoted_whatever_is_killed_at_whichever_of_its_tasks(serving: Stack, canary: int) -> None:
    stack, all_points = serving, list(points(canary))
    held = (
        "promoted; shares sum to 100 in every event and no traffic moved without one; no stage opened twice; aliases; "
        "one MLflow run a stage; every answer logged once, dealt as its revision says; no caller without an answer"
    )
    with shown(f"kill -9 at task boundaries of a canary ({canary + 1} of {CANARIES})", held) as line:
        with calling(stack, f"kills{canary}") as callers:
            run, rollout = start(stack, following(stack), STEPS)
            killer = Killer(stack, rollout.id, run)
            for point in all_points:
                killer.strike(point)
                line.times, line.result = len(killer.hit), f"got to {point}; missed: {_named(killer.missed)}"
            rollout = ended(stack, rollout)
        check_promoted(stack, rollout)
        check_callers(stack, callers, [rollout], killer.gateway_kills)
        line.result = _told(stack, killer.hit, killer.missed, callers)
        assert len(killer.missed) <= MOST_MISSED * len(all_points), "too many boundaries were over too soon"


def _told(stack: Stack, hit: Sequence[Point], missed: Sequence[Point], callers: Callers) -> str:
    kinds = ", ".join(f"{kind.removeprefix('airflow-')} {n}" for kind, n in Counter(p.kind for p in hit).most_common())
    fell = sum(stack.falls.values())
    return (
        f"{kinds}; missed: {_named(missed)}; "
        f"{len(callers.requests):,} requests, {len(callers.lost)} without an answer, "
        f"{sum(callers.left.values())} answered by the other gateway; {fell} processes fell with another one and were "
        "started again"
    )


def _named(missed: Sequence[Point]) -> str:
    return ", ".join(map(str, missed)) or "none"
