"""Look, decide, carry out: a real MLflow server and a real store; Airflow is a stand-in that keeps runs by their id."""

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.adapters.registry_snapshot import RestRegistry
from model_rollouts.adapters.sql_registry_changes import SqlRegistryChanges
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.registry_events import Response, RunRefusedError, UnknownDagError
from model_rollouts.core.registry_snapshot import Snapshot
from model_rollouts.core.rollout import Cause, Change, EventKind
from model_rollouts.registry_watch import Done, RegistryWatch, UnhandledChangesError, look_and_carry_out
from model_rollouts.service import RolloutService


@dataclass
class Runs:
    """Airflow's stand-in: a run's id is there once. `trouble` is raised before, `crash` after a run is made."""

    made: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    going: bool = True
    trouble: Exception | None = None
    crash: Exception | None = None
    asked: int = 0

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        known = (dag_id, run_id) in self.made
        self.made.setdefault((dag_id, run_id), dict(conf))
        if self.crash is not None:
            raise self.crash
        return not known

    def unfinished(self, dag_id: str, run_id: str) -> bool:
        return self.going and (dag_id, run_id) in self.made


@dataclass
class Registry:
    """One model of a real registry, with champion 1 and versions to challenge it."""

    url: str
    model: str
    client: Any

    def challenger(self, version: str | None) -> None:
        if version is None:
            self.client.delete_registered_model_alias(self.model, "challenger")
        else:
            self.client.set_registered_model_alias(self.model, "challenger", version)

    def tag(self, version: str, key: str, value: str) -> None:
        self.client.set_model_version_tag(self.model, version, key, value)

    def stage(self, version: str, stage: str) -> None:
        self.client.transition_model_version_stage(self.model, version, stage)


@pytest.fixture
def registry(mlflow_server: str) -> Registry:
    client, model = make_client(mlflow_server), f"m-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(model)
    for _ in range(3):
        client.create_model_version(model, source="s3://nowhere/model")
    client.set_registered_model_alias(model, "champion", "1")
    return Registry(mlflow_server, model, client)


@dataclass
class World:
    """A store, a registry and any number of watchers of it."""

    registry: Registry
    url: str
    runs: Runs
    now: datetime | None = None
    told: list[Done] = field(default_factory=list)

    @property
    def model(self) -> str:
        return self.registry.model

    def clock(self) -> datetime:
        return self.now or datetime.now(UTC)

    def watch(self, registry: Any = None) -> RegistryWatch:
        """Another process that watches."""
        rest = registry or RestRegistry(self.registry.url)
        return RegistryWatch(rest, SqlRegistryChanges(self.url), self.store, [self.model], clock=self.clock)

    @property
    def store(self) -> SqlStore:
        return SqlStore(self.url)

    def go(self) -> None:
        """What the DAG's task does."""
        look_and_carry_out(self.watch(), self.runs, tell=self.told.append)

    def pending(self) -> list[Any]:
        return self.watch().changes.pending()

    def started(self) -> list[tuple[str, str]]:
        """(DAG, version) of the runs that there are."""
        return [(dag_id, conf["challenger"]) for (dag_id, _), conf in self.runs.made.items()]

    def responses(self) -> list[Response]:
        return [done.intention.response for done in self.told]

    def adopt(self) -> None:
        self.store.apply(steps.adopt(self.model, "1", self.cause()))

    def cause(self) -> Cause:
        return Cause("test", datetime.now(UTC), "because")

    def start(self, version: str = "2", rollout_id: str = "") -> str:
        """A rollout, as a DAG's first task starts it."""
        rollout_id = rollout_id or f"r-{uuid.uuid4().hex[:8]}"
        traffic = self.store.traffic(self.model)
        assert traffic is not None
        plan = plan_canary(CanaryParameters(steps=(50, 100)))
        self.store.apply(steps.start(rollout_id, plan, version, "salt", traffic, self.cause()))
        return rollout_id

    def step(self, rollout_id: str, change: Callable[..., Change | None], *more: Any) -> None:
        traffic = self.store.traffic(self.model)
        assert traffic is not None
        made = change(self.store.rollout(rollout_id), traffic, *more, self.cause())
        assert made is not None
        self.store.apply(made)

    def sync(self, rollout_id: str, sync_stages: bool) -> None:
        """What every DAG does after a step."""
        written = MlflowRegistry(self.registry.url, sync_stages=sync_stages)
        RolloutService(self.store, written, evidence=self.store, log=None).sync_registry(rollout_id)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path, registry: Registry) -> Iterator[World]:
    made = World(registry, f"sqlite:///{tmp_path / 'store.db'}", Runs())
    made.store.migrate()
    made.watch().look()  # the model is known before a test begins to change it
    assert made.pending() == []
    return made


