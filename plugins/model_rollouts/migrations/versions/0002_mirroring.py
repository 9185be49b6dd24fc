"""Mirroring and control groups in the traffic row; new kinds of events need no migration any more."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KINDS = (
    "kind IN ('adopted', 'cleared', 'cut_over', 'held', 'resumed', 'rolled_back', 'stage_opened', 'started')"
)  # fmt: skip
_COLUMNS = "id, model, rollout_id, kind, at, actor, reason, stage, before, after, traffic_revision, evidence"


def upgrade() -> None:
    """Add the columns, and take the list of kinds out of the table: the code knows them."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    double = "DOUBLE" if sqlite else "DOUBLE PRECISION"
    op.execute(
        f"ALTER TABLE traffic ADD COLUMN mirror_percent {double} NOT NULL DEFAULT 0 "
        "CONSTRAINT traffic_mirror CHECK (mirror_percent >= 0 AND mirror_percent <= 100)"
    )
    op.execute(f"ALTER TABLE traffic ADD COLUMN control_group BOOLEAN NOT NULL DEFAULT {0 if sqlite else 'false'}")
    if sqlite:
        _rebuild_events()
    else:
        op.execute("ALTER TABLE events DROP CONSTRAINT events_kind")


def downgrade() -> None:
    """Take the columns away. Events of kinds that revision 0001 does not know have to stay: the audit is kept."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute("ALTER TABLE traffic DROP COLUMN control_group")
    op.execute("ALTER TABLE traffic DROP COLUMN mirror_percent")
    if not sqlite:
        op.execute(f"ALTER TABLE events ADD CONSTRAINT events_kind CHECK ({_KINDS}) NOT VALID")


def _rebuild_events() -> None:
    """SQLite can't drop a check: the rows move to a table without it, and the guards are made again."""
    for trigger in ("events_frozen", "events_no_delete", "events_no_replace"):
        op.execute(f"DROP TRIGGER {trigger}")
    for index in ("events_by_model", "events_by_rollout"):
        op.drop_index(index, "events")
    op.create_table(
        "events_new",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("rollout_id", sa.Text, sa.ForeignKey("rollouts.id", name="events_rollout")),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("stage", sa.Integer),
        sa.Column("before", sa.JSON, nullable=False),
        sa.Column("after", sa.JSON, nullable=False),
        sa.Column("traffic_revision", sa.BigInteger, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.execute(f"INSERT INTO events_new ({_COLUMNS}) SELECT {_COLUMNS} FROM events ORDER BY id")  # noqa: S608 - constants
    op.drop_table("events")
    op.rename_table("events_new", "events")
    op.create_index("events_by_model", "events", ["model", "id"])
    op.create_index("events_by_rollout", "events", ["rollout_id", "id"])
    for name, when in (
        (
            "events_frozen",
            "BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are written once; UPDATE is refused')",
        ),
        (
            "events_no_delete",
            "BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are written once; DELETE is refused')",
        ),
        (
            "events_no_replace",
            "BEFORE INSERT ON events WHEN EXISTS (SELECT 1 FROM events WHERE id = NEW.id) "
            "BEGIN SELECT RAISE(ABORT, 'events are written once; REPLACE is refused')",
        ),
    ):
        op.execute(f"CREATE TRIGGER {name} {when}; END")
