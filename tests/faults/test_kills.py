"""kill -9 of every process at every task boundary of canaries: each one is promoted all the same, and nobody notices.

A boundary is where Airflow's database says that a task runs, or that the watch is deferred: the one before it has
ended, and this one has not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tests.faults.callers import Callers
from tests.faults.promises import check_audit, check_deals, check_log, check_stages, logged
from tests.faults.record import FULL, shown
from tests.faults.stack import GATEWAYS, Stack, struck

from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.rollout import EventKind, Rollout, State

pytestmark = pytest.mark.timeout(1500 if FULL else 400)

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

#: Three canaries of two stages meet every pair of a boundary and a process once.
CANARIES = 3 if FULL else 1
STEPS = (50, 100) if FULL else (100,)
SMALL = {"preflight": GATEWAY, "shift_traffic": SCHEDULER, "deferred": TRIGGERER, "compare": WORKER, "decide": POSTGRES,
    "end": MLFLOW}  # fmt: skip
RATE = 40.0
PATIENCE = 240.0  # for the next boundary, on machines that do other things too
MODEL = "kills"
FORM: dict[str, Any] = {
    "steps": list(STEPS),
    "bake_seconds": 3,
    "deadline_seconds": 900,
    "look_seconds": 1.5,
    "grace_seconds": 4,
    "label_maturity_seconds": 5,
    "label_coverage": 0,
    "control_percent": 40,
    "negligible_error_rate": 0.1,
    "min_requests": 30,
    "latency_slack_ms": 5000,  # how fast two cores are while they start everything anew is no matter of this test
    "golden_requests": 0,
    "may_be_missing": ["accuracy", "latency", "errors", "drift", "business"],
    "requested_by": "test",
}


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
        """Wait for the boundary, and kill."""
        run = self._first if point.stage == 0 else f"{self._rollout}--stage-{point.stage + 1}"
        what = f"{point.boundary} of stage {point.stage + 1}"
        found = self._stack.until(what, lambda: self._reached(run, point), PATIENCE)
        struck_one = found["state"] in ("running", "deferred")
        if point.kind == WORKER:
            struck_one = found["state"] == "running" and bool(found["pid"]) and struck(int(found["pid"]))
        elif point.kind == GATEWAY:
            self._one_gateway()
        else:
            self._stack.kill(point.kind)
        (self.hit if struck_one else self.missed).append(point)

    def _reached(self, run: str, point: Point) -> dict[str, Any]:
        """The task when it is there or past it; a rollout that has ended otherwise does not get there any more."""
        found = self._stack.task("canary", run, point.task)
        state = found.get("state")
        here = ("deferred",) if point.boundary == "deferred" else ("running", "deferred")
        if state in (*here, "success", "failed", "skipped"):
            return found
        self._require_alive()
        return {}

    def _require_alive(self) -> None:
        known = [each for each in self._stack.store.rollouts(MODEL) if each.id == self._rollout]
        if known and known[0].state in (State.HOLDING, State.ROLLED_BACK):
            raise AssertionError(f"{self._rollout} is {known[0].state}: {known[0].reason}")

    def _one_gateway(self) -> None:
        """One at a time, in turn: callers have two, not none."""
        names = GATEWAYS[self._gateway % 2], GATEWAYS[(self._gateway + 1) % 2]
        self._stack.until("other gateway", lambda: serves(self._stack, names[1]), 120)
        self._stack.kill(names[0])
        self._gateway += 1
        self.gateway_kills += 1


def serves(stack: Stack, gateway: str) -> bool:
    """Whether a gateway answers for the model."""
    url = stack.gateway_urls[GATEWAYS.index(gateway)]
    try:
        (revision,) = GatewayClient(url).routed(MODEL).values()
    except NotReadyError:
        return False
    return revision is not None


def drained(stack: Stack) -> bool:
    """Whether everything that was answered is in the log."""
    import requests

    said = [requests.get(f"{url}/status", timeout=10).json() for url in stack.gateway_urls]
    return all(each["spool"]["bytes"] == 0 and each["mirror"]["waiting"] == 0 for each in said)


def start(stack: Stack, challenger: str, **more: Any) -> tuple[str, Rollout]:
    """A canary; gives its first run and the rollout."""
    known = {each.id for each in stack.store.rollouts(MODEL)}
    form = {"model": MODEL, "challenger": challenger, **FORM, **more}
    run = stack.until("Airflow that takes a run", lambda: stack.api.trigger("canary", form), 60)
    fresh = lambda: [each for each in stack.store.rollouts(MODEL) if each.id not in known]  # noqa: E731
    return run, stack.until("rollout", fresh, PATIENCE)[0]


def ended(stack: Stack, rollout: Rollout) -> Rollout:
    """The rollout when it has ended, and its runs with it."""
    stack.until(f"end of {rollout.id}", lambda: not stack.store.rollout(rollout.id).active, PATIENCE)
    stack.until("end of its runs", lambda: not stack.unfinished("canary"), PATIENCE)
    return stack.store.rollout(rollout.id)


def stage_runs(stack: Stack, rollout: Rollout) -> Counter[str]:
    """How many MLflow runs each stage has."""
    from mlflow import MlflowClient

    client = MlflowClient(stack.config.mlflow_url, stack.config.mlflow_url)
    experiment = client.get_experiment_by_name(f"rollouts/{MODEL}")
    found = client.search_runs([experiment.experiment_id], f"tags.`rollout.id` = '{rollout.id}'")
    return Counter(run.data.tags["rollout.stage"] for run in found)


def _check_promoted(stack: Stack, rollout: Rollout) -> None:
    assert rollout.state is State.PROMOTED, f"{rollout.id} is {rollout.state}: {rollout.reason}"
    check_stages(stack.store, rollout)
    kinds = Counter(event.kind for event in stack.store.events(rollout_id=rollout.id))
    assert kinds[EventKind.STAGE_OPENED] == kinds[EventKind.CLEARED] == len(STEPS)
    assert kinds[EventKind.CUT_OVER] == 1
    assert kinds[EventKind.HELD] == kinds[EventKind.ROLLED_BACK] == 0
    traffic = stack.store.traffic(MODEL)
    assert traffic is not None
    assert (traffic.champion, traffic.previous, traffic.challenger, traffic.share) == (
        rollout.challenger,
        rollout.champion,
        None,
        0,
    )
    wanted = {"champion": rollout.challenger, "previous": rollout.champion}
    stack.until(f"aliases {wanted}", lambda: stack.aliases(MODEL) == wanted, 60)
    assert stage_runs(stack, rollout) == {str(stage): 1 for stage in range(len(STEPS))}


@pytest.fixture(scope="module")
def model(airflow: Stack) -> Stack:
    """A model that serves, with a challenger for each canary."""
    airflow.register(MODEL, [0.0] * (CANARIES + 1))
    airflow.wiring().service.adopt(MODEL, "test")
    for name in GATEWAYS:
        airflow.until(f"model on {name}", lambda name=name: serves(airflow, name), 60)
    return airflow


def test_a_canary_is_promoted_whatever_is_killed_at_whichever_of_its_tasks(model: Stack) -> None:
    stack, killers, rollouts = model, [], []
    held = (
        "promoted; shares sum to 100 in every event and no traffic moved without one; no stage opened twice; aliases; "
        "one MLflow run a stage; every answer logged once, dealt as its revision says; no caller without an answer"
    )
    with shown("kill -9 at task boundaries of canaries", held) as line:
        with Callers(stack.gateway_urls, MODEL, RATE, "kills") as callers:
            for canary in range(CANARIES):
                run, rollout = start(stack, str(canary + 2))
                killer = Killer(stack, rollout.id, run)
                for point in points(canary):
                    killer.strike(point)
                killers.append(killer)
                rollouts.append(ended(stack, rollout))
                _check_promoted(stack, rollouts[-1])
        hit = [point for killer in killers for point in killer.hit]
        line.times = len(hit)
        line.result = _told(stack, hit, callers)
        _check_rest(stack, callers, rollouts, sum(killer.gateway_kills for killer in killers))
        missed = [f"{p.kind} at {p.boundary}" for killer in killers for p in killer.missed]
        print("missed:", missed)
        assert len(hit) >= (40 if FULL else 5), f"too many boundaries were over too soon: {missed}"


def _told(stack: Stack, hit: Sequence[Point], callers: Callers) -> str:
    kinds = ", ".join(f"{kind.removeprefix('airflow-')} {n}" for kind, n in Counter(p.kind for p in hit).most_common())
    fell = sum(stack.falls.values())
    return (
        f"{kinds}; {len(callers.requests):,} requests, {len(callers.lost)} without an answer, "
        f"{sum(callers.left.values())} answered by the other gateway; {fell} processes fell with another one and were "
        "started again"
    )


def _check_rest(stack: Stack, callers: Callers, rollouts: Sequence[Rollout], kills: int) -> None:
    stack.wait_ready(*GATEWAYS)
    stack.until("whole log", lambda: drained(stack), 60)
    assert not callers.lost, f"{len(callers.lost)} callers got no answer: {callers.left}"
    assert set(callers.left) <= {"broken", "503"}, f"callers saw {callers.left}"
    assert all(each.prediction == int(each.x > 0) for each in callers.requests)
    events = check_audit(stack.store, MODEL)
    rows = logged(stack.log_dir, MODEL)
    check_log(rows, callers.requests, kills)
    assert check_deals(rows, events, {each.id: each for each in rollouts}) > 100