def test_the_alias_starts_one_rollout_however_often_one_looks(world: World) -> None:
    world.registry.challenger("2")

    for _ in range(3):
        world.go()

    assert world.started() == [("canary", "2")]
    assert list(world.runs.made.values()) == [{"model": world.model, "challenger": "2", "requested_by": "registry"}]
    assert world.responses() == [Response.START]
    assert world.runs.asked == 1


def test_setting_it_again_after_it_was_taken_away_starts_another_one(world: World) -> None:
    world.runs.going = False  # the first one fails at once
    for version in ("2", None, "2"):
        world.registry.challenger(version)
        world.go()

    assert world.started() == [("canary", "2")] * 2


def test_alias_tag_and_stage_at_one_moment_start_one_rollout(world: World) -> None:
    world.registry.tag("2", "rollout.request", "shadow")
    world.registry.challenger("2")
    world.registry.stage("2", "Staging")

    world.go()

    assert world.started() == [("shadow", "2")]
    assert sorted(world.responses()) == [Response.NOTHING, Response.NOTHING, Response.START]
    assert world.pending() == []


@pytest.mark.parametrize(("going", "expected"), [(True, 1), (False, 2)])
def test_a_tag_a_moment_after_the_alias_starts_another_one_only_if_the_first_has_failed(
    world: World, going: bool, expected: int
) -> None:
    world.registry.challenger("2")
    world.go()
    world.runs.going = going

    world.registry.tag("2", "rollout.request", "shadow")
    world.go()

    assert len(world.started()) == expected


def test_watchers_that_see_a_change_at_once_make_one_run(world: World) -> None:
    world.registry.challenger("2")
    start = threading.Barrier(4)

    def run(_: int) -> None:
        watch = world.watch()
        start.wait(timeout=10)
        look_and_carry_out(watch, world.runs)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))

    assert world.started() == [("canary", "2")]
    assert world.pending() == []


class Interrupted:
    """A registry that lets somebody else act between the reading and its return: a reader that is late."""

    def __init__(self, url: str, meanwhile: Callable[[], None]) -> None:
        self.rest = RestRegistry(url)
        self.meanwhile: Callable[[], None] | None = meanwhile

    def snapshots(self, models: Collection[str] | None = None) -> Mapping[str, Snapshot]:
        found = self.rest.snapshots(models)
        if self.meanwhile is not None:
            act, self.meanwhile = self.meanwhile, None
            act()
        return found


def test_a_late_reader_does_not_take_the_past_for_a_change(world: World) -> None:
    def meanwhile() -> None:
        world.registry.challenger("2")
        world.go()

    late = world.watch(Interrupted(world.registry.url, meanwhile))
    late.look()
    world.go()

    assert world.started() == [("canary", "2")]
    assert world.responses() == [Response.START]
    assert late.changes.seen()[world.model].snapshot.challenger == "2"


def test_a_change_that_was_recorded_before_a_crash_is_taken_up(world: World) -> None:
    world.registry.challenger("2")
    world.watch().look()

    world.go()

    assert world.started() == [("canary", "2")]


