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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from model_rollouts.adapters.delta_queries import ID_HASH
from model_rollouts.adapters.unit_carry import own_folder

if TYPE_CHECKING:
    import duckdb

LEAST_BYTES = 1_000_000  # smaller files are read as they are
_KEPT_SECONDS = 2 * 86_400
_IDS = "SELECT request_id FROM read_parquet($file, hive_partitioning = false)"
_TEXT = "VARCHAR"
_log = logging.getLogger(__name__)


class OutcomeMarks:
    """Hashes of the ids of files, made when they are wanted first. Several processes may use one folder.

    Args:
        scratch: A folder of this machine's own; made where it is missing, for nobody else to read.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._folder = scratch, scratch / "ids"

    def holding(
        self,
        database: "duckdb.DuckDBPyConnection",
        files: Sequence[str],
        asked: str,
        parameters: Mapping[str, int],
    ) -> list[str]:
        """The files that may have outcomes of the requests, in their order: all that have any are among them.

        Where that can't be told it is all files: the folder can't be used, say, or ids are no texts, which are compared
        as the query compares them.

        Args:
            database: Where the requests are.
            files: Parquet files with a column `request_id`, on this machine's disks.
            asked: A query for the requests' `request_id`.
            parameters: Its parameters.

        Raises:
            FileNotFoundError: A file is gone.
        """
        import duckdb

        marks: dict[str, Path] = {}
        try:
            found = {file: os.stat(file) for file in files}
            large = {file: each for file, each in found.items() if each.st_size >= LEAST_BYTES}
            if not large or _type_of(database, asked, parameters) != _TEXT:
                return list(files)
            for folder in (self._scratch, self._folder):
                own_folder(folder)
            for file, each in large.items():
                mark = self._mark(file, each)
                if self._there(mark) or self._make(database, file, mark):
                    marks[file] = mark
            having = _having(database, list(marks.values()), asked, parameters)
        except (OSError, duckdb.Error) as error:
            if not all(os.path.exists(file) for file in files):
                raise FileNotFoundError(f"a file of outcomes is gone: {error}") from error
            _log.warning("hashes of ids in %s can't be used, all outcomes are read: %s", self._folder, error)
            if isinstance(error, duckdb.Error) and not isinstance(error, duckdb.OutOfMemoryException):
                _forget_broken(marks.values())
            return list(files)
        return [file for file in files if file not in marks or str(marks[file]) in having]

    def _mark(self, file: str, found: os.stat_result) -> Path:
        """Where a file's hashes are. Another version of DuckDB may make other ones of the same ids."""
        import duckdb

        name = f"{file} {found.st_size} {found.st_mtime_ns} {duckdb.__version__}"
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.parquet"

    @staticmethod
    def _there(mark: Path) -> bool:
        """Whether the hashes are there; they are kept on if so."""
        try:
            os.utime(mark)
        except FileNotFoundError:
            return False
        return True

    def _make(self, database: "duckdb.DuckDBPyConnection", file: str, mark: Path) -> bool:
        """Write the hashes of a file, whole or not at all; False where its ids are no texts."""
        if _type_of(database, _IDS, {"file": file}) != _TEXT:
            return False
        self._sweep()
        beside = mark.with_name(f".{mark.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            database.execute(
                f"COPY (SELECT {ID_HASH} AS id FROM ({_IDS}) AS ids) TO {quoted_file(beside)} "
                "(FORMAT parquet, COMPRESSION uncompressed)",
                {"file": file},
            )
            beside.replace(mark)
        finally:
            beside.unlink(missing_ok=True)
        return True

    def _sweep(self) -> None:
        """Remove what nobody has wanted for days: outcomes of that time are asked for no more."""
        oldest = time.time() - _KEPT_SECONDS
        for file in self._folder.iterdir():
            with suppress(OSError):  # another process was quicker; or it is nothing of ours
                if file.stat().st_mtime < oldest:
                    file.unlink()


def _type_of(database: "duckdb.DuckDBPyConnection", query: str, parameters: Mapping[str, object]) -> str:
    """Type of the ids that a query gives."""
    return str(database.execute(f"{query} LIMIT 0", dict(parameters)).description[0][1])


def _having(
    database: "duckdb.DuckDBPyConnection", marks: Sequence[Path], asked: str, parameters: Mapping[str, int]
) -> set[str]:
    """Names of those of the marks that have one of the requests."""
    import duckdb

    if not marks:
        return set()
    names = [str(mark) for mark in marks]
    found = database.execute(
        "SELECT DISTINCT filename FROM read_parquet($marks, filename = true, hive_partitioning = false) "
        f"WHERE id IN (SELECT {ID_HASH} FROM ({asked}) AS asked)",
        {"marks": names, **parameters},
    ).fetchall()
    having = {str(name) for (name,) in found}
    if strange := having - set(names):
        raise duckdb.InternalException(f"files are called {sorted(strange)[0]}, asked as {names[0]}")
    return having


def _forget_broken(marks: Iterable[Path]) -> None:
    """Remove marks that can't be read to their ends by themselves."""
    import duckdb

    for mark in marks:
        try:
            with duckdb.connect() as database:
                database.execute(
                    "SELECT max(id) FROM read_parquet($mark, hive_partitioning = false)", {"mark": str(mark)}
                )
        except duckdb.Error:
            with suppress(OSError):
                mark.unlink()


def quoted_file(file: Path) -> str:
    """A file's name as a literal of SQL."""
    quoted = str(file).replace("'", "''")
    return f"'{quoted}'"
