"""Empty SQLite databases of Airflow and MLflow, kept: making the tables takes many seconds, copying them none."""

import fcntl
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from demo.config import CACHE

_PACKAGES = {"airflow": "apache-airflow-core", "mlflow": "mlflow"}


@contextmanager
def kept_database(database: Path, of: Literal["airflow", "mlflow"], cache: Path = CACHE) -> Iterator[bool]:
    """A file with the tables of the installed version, and nothing in them.

    Gives whether it is there. If not, the block makes it, and it is kept for those that come later; of several
    processes that need one at once, one does.

    Args:
        database: The file; it is not there yet.
        of: Whose tables.
        cache: Where it is kept.
    """
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / f"{of}-{version(_PACKAGES[of])}.db"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            yield False
            copy_sqlite(database, kept)
            return
    shutil.copyfile(kept, database)
    yield True


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that may be in use, in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    origin, copy = sqlite3.connect(source), sqlite3.connect(unfinished)
    try:
        origin.backup(copy)
    finally:
        origin.close()
        copy.close()
    unfinished.replace(target)