@pytest.mark.parametrize("made", [False, True])
def test_a_crash_before_or_after_the_run_is_made_leaves_one_run(world: World, made: bool) -> None:
    world.registry.challenger("2")
    gone = ConnectionError("Airflow's API is away")
    world.runs.crash, world.runs.trouble = (gone, None) if made else (None, gone)
    with pytest.raises(UnhandledChangesError, match="Airflow's API is away"):
        world.go()
    assert len(world.pending()) == 1
    world.runs.crash = world.runs.trouble = None

    world.go()

    assert world.started() == [("canary", "2")]
    assert world.pending() == []
    assert world.told[0].outcome.endswith("was there already") is made


@pytest.mark.parametrize("sync_stages", [False, True])
@pytest.mark.parametrize("look_between", [False, True])
def test_what_we_write_into_the_registry_ourselves_starts_nothing(
    world: World, sync_stages: bool, look_between: bool
) -> None:
    def written(rollout_id: str) -> None:
        world.sync(rollout_id, sync_stages)
        if look_between:
            world.go()

    world.adopt()
    first = world.start("2")
    written(first)
    world.step(first, steps.roll_back)
    written(first)
    second = world.start("3")
    written(second)
    for stage in (0, 1):
        world.step(second, steps.open_stage, stage)
        world.step(second, steps.clear, stage)
    written(second)
    world.step(second, steps.cut_over)
    written(second)
    world.step(second, steps.roll_back)  # a promotion is undone
    written(second)
    world.go()

    assert world.runs.made == {}
    assert set(world.responses()) <= {Response.NOTHING}
    assert not any(done.intention.reported for done in world.told)
    assert bool(world.told) is look_between or sync_stages


def test_a_registry_that_lagged_behind_the_end_of_a_rollout_does_not_start_it_anew(world: World) -> None:
    world.adopt()
    rollout_id = world.start("2")
    world.sync(rollout_id, sync_stages=False)
    world.step(rollout_id, steps.roll_back)  # and MLflow is away: the alias stays

    world.go()

    assert world.runs.made == {}
    (event,) = [e for e in world.store.events(world.model) if e.kind is EventKind.REPORTED]
    assert "may be left" in event.reason
    assert event.evidence["version"] == "2"


def test_a_store_that_was_lost_starts_nothing_that_was_there(world: World, tmp_path: Path) -> None:
    world.adopt()
    rollout_id = world.start("2")
    world.sync(rollout_id, sync_stages=True)
    world.registry.tag("2", "rollout.request", "canary")

    lost = World(world.registry, f"sqlite:///{tmp_path / 'new.db'}", Runs())
    lost.store.migrate()
    lost.go()

    assert lost.runs.made == {}
    assert lost.responses() == [Response.NOTHING] * 2


def test_a_request_that_was_there_before_the_first_look_counts(tmp_path: Path, registry: Registry) -> None:
    registry.tag("2", "rollout.request", "gradual")
    fresh = World(registry, f"sqlite:///{tmp_path / 'new.db'}", Runs())
    fresh.store.migrate()

    fresh.go()

    assert fresh.started() == [("gradual", "2")]


def test_a_model_registered_after_the_watch_began_is_news_altogether(world: World) -> None:
    other = World(Registry(world.registry.url, f"{world.model}-new", world.registry.client), world.url, world.runs)
    client = world.registry.client
    client.create_registered_model(other.model)
    for alias in ("champion", "challenger"):
        version = client.create_model_version(other.model, source="s3://nowhere/model").version
        client.set_registered_model_alias(other.model, alias, version)

    other.go()

    assert other.started() == [("canary", "2")]


def test_a_refused_run_is_put_down_reported_and_not_tried_again(world: World) -> None:
    world.adopt()
    world.registry.challenger("2")
    world.runs.trouble = RunRefusedError("DAG canary is paused")

    world.go()
    world.go()

    assert world.runs.asked == 1
    assert world.responses() == [Response.REFUSED]
    (event,) = [e for e in world.store.events(world.model) if e.kind is EventKind.REPORTED]
    assert "DAG canary is paused" in event.reason
    assert world.store.traffic(world.model).revision == 1


