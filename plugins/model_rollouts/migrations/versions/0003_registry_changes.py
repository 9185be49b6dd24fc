"""What was seen of the registry, and what was done about each change in it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "registry_seen",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("snapshot", sa.JSON, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("first_seen_at", time, nullable=False),
        sa.CheckConstraint("revision >= 1", name="registry_seen_revision"),
    )
    op.create_table(
        "registry_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, sa.ForeignKey("registry_seen.model", name="registry_changes_model"),
            nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("seen_at", time, nullable=False),
        sa.Column("intention", sa.JSON),
        sa.Column("dag_id", sa.Text),
        sa.Column("dag_run_id", sa.Text),
        sa.Column("handled_at", time),
        sa.Column("outcome", sa.Text),
        sa.CheckConstraint("(dag_id IS NULL) = (dag_run_id IS NULL)", name="registry_changes_run"),
        sa.CheckConstraint("(handled_at IS NULL) = (outcome IS NULL)", name="registry_changes_outcome"),
        sqlite_autoincrement=True,
    )  # fmt: skip
    op.create_index("registry_changes_by_model", "registry_changes", ["model", "id"])
    pending = sa.text("handled_at IS NULL")
    op.create_index(
        "registry_changes_pending", "registry_changes", ["id"], sqlite_where=pending, postgresql_where=pending
    )


def downgrade() -> None:
    """Drop them: a watch that begins again treats what is there as history."""
    op.drop_table("registry_changes")
    op.drop_table("registry_seen")
