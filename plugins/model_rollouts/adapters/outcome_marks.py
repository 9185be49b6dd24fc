# ruff: noqa: S608 - the texts are put together from constants and from names of files
"""Which files of outcomes have an outcome of some requests: a hash of each file's ids, kept on this machine.

A label's clock may be a day behind, so that a look of a minute asks a day of outcomes for its few. Nearly all of its
time went into reading the ids of that day again; their hashes are read in a tenth of it. A file of a Delta table never
changes, and a hash that two ids share costs the reading of a file. See docs/adr/0029-outcome-marks.md.
"""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model_rollouts.adapters.delta_queries import ID_HASH
from model_rollouts.adapters.unit_carry import own_folder

if TYPE_CHECKING:
    import duckdb

LEAST_BYTES = 1_000_000  # smaller files are read as they are
_KEPT_SECONDS = 2 * 86_400
_log = logging.getLogger(__name__)


class OutcomeMarks:
    """Hashes of the ids of files, made when they are wanted first. Several processes may use one folder.

    Args:
        scratch: A folder of this machine's own; made where it is missing, for nobody else to read.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._folder = scratch, scratch / "ids"

    def holding(
        self, database: "duckdb.DuckDBPyConnection", files: Sequence[str], asked: str, parameters: dict[str, int]
    ) -> list[str]:
        """The files that may have outcomes of the requests, in their order: all that have any are among them.

        Args:
            database: Where the requests are.
            files: Parquet files with a column `request_id`, on this machine's disks.
            asked: A query for the requests' `request_id`.
            parameters: Its parameters.

        Raises:
            FileNotFoundError: A file is gone.
        """
        import duckdb

        sizes = {file: os.stat(file) for file in files}
        large = {file: self._mark(file, size) for file, size in sizes.items() if size.st_size >= LEAST_BYTES}
        if not large:
            return list(files)
        try:
            for folder in (self._scratch, self._folder):
                own_folder(folder)
            for file, mark in large.items():
                if mark.exists():
                    os.utime(mark)
                else:
                    self._make(database, file, mark)
            found = database.execute(
                "SELECT DISTINCT filename FROM read_parquet($marks, filename = true) "
                f"WHERE id IN (SELECT {ID_HASH} FROM ({asked}) AS asked)",
                {"marks": [str(mark) for mark in large.values()], **parameters},
            ).fetchall()
        except (OSError, duckdb.Error) as error:
            if not all(os.path.exists(file) for file in files):
                raise FileNotFoundError(f"a file of outcomes is gone: {error}") from error
            _log.warning("hashes of ids in %s can't be used, and are made again: %s", self._folder, error)
            for mark in large.values():
                mark.unlink(missing_ok=True)
            return list(files)
        marked = {name for (name,) in found}
        return [file for file in files if file not in large or str(large[file]) in marked]

    def _mark(self, file: str, size: os.stat_result) -> Path:
        """Where a file's hashes are. Another version of DuckDB may make other ones of the same ids."""
        import duckdb

        name = f"{file} {size.st_size} {size.st_mtime_ns} {duckdb.__version__}"
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.parquet"

    def _make(self, database: "duckdb.DuckDBPyConnection", file: str, mark: Path) -> None:
        self._sweep()
        beside = mark.with_name(f".{mark.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            database.execute(
                f"COPY (SELECT {ID_HASH} AS id FROM read_parquet($file)) TO {quoted_file(beside)} "
                "(FORMAT parquet, COMPRESSION uncompressed)",
                {"file": file},
            )
            beside.replace(mark)
        finally:
            beside.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what nobody has wanted for days: outcomes of that time are asked for no more."""
        oldest = time.time() - _KEPT_SECONDS
        for file in self._folder.iterdir():
            try:
                if file.stat().st_mtime < oldest:
                    file.unlink()
            except FileNotFoundError:  # another process was quicker
                continue


def quoted_file(file: Path) -> str:
    """A file's name as a literal of SQL."""
    quoted = str(file).replace("'", "''")
    return f"'{quoted}'"
