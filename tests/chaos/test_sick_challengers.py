"""Challengers that fail in every way they can: callers never notice, and the log and the store have all of it.

The registry is stopped before the first of them gets traffic, and there is no Airflow: a gateway and its store are all
that it takes to be safe from a challenger, and to roll it back.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.chaos.client import Asked, Client
from tests.chaos.world import (
    FULL,
    MOST_MS,
    VERSIONS,
    MlflowServer,
    drained,
    failed,
    logged,
    p99,
    raised,
    say,
    shares,
    slow,
    status,
)

from bench.mlflow_at import mlflow_at
from bench.serving import MODEL, GatewayProcess, Mover, serving
from model_rollouts.core.bucketing import in_share
from model_rollouts.core.rollout import Event, EventKind, State

pytestmark = pytest.mark.timeout(1800 if FULL else 300)

RATE, SHARE = 100.0, 50.0
SECONDS = 30.0 if FULL else 3.0
#: While it is stuck in one call it fails once in CHALLENGER_SECONDS, and it takes ten of those.
SLEEPER_SECONDS = 30.0 if FULL else 15.0
BURST = 10  # failures in a row that trip the breaker, by default
CHALLENGER_SECONDS = 1.0  # after which the champion answers, by default
MEMORY_MB = 1000
GROWING_SECONDS = 60.0  # at 5 MB a call it has reached the bound long before
GIVEN_BACK_SECONDS = 30.0  # its worker keeps it until that has been idle for a while
_TOLD_SECONDS = 20.0  # until the store has what a gateway found out
_SALT = "salt"  # of all of Mover's rollouts
_SICK = ("raises", "sleeps", "nan", "long", "exits", "grows")


def _model(name: str) -> str:
    return f"sick-{name}"


@dataclass
class World:
    """One gateway with a model for each sick challenger, all loaded, and the registry gone."""

    root: Path
    gateway: GatewayProcess
    movers: dict[str, Mover]


@dataclass
class Seen:
    """What came of a load."""

    asked: Sequence[Asked]
    rows: pd.DataFrame
    events: Sequence[Event]
    state: State
    began: float
    wall: float = field(default_factory=time.time)

    @property
    def failures(self) -> pd.DataFrame:
        """The challenger's failures."""
        return self.rows[(self.rows["arm"] == "challenger") & (self.rows["status"] != "ok")]

    @property
    def rolled_back(self) -> Event:
        """The one event of that kind."""
        (event,) = [each for each in self.events if each.kind is EventKind.ROLLED_BACK]
        return event

    @property
    def tripped(self) -> float:
        """When the rollback was in the store, `time.monotonic()`."""
        return self.rolled_back.at.timestamp() - self.wall + self.began


