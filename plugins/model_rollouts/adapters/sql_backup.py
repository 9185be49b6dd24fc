"""A copy of a store in SQLite while others write to it. PostgreSQL has tools of its own for that."""

import sqlite3
from contextlib import closing
from pathlib import Path

from model_rollouts.adapters.sql_engine import BUSY_SECONDS, store_url
from model_rollouts.core.errors import RolloutError


class StoreBackupError(RolloutError):
    """The store can't be copied."""


def back_up(url: str, file: Path) -> int:
    """Copy the store as it is at one moment; its size in bytes.

    Copying the file itself would miss what is in the write-ahead log beside it, or tear it.

    Args:
        url: SQLAlchemy URL of the store.
        file: The copy; must not be there yet.

    Raises:
        StoreBackupError: It is no SQLite store, it is not there, or the copy is.
    """
    where = store_url(url)
    if where.get_backend_name() != "sqlite":
        raise StoreBackupError(
            f"the store {where.render_as_string(hide_password=True)} is in PostgreSQL: "
            "use pg_dump --format=custom --file=<file> <database>"
        )
    source = Path(where.database or "")
    if not source.is_file():
        raise StoreBackupError(f"there is no store {source}; see MODEL_ROLLOUTS_STORE_URL")
    if file.exists():
        raise StoreBackupError(f"{file} is there already; name another file, or move it away")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as live, closing(sqlite3.connect(part)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
        found = copy.execute("PRAGMA integrity_check").fetchone()
    if found != ("ok",):
        part.unlink()
        raise StoreBackupError(f"the copy of {source} is damaged: {found}; is the store's disk?")
    part.replace(file)
    return file.stat().st_size