def test_a_dag_that_is_not_there_yet_is_waited_for_and_then_refused(world: World) -> None:
    world.registry.challenger("2")
    world.runs.trouble = UnknownDagError("Airflow has no DAG canary")
    with pytest.raises(UnhandledChangesError):
        world.go()

    world.now = datetime.now(UTC) + timedelta(minutes=6)
    world.go()

    assert world.responses() == [Response.REFUSED]
    assert world.pending() == []


def test_what_can_not_be_done_for_an_hour_is_given_up(world: World) -> None:
    world.registry.challenger("2")
    world.runs.trouble = ConnectionError("away")
    with pytest.raises(UnhandledChangesError):
        world.go()

    world.now = datetime.now(UTC) + timedelta(minutes=61)
    world.go()

    assert world.responses() == [Response.REFUSED]
    assert "given up" in world.told[0].outcome


def test_where_nobody_can_be_told_what_people_must_hear_of_is_left_to_others(world: World) -> None:
    world.registry.challenger("2")
    world.runs.trouble = RunRefusedError("DAG canary is paused")

    look_and_carry_out(world.watch(), world.runs)
    assert len(world.pending()) == 1
    world.go()

    assert world.responses() == [Response.REFUSED]


class Away:
    def snapshots(self, models: Collection[str] | None = None) -> Mapping[str, Snapshot]:
        raise NotReadyError("the registry is away")


def test_while_the_registry_is_away_a_rollback_goes_on_and_a_start_waits(world: World) -> None:
    world.adopt()
    world.start("3")
    world.registry.stage("3", "Archived")
    world.registry.tag("2", "rollout.request", "canary")
    world.watch().look()

    with pytest.raises(UnhandledChangesError, match="the registry is away"):
        look_and_carry_out(world.watch(Away()), world.runs, tell=world.told.append)

    assert [dag_id for dag_id, _ in world.runs.made] == ["rollback"]
    assert [(change.change.version, change.intention) for change in world.pending()] == [("2", None)]


def test_a_rollback_that_was_asked_for_before_the_rollout_began_comes_after_it(world: World) -> None:
    world.adopt()
    world.registry.challenger("2")
    world.go()
    world.registry.stage("2", "Archived")
    world.go()
    assert len(world.pending()) == 1

    world.start("2")
    world.go()

    assert [dag_id for dag_id, _ in world.runs.made] == ["canary", "rollback"]
    assert world.pending() == []


def test_one_models_trouble_does_not_hold_up_another(world: World, tmp_path: Path) -> None:
    client, other = world.registry.client, f"a-{world.model}"  # comes first
    client.create_registered_model(other)
    for alias in ("champion", "challenger"):
        version = client.create_model_version(other, source="s3://nowhere/model").version
        client.set_registered_model_alias(other, alias, version)
    world.registry.challenger("2")
    changes = SqlRegistryChanges(world.url)
    watch = RegistryWatch(RestRegistry(world.registry.url), changes, world.store, [world.model, other])
    watch.look()

    class Picky(Runs):
        def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
            if conf["model"] == other:
                raise ConnectionError("away")
            return super().trigger(dag_id, run_id, conf)

    runs = Picky()
    with pytest.raises(UnhandledChangesError, match=other):
        watch.carry_out(runs)

    assert [conf["model"] for conf in runs.made.values()] == [world.model]


def test_models_that_are_not_watched_are_left_alone(world: World) -> None:
    watch = world.watch()

    assert watch.watches(world.model)
    assert not watch.watches("other")
    assert RegistryWatch(watch.registry, watch.changes, watch.store).watches("any")


def test_a_run_id_is_one_that_airflow_takes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    import re

    caplog.set_level(logging.INFO)
    odd = World(Registry(world.registry.url, f"ünï cödé & {world.model}", world.registry.client), world.url, Runs())
    client = world.registry.client
    client.create_registered_model(odd.model)
    for alias in ("champion", "challenger"):
        version = client.create_model_version(odd.model, source="s3://nowhere/model").version
        client.set_registered_model_alias(odd.model, alias, version)

    odd.go()

    ((_, run_id),) = odd.runs.made
    assert re.fullmatch(r"[A-Za-z0-9_.~:+-]+", run_id)
    assert len(run_id) <= 250
