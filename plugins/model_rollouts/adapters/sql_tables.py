"""Tables of the rollout store, the same on SQLite and PostgreSQL. The migrations make them; a test compares the two."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from model_rollouts.core.rollout import ACTIVE, State

#: The migration that this code works with; a test holds it to the head of `migrations/`.
SCHEMA_REVISION = "0003"


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, always aware and in UTC. SQLite keeps no time zone, so it is kept out of the column there."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC.

        Raises:
            ValueError: The value has no time zone, so what it means would depend on the machine.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time {value.isoformat()} has no time zone; pass an aware datetime, such as UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give it back aware and in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in sorted(values))})"


metadata = sa.MetaData()

_ACTIVE = _one_of("state", ACTIVE)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("champion", sa.Text, nullable=False),
    sa.Column("challenger", sa.Text, nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("opened_at", UtcDateTime),
    sa.Column("judged_from", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("reason", sa.Text, nullable=False),
    sa.CheckConstraint(_one_of("state", State), name="rollouts_state"),
    sa.CheckConstraint("stage >= -1", name="rollouts_stage"),
    sa.CheckConstraint("revision >= 1", name="rollouts_revision"),
    sa.CheckConstraint("champion <> challenger", name="rollouts_two_versions"),
    sa.CheckConstraint(f"({_ACTIVE}) = (ended_at IS NULL)", name="rollouts_ended"),
    sa.Index("rollouts_by_model", "model", "created_at"),
    sa.Index(
        "rollouts_one_active",
        "model",
        unique=True,
        sqlite_where=sa.text(_ACTIVE),
        postgresql_where=sa.text(_ACTIVE),
    ),
)

traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("champion", sa.Text, nullable=False),
    sa.Column("challenger", sa.Text),
    sa.Column("share", sa.Double, nullable=False),
    sa.Column("control_percent", sa.Double, nullable=False),
    sa.Column("rollout_id", sa.Text, sa.ForeignKey("rollouts.id", name="traffic_rollout")),
    sa.Column("stage", sa.Integer),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("previous", sa.Text),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("mirror_percent", sa.Double, nullable=False, server_default="0"),
    sa.Column("control_group", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.CheckConstraint("mirror_percent >= 0 AND mirror_percent <= 100", name="traffic_mirror"),
    sa.CheckConstraint("share >= 0 AND share <= 100", name="traffic_share"),
    sa.CheckConstraint("control_percent >= 0 AND control_percent <= 100", name="traffic_control"),
    sa.CheckConstraint("share = 0 OR challenger IS NOT NULL", name="traffic_share_is_somebodys"),
    sa.CheckConstraint("challenger IS NULL OR challenger <> champion", name="traffic_two_versions"),
    sa.CheckConstraint("revision >= 1", name="traffic_revision"),
)

events = sa.Table(
    "events",
    metadata,
    # SQLite numbers rows by itself only where the key is a plain INTEGER
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("rollout_id", sa.Text, sa.ForeignKey("rollouts.id", name="events_rollout")),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("stage", sa.Integer),
    sa.Column("before", sa.JSON, nullable=False),
    sa.Column("after", sa.JSON, nullable=False),
    sa.Column("traffic_revision", sa.BigInteger, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Index("events_by_model", "model", "id"),
    sa.Index("events_by_rollout", "rollout_id", "id"),
    sqlite_autoincrement=True,  # a number is never given twice, even if a row were gone
)

looks = sa.Table(
    "looks",
    metadata,
    sa.Column("rollout_id", sa.Text, sa.ForeignKey("rollouts.id", name="looks_rollout"), primary_key=True),
    sa.Column("stage", sa.Integer, primary_key=True),
    sa.Column("look", sa.Integer, primary_key=True),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("labels", sa.JSON(none_as_null=True)),
    sa.CheckConstraint("stage >= 0", name="looks_stage"),
    sa.CheckConstraint("look >= 0", name="looks_look"),
)

registry_seen = sa.Table(
    "registry_seen",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("snapshot", sa.JSON, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("first_seen_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("revision >= 1", name="registry_seen_revision"),
)

_PENDING = sa.text("handled_at IS NULL")

registry_changes = sa.Table(
    "registry_changes",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, sa.ForeignKey("registry_seen.model", name="registry_changes_model"), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
    sa.Column("intention", sa.JSON(none_as_null=True)),
    sa.Column("dag_id", sa.Text),
    sa.Column("dag_run_id", sa.Text),
    sa.Column("handled_at", UtcDateTime),
    sa.Column("outcome", sa.Text),
    sa.CheckConstraint("(dag_id IS NULL) = (dag_run_id IS NULL)", name="registry_changes_run"),
    sa.CheckConstraint("(handled_at IS NULL) = (outcome IS NULL)", name="registry_changes_outcome"),
    sa.Index("registry_changes_by_model", "model", "id"),
    sa.Index("registry_changes_pending", "id", sqlite_where=_PENDING, postgresql_where=_PENDING),
    sqlite_autoincrement=True,
)

Row = dict[str, Any]