@pytest.fixture(scope="module")
def world(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import mlflow

    with mlflow_at(registry):
        client = mlflow.MlflowClient()
        sources = {str(v.version): v.source for v in client.search_model_versions(f"name='{MODEL}'")}
        for name in _SICK:
            client.create_registered_model(_model(name))
            for version in ("champion", name):
                client.create_model_version(_model(name), sources[VERSIONS[version]])
            client.set_registered_model_alias(_model(name), "champion", "1")
    root = tmp_path_factory.mktemp("sick")
    server = MlflowServer(root, registry)
    models = "[" + ", ".join(f'"{_model(name)}"' for name in _SICK) + "]"
    more: dict[str, Any] = {"MODEL_ROLLOUTS_MODELS": models, "MODEL_ROLLOUTS_MAX_MEMORY_MB": str(MEMORY_MB)}
    try:
        server.start()
        with serving(root, server.url, model=_model(_SICK[0]), **more) as (gateway, mover):
            movers = {name: Mover(mover.store, _model(name)) for name in _SICK}
            gateway.wait(lambda: all(mover.store.traffic(each.model) is not None for each in movers.values()))
            for each in movers.values():
                each.start(shares(SHARE), "2")
            gateway.wait(lambda: all(each.is_ready(gateway.url) for each in movers.values()))
            server.stop()
            yield World(root, gateway, movers)
    finally:
        server.stop()


def _load(world: World, name: str, *, until: State, seconds: float = SECONDS) -> Seen:
    mover = world.movers[name]
    wall, began = time.time(), mover.open()
    world.gateway.wait(lambda: mover.is_ready(world.gateway.url))
    asked = Client(f"{world.gateway.url}/models/{mover.model}/invocations", RATE, name).run_for(seconds)
    world.gateway.wait(lambda: drained(world.gateway))
    world.gateway.wait(lambda: mover.store.rollout(mover.rollout_id).state is until, _TOLD_SECONDS)
    rows = logged(world.root, mover.model)
    events = mover.store.events(rollout_id=mover.rollout_id)
    return Seen(asked, rows, events, mover.store.rollout(mover.rollout_id).state, began, wall)


def _check(seen: Seen) -> None:
    """No caller noticed, and the log has all that was seen."""
    assert not failed(seen.asked)
    assert [each.prediction for each in seen.asked] == [2 * each.x for each in seen.asked]
    rows = seen.rows
    assert not rows.duplicated(["request_id", "arm"]).any()
    served = rows[rows["served"]].set_index("request_id")
    assert set(served.index) == {each.request_id for each in seen.asked}
    assert not served.index.duplicated().any()
    assert (served["status"] == "ok").all()
    assert [served["version"][each.request_id] for each in seen.asked] == [each.version for each in seen.asked]
    failures = seen.failures
    assert not failures["served"].any()
    assert set(failures["request_id"]) <= set(served[served["arm"] == "champion"].index)
    assert failures["error"].notna().all()
    unserved = rows[~rows["served"]]
    assert set(unserved["request_id"]) == set(failures["request_id"]), "nothing else is not served"


def _check_trip(seen: Seen, name: str, kind: str, says: str) -> None:
    """It was out after a burst, and the store has the rollback with its proof."""
    event = seen.rolled_back
    assert seen.state is State.ROLLED_BACK
    assert event.actor == "gateway g1"
    proof = event.evidence["breaker"]
    assert (proof["failures"], proof["burst"], proof["share"]) == (BURST, BURST, SHARE)
    assert says in event.reason
    failures = seen.failures
    assert len(failures) >= BURST
    assert set(failures["status"]) == {kind}
    assert (seen.rows["arm"] == "challenger").sum() == len(failures), "it never gave a right answer"
    # Those that were with it when it tripped may still fail; nobody else is sent there.
    names = set(failures["request_id"])
    last = max(number for number, each in enumerate(seen.asked) if each.request_id in names)
    after = seen.asked[last + 1 :]
    assert len(after) > RATE
    assert {each.version for each in after} == {"1"}
    say(
        f"sick-{name}",
        requests=len(seen.asked),
        failures_logged=len(failures),
        failed_requests=len(failed(seen.asked)),
        seconds_to_rollback_in_store=seen.tripped - seen.began,
        p99_ms=p99(seen.asked),
        p99_ms_afterwards=p99(after),
        most_ms=max(each.ms for each in seen.asked),
    )


def test_one_that_raises_on_three_rows_in_ten_is_answered_for_and_does_not_trip_the_breaker(world: World) -> None:
    seen = _load(world, "raises", until=State.BAKING)
    _check(seen)
    challenged = {each.request_id for each in seen.asked if in_share(_SALT, each.unit, SHARE)}
    raising = {each.request_id for each in seen.asked if raised(each.x)} & challenged
    assert 0.2 * len(challenged) < len(raising) < 0.4 * len(challenged)
    assert set(seen.failures["request_id"]) == raising, "exactly those rows are its failures"
    assert set(seen.failures["status"]) == {"error"}
    assert set(seen.failures["error"]) == {"ValueError: three of ten"}
    assert {each.request_id for each in seen.asked if each.version == "2"} == challenged - raising
    assert seen.state is State.BAKING
    assert EventKind.ROLLED_BACK not in {event.kind for event in seen.events}
    assert slow(seen.asked) < MOST_MS
    say(
        "sick-raises", requests=len(seen.asked), failures_logged=len(raising), failed_requests=0, p99_ms=p99(seen.asked)
    )


def test_one_that_sleeps_costs_callers_no_more_than_its_time_and_is_out_after_ten_times_that(world: World) -> None:
    seen = _load(world, "sleeps", until=State.ROLLED_BACK, seconds=SLEEPER_SECONDS)
    _check(seen)
    _check_trip(seen, "sleeps", "timeout", "")
    assert slow(seen.asked) < CHALLENGER_SECONDS * 1000 + MOST_MS
    first = seen.asked[0].due
    stuck = [
        each for each in seen.asked if 1.5 * CHALLENGER_SECONDS < each.due - first < 0.8 * BURST * CHALLENGER_SECONDS
    ]
    assert slow(stuck) < MOST_MS, "nobody waits for one that is known to be stuck"
    assert seen.tripped - seen.began < 1.5 * BURST * CHALLENGER_SECONDS
    over = [each for each in seen.asked if each.due > seen.tripped + CHALLENGER_SECONDS]
    assert len(over) > RATE
    assert slow(over) < MOST_MS, "as fast as before"


@pytest.mark.parametrize(
    ("name", "says"), [("nan", "nan"), ("long", "answers"), ("exits", "SystemExit")], ids=lambda value: value
)
def test_one_that_never_answers_right_is_out_after_ten(world: World, name: str, says: str) -> None:
    seen = _load(world, name, until=State.ROLLED_BACK)
    _check(seen)
    _check_trip(seen, name, "error", says)
    assert len(seen.failures) < 3 * BURST
    assert slow(seen.asked) < MOST_MS


def test_one_that_keeps_memory_is_unloaded_before_the_process_dies_of_it(world: World) -> None:
    gateway, mover = world.gateway, world.movers["grows"]
    before = _memory_mb(gateway, "VmRSS")
    mover.open()
    gateway.wait(lambda: mover.is_ready(gateway.url))
    with Client(f"{gateway.url}/models/{mover.model}/invocations", RATE, "grows") as client:
        gateway.wait(lambda: mover.store.rollout(mover.rollout_id).state is State.ROLLED_BACK, GROWING_SECONDS)
        told = time.monotonic()
        gateway.wait(lambda: _memory_mb(gateway, "VmRSS") < MEMORY_MB, GIVEN_BACK_SECONDS)
        given_back = time.monotonic() - told
        time.sleep(CHALLENGER_SECONDS)
    asked = client.asked
    gateway.wait(lambda: drained(gateway))
    after, most = (_memory_mb(gateway, name) for name in ("VmRSS", "VmHWM"))
    event = mover.store.events(rollout_id=mover.rollout_id)[-1]
    named = status(gateway)["models"][mover.model]["versions"]
    rows = logged(world.root, mover.model)
    served = rows[rows["served"]]
    say(
        "sick-grows",
        bound_mb=MEMORY_MB,
        before_mb=before,
        most_mb=most,
        after_mb=after,
        seconds_until_given_back=given_back,
        requests=len(asked),
        by_challenger=int((served["arm"] == "challenger").sum()),
        p99_ms=p99(asked),
        most_ms=max(each.ms for each in asked),
    )
    assert not failed(asked)
    assert slow(asked) < MOST_MS
    assert [each.prediction for each in asked] == [2 * each.x for each in asked]
    assert sorted(served["request_id"]) == sorted(each.request_id for each in asked)
    assert before < MEMORY_MB, "there was room for it"
    assert (served["arm"] == "challenger").sum() > 20, "it did serve"
    assert (event.kind, event.actor) == (EventKind.ROLLED_BACK, "gateway g1")
    assert event.evidence["evicted"]["version"] == "2"
    assert f"must be at most {MEMORY_MB} MB" in event.reason
    assert named == {"1": "ready"}
    assert {each.version for each in asked if each.sent > told + CHALLENGER_SECONDS} == {"1"}
    assert after < MEMORY_MB
    assert most < 3 * MEMORY_MB, "what it takes in the seconds until it is out comes on top"


def _memory_mb(gateway: GatewayProcess, name: str) -> float:
    assert gateway.process is not None
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
