"""What tests do to a log of either kind, from outside."""

from pathlib import Path

from psycopg import sql

from model_rollouts.adapters.delta_schema import TableName, table_path
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.adapters.postgres_log import PostgresLog


def another(root: LogRoot) -> LogRoot:
    """A second, empty log of the same kind."""
    if isinstance(root, Path):
        return root / "another"
    assert isinstance(root, PostgresLog)
    return PostgresLog(root.url, f"{root.schema} 2")


def is_untouched(root: LogRoot) -> bool:
    """Whether nothing was ever made in it."""
    if isinstance(root, Path):
        return not list(root.iterdir())
    assert isinstance(root, PostgresLog)
    with root.connect() as connection:
        found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (root.schema,)).fetchall()
    return not found


def damage(root: LogRoot, model: str, table: TableName) -> None:
    """Make a table unreadable."""
    if isinstance(root, Path):
        for file in table_path(root, model, table).glob("day=*/*.parquet"):
            file.unlink()
        return
    assert isinstance(root, PostgresLog)
    with root.connect() as connection:
        name = root.table(model, table).identifier
        connection.execute(sql.SQL("ALTER TABLE {} RENAME COLUMN request_id TO gone").format(name))
