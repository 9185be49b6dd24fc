"""Rollouts in Prometheus' text format, worked out from the store when somebody asks. Names: docs/rollout-metrics.md."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from model_rollouts.adapters import sql_tables as tables
from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_migrate import require_schema
from model_rollouts.adapters.sql_rows import to_rollout, to_traffic
from model_rollouts.core.rollout import ACTIVE, EventKind, Rollout, State
from model_rollouts.core.traffic import Traffic

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_PREFIX = "model_rollouts_"
_ROLES = ("champion", "challenger", "previous")
_WATCHED = frozenset(
    {State.BAKING, State.HOLDING}
)  # looks are counted while a stage is open, and not after it has passed
_Values = Mapping[Any, float]

logger = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class RolloutMetrics:
    """All of it, at each call as the store has it then.

    Args:
        url: The rollout store's.
        clock: Current time, UTC.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = _now) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(Database(url), clock))

    def render(self) -> bytes:
        """The text. Where the store is away it says that, and nothing else: a missing number is no 0."""
        return generate_latest(self._registry)


class _Families(Collector):
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            families = list(self._read())
        except Exception as error:  # what can't be read is told as that
            logger.warning("the rollout store can't be read: %s", type(error).__name__)
            families = []
        yield _gauge("store_up", "Whether the rollout store could be read", {(): float(bool(families))})
        yield from families

    def _read(self) -> Iterator[Metric]:
        require_schema(self._database)
        now = self._clock()
        with self._database.read() as connection:
            traffic = [to_traffic(row) for row in connection.execute(sa.select(tables.traffic)).mappings()]
            newest = _newest(connection)
            looks = _looks(connection, newest)
            events = connection.execute(
                sa.select(tables.events.c.model, tables.events.c.kind, sa.func.count()).group_by(
                    tables.events.c.model, tables.events.c.kind
                )
            ).all()
            counted = connection.execute(
                sa.select(tables.rollouts.c.model, tables.rollouts.c.state, sa.func.count()).group_by(
                    tables.rollouts.c.model, tables.rollouts.c.state
                )
            ).all()
            latest = connection.execute(
                sa.select(tables.events.c.model, sa.func.max(tables.events.c.at)).group_by(tables.events.c.model)
            ).all()
        yield from _of_traffic(traffic)
        yield from _of_rollouts(newest, now)
        yield from _of_looks(newest, looks, now)
        # A counter that begins with 1 has not increased: Prometheus has to see the 0 before the first rollback.
        told = {(row.model, kind.value): 0 for row in traffic for kind in EventKind} | {(m, k): n for m, k, n in events}
        yield _counter("events", "Steps and notes of the audit", told, "model", "kind")
        yield _gauge("rollouts", "Rollouts so far, by state", {(m, s): n for m, s, n in counted}, "model", "state")
        ages = {(model,): _seconds(now - at) for model, at in latest}
        yield _gauge("last_event_age_seconds", "Since anything happened to the model", ages, "model")


def _newest(connection: sa.Connection) -> list[Rollout]:
    """Each model's active rollout, or else its last one."""
    number = (
        sa.func.row_number()
        .over(
            partition_by=tables.rollouts.c.model,
            order_by=(tables.rollouts.c.created_at.desc(), tables.rollouts.c.id.desc()),
        )
        .label("number")
    )
    numbered = sa.select(tables.rollouts.c.id, number).subquery()
    query = sa.select(tables.rollouts).where(
        tables.rollouts.c.id.in_(sa.select(numbered.c.id).where(numbered.c.number == 1))
    )
    return [to_rollout(row) for row in connection.execute(query).mappings()]


def _looks(connection: sa.Connection, newest: Sequence[Rollout]) -> dict[str, int]:
    """The last look of each open stage, by rollout; none where there is none yet."""
    found = {}
    for rollout in newest:
        if rollout.state not in ACTIVE or rollout.stage < 0:
            continue
        query = sa.select(sa.func.max(tables.looks.c.look)).where(
            tables.looks.c.rollout_id == rollout.id, tables.looks.c.stage == rollout.stage
        )
        if (last := connection.execute(query).scalar()) is not None:
            found[rollout.id] = int(last)
    return found


def _of_traffic(traffic: Sequence[Traffic]) -> Iterator[Metric]:
    shares = {(row.model,): row.share for row in traffic}
    yield _gauge("traffic_share_percent", "The challenger's share of the units", shares, "model")
    mirrored = {(row.model,): row.mirror_percent for row in traffic}
    yield _gauge("traffic_mirror_percent", "Requests that the challenger answers unseen", mirrored, "model")
    revisions = {(row.model,): float(row.revision) for row in traffic}
    yield _gauge("traffic_revision", "Revision of the traffic row", revisions, "model")
    versions = {
        (row.model, role, str(version)): 1.0 for row in traffic for role in _ROLES if (version := getattr(row, role))
    }
    yield _gauge("version", "1 for the version that has a role", versions, "model", "role", "version")


def _of_rollouts(newest: Sequence[Rollout], now: datetime) -> Iterator[Metric]:
    states = {(r.model, r.plan.pattern, state): float(r.state is state) for r in newest for state in State}
    yield _gauge("state", "1 for the state of the newest rollout", states, "model", "pattern", "state")
    active = [r for r in newest if r.active]
    yield _gauge(
        "stage", "Open stage, from 1; 0 before the first", {(r.model,): r.stage + 1.0 for r in active}, "model"
    )
    counts = {(r.model,): float(len(r.plan.stages)) for r in active}
    yield _gauge("stages", "Stages of the plan", counts, "model")
    ages = {(r.model,): _seconds(now - r.created_at) for r in active}
    yield _gauge("rollout_age_seconds", "Since the rollout under way began", ages, "model")
    opened = {(r.model,): _seconds(now - r.opened_at) for r in active if r.opened_at}
    yield _gauge("stage_age_seconds", "Since the open stage's traffic moved", opened, "model")
    left = {
        (r.model,): r.plan.stage(r.stage).deadline_seconds - _seconds(now - r.judged_from)
        for r in active
        if r.state is State.BAKING and r.judged_from
    }
    yield _gauge("deadline_left_seconds", "Until the open stage's deadline; below 0 after it", left, "model")


def _of_looks(newest: Sequence[Rollout], looks: Mapping[str, int], now: datetime) -> Iterator[Metric]:
    known = [(r, looks[r.id]) for r in newest if r.id in looks and r.opened_at]
    counts = {(r.model,): last + 1.0 for r, last in known}
    yield _gauge("stage_looks", "Looks of the open stage that were counted", counts, "model")
    since = [
        (r, _seconds(now - r.opened_at) - (looks.get(r.id, -1) + 1) * r.plan.look_seconds)
        for r in newest
        if r.active and r.opened_at and not r.plan.stage(r.stage).offline
    ]
    ages = {(r.model,): age for r, age in since if r.id in looks}
    yield _gauge("look_age_seconds", "Since the end of the last look that was counted", ages, "model")
    overdue = {
        (r.model,): max(0.0, age - r.plan.look_seconds - r.plan.grace_seconds)
        for r, age in since
        if r.state in _WATCHED
    }
    yield _gauge("look_overdue_seconds", "Since the next look could have been counted; 0 before it", overdue, "model")


def _seconds(length: timedelta) -> float:
    return length.total_seconds()


def _gauge(name: str, text: str, values: _Values, *labels: str) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric([str(part) for part in key], float(value))
    return family


def _counter(name: str, text: str, values: Mapping[Any, int], *labels: str) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric([str(part) for part in key], value)
    return family
