"""Rollouts, traffic, events and looks.

The tables are written out here and not taken from `sql_tables.py`: a migration must do tomorrow what it did today.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ACTIVE = "state IN ('baking', 'cleared', 'holding', 'pending')"
_STATES = "state IN ('baking', 'cleared', 'holding', 'pending', 'promoted', 'rolled_back')"
_KINDS = (
    "kind IN ('adopted', 'cleared', 'cut_over', 'held', 'resumed', 'rolled_back', 'stage_opened', 'started')"
)  # fmt: skip


def upgrade() -> None:
    """Make the tables, and the triggers that keep the audit and the evidence as they were written."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("champion", sa.Text, nullable=False),
        sa.Column("challenger", sa.Text, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("opened_at", time),
        sa.Column("judged_from", time),
        sa.Column("ended_at", time),
        sa.Column("reason", sa.Text, nullable=False),
        sa.CheckConstraint(_STATES, name="rollouts_state"),
        sa.CheckConstraint("stage >= -1", name="rollouts_stage"),
        sa.CheckConstraint("revision >= 1", name="rollouts_revision"),
        sa.CheckConstraint("champion <> challenger", name="rollouts_two_versions"),
        sa.CheckConstraint(f"({_ACTIVE}) = (ended_at IS NULL)", name="rollouts_ended"),
    )
    op.create_index("rollouts_by_model", "rollouts", ["model", "created_at"])
    op.create_index(
        "rollouts_one_active",
        "rollouts",
        ["model"],
        unique=True,
        sqlite_where=sa.text(_ACTIVE),
        postgresql_where=sa.text(_ACTIVE),
    )
    op.create_table(
        "traffic",
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
        sa.CheckConstraint("share >= 0 AND share <= 100", name="traffic_share"),
        sa.CheckConstraint("control_percent >= 0 AND control_percent <= 100", name="traffic_control"),
        sa.CheckConstraint("share = 0 OR challenger IS NOT NULL", name="traffic_share_is_somebodys"),
        sa.CheckConstraint("challenger IS NULL OR challenger <> champion", name="traffic_two_versions"),
        sa.CheckConstraint("revision >= 1", name="traffic_revision"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("rollout_id", sa.Text, sa.ForeignKey("rollouts.id", name="events_rollout")),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("stage", sa.Integer),
        sa.Column("before", sa.JSON, nullable=False),
        sa.Column("after", sa.JSON, nullable=False),
        sa.Column("traffic_revision", sa.BigInteger, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.CheckConstraint(_KINDS, name="events_kind"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_model", "events", ["model", "id"])
    op.create_index("events_by_rollout", "events", ["rollout_id", "id"])
    op.create_table(
        "looks",
        sa.Column("rollout_id", sa.Text, sa.ForeignKey("rollouts.id", name="looks_rollout"), primary_key=True),
        sa.Column("stage", sa.Integer, primary_key=True),
        sa.Column("look", sa.Integer, primary_key=True),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("labels", sa.JSON),
        sa.CheckConstraint("stage >= 0", name="looks_stage"),
        sa.CheckConstraint("look >= 0", name="looks_look"),
    )
    for statement in _guards(op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    """Drop everything, the audit included."""
    for table in ("looks", "events", "traffic", "rollouts"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION rollouts_refuse()")


def _guards(dialect: str) -> list[str]:
    """Triggers: events never change; of a look only missing labels may be filled in."""
    if dialect == "postgresql":
        frozen = (
            "OLD.labels IS NOT NULL OR OLD.counts::text <> NEW.counts::text OR "
            "(OLD.rollout_id, OLD.stage, OLD.look) IS DISTINCT FROM (NEW.rollout_id, NEW.stage, NEW.look)"
        )
        refuse = "EXECUTE FUNCTION rollouts_refuse"
        return [
            "CREATE FUNCTION rollouts_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION '% are written once; % is refused', TG_TABLE_NAME, TG_OP "
            "USING ERRCODE = 'integrity_constraint_violation'; END $$",
            f"CREATE TRIGGER events_frozen BEFORE UPDATE OR DELETE ON events FOR EACH ROW {refuse}()",
            f"CREATE TRIGGER events_kept BEFORE TRUNCATE ON events FOR EACH STATEMENT {refuse}()",
            f"CREATE TRIGGER looks_frozen BEFORE UPDATE ON looks FOR EACH ROW WHEN ({frozen}) {refuse}()",
            f"CREATE TRIGGER looks_no_delete BEFORE DELETE ON looks FOR EACH ROW {refuse}()",
            f"CREATE TRIGGER looks_kept BEFORE TRUNCATE ON looks FOR EACH STATEMENT {refuse}()",
        ]
    frozen = (
        "OLD.labels IS NOT NULL OR OLD.counts <> NEW.counts OR OLD.rollout_id <> NEW.rollout_id "
        "OR OLD.stage <> NEW.stage OR OLD.look <> NEW.look"
    )

    def refuse_with(table: str, what: str) -> str:
        return f"BEGIN SELECT RAISE(ABORT, '{table} are written once; {what} is refused'); END"

    # REPLACE deletes a row without asking the DELETE trigger, so a known key is stopped at its insertion. A look is
    # passed over there instead of refused: it comes twice whenever two watchers close it at once.
    known_event = "EXISTS (SELECT 1 FROM events WHERE id = NEW.id)"
    known_look = (
        "EXISTS (SELECT 1 FROM looks WHERE rollout_id = NEW.rollout_id AND stage = NEW.stage AND look = NEW.look)"
    )
    return [
        f"CREATE TRIGGER events_frozen BEFORE UPDATE ON events {refuse_with('events', 'UPDATE')}",
        f"CREATE TRIGGER events_no_delete BEFORE DELETE ON events {refuse_with('events', 'DELETE')}",
        f"CREATE TRIGGER events_no_replace BEFORE INSERT ON events WHEN {known_event} "
        f"{refuse_with('events', 'REPLACE')}",
        f"CREATE TRIGGER looks_no_replace BEFORE INSERT ON looks WHEN {known_look} BEGIN SELECT RAISE(IGNORE); END",
        f"CREATE TRIGGER looks_frozen BEFORE UPDATE ON looks WHEN {frozen} {refuse_with('looks', 'UPDATE')}",
        f"CREATE TRIGGER looks_no_delete BEFORE DELETE ON looks {refuse_with('looks', 'DELETE')}",
    ]
