"""Upkeep of a log of Delta tables. Each step is one commit, made again when another one was faster."""

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from model_rollouts.adapters.delta_compaction import compact
from model_rollouts.adapters.delta_schema import TableName, table_path
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_upkeep import Care, TableUpkeep, told_error

logger = logging.getLogger(__name__)

_TRIES = 8
_CLOSED_AFTER = timedelta(hours=1)  # rows of a day may be on their way for so long; later ones are merged another time
_TARGET_BYTES = 128 * 1024 * 1024
# Of the day that is written to, the writers merge files themselves, into ones as small as these.
_OPEN_TARGET_BYTES = 16 * 1024 * 1024
_OPEN_FILES = 100
_BUSY = "another process merges files of the table: some days are left for the next time"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    rows: int


class DeltaCaretaker:
    """Implements `Caretaker`.

    Args:
        root: Root folder of the log.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def models(self) -> list[str]:
        """Models that the log has tables of."""
        if not self.root.exists():
            return []
        names = (unquote(folder.name.replace("~", "%")) for folder in self.root.iterdir() if folder.is_dir())
        return sorted(name for name in names if any(_is_table(self.root, name, table) for table in _TABLES))

    def care(self, model: str, table: TableName, care: Care) -> TableUpkeep | None:
        """Remove dead files, drop old days, merge small files day by day, and write a checkpoint.

        Dead files go first, and without a commit: where the disk is full nothing else can be written before.

        Raises:
            LogReadError: A file of the table is in no day.
            DeltaError: The table can't be read.
            OSError: A dead file can't be removed.
        """
        path = table_path(self.root, model, table)
        if not DeltaTable.is_deltatable(str(path)):
            return None
        removed = _remove(path, care)
        days = _days(DeltaTable(str(path)))
        files = [file for found in days.values() for file in found]
        old = [day for day in days if care.since is not None and day < care.since]
        due = [day for day in sorted(days) if day not in old and _is_due(day, days[day], care)]
        done = TableUpkeep(
            model,
            table,
            kept_since=care.since,
            files_before=len(files),
            files_after=len(files),
            files_removed=len(removed),
            bytes_before=sum(file.size for file in files),
            bytes_after=sum(file.size for file in files),
            bytes_freed=sum(removed),
            note=_of_pins(path, care),
        )
        rows = sum(file.rows for day in old for file in days[day])
        if care.dry_run:
            merged = sum(len(_small(days[day], _target(day, care))) for day in due)
            return replace(done, days_dropped=len(old), rows_dropped=rows, files_merged=merged)
        try:
            if old:
                _again(lambda: DeltaTable(str(path)).delete(f"day < '{care.since}'"))
                done = replace(done, days_dropped=len(old), rows_dropped=rows)
            for day in due:
                done = _with_merged(done, _again(partial(compact, path, _target(day, care), day)))
            DeltaTable(str(path)).create_checkpoint()  # the log before it goes with later commits, after its own time
        except Exception as error:
            logger.exception("upkeep of %s of %s was not finished", table, model)
            return replace(done, error=told_error(error))  # what was done before is whole, and is told
        left = [file for found in _days(DeltaTable(str(path))).values() for file in found]
        return replace(done, files_after=len(left), bytes_after=sum(file.size for file in left))


def _with_merged(done: TableUpkeep, merged: int | None) -> TableUpkeep:
    if merged is None:
        return done if _BUSY in done.note else replace(done, note="; ".join(filter(None, (done.note, _BUSY))))
    return replace(done, files_merged=done.files_merged + merged)


_TABLES: tuple[TableName, TableName] = ("predictions", "outcomes")


def _is_table(root: Path, model: str, table: TableName) -> bool:
    return bool(model) and DeltaTable.is_deltatable(str(table_path(root, model, table)))


def _days(delta: DeltaTable) -> dict[date, list[_File]]:
    """The table's files by the day that they are of."""
    actions = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    found: dict[date, list[_File]] = defaultdict(list)
    for action in actions:
        day = action.get("partition.day")
        if not isinstance(day, date):
            raise LogReadError(f"file {action['path']} is of no day ({day!r}); rows without a time are in no look")
        found[day].append(_File(str(action["path"]), int(action["size_bytes"]), int(action["num_records"] or 0)))
    return found


def _closed(day: date, care: Care) -> bool:
    return day < (care.now - _CLOSED_AFTER).date()


def _target(day: date, care: Care) -> int:
    return _TARGET_BYTES if _closed(day, care) else _OPEN_TARGET_BYTES


def _small(files: list[_File], target: int) -> list[_File]:
    return [file for file in files if file.size < target // 2]


def _is_due(day: date, files: list[_File], care: Care) -> bool:
    """A closed day with small files to merge, or an open one with very many."""
    return len(_small(files, _target(day, care))) >= (2 if _closed(day, care) else _OPEN_FILES)


def _remove(path: Path, care: Care) -> list[int]:
    """Remove what no version within the hours needs, and what a crash has left uncommitted; the sizes.

    deltalake says which files those are. Its own removal begins with a commit, which a full disk has no room for.
    """
    dead = DeltaTable(str(path)).vacuum(
        retention_hours=care.retention_hours,
        dry_run=True,
        enforce_retention_duration=False,  # the setting says how long, whatever the table's maker thought
        full=True,
        keep_versions=[version for version in care.pinned if _readable(path, version)] or None,
    )
    sizes = []
    for name in dead:
        file = path / name
        with suppress(FileNotFoundError):  # another upkeep was faster
            size = file.stat().st_size
            if not care.dry_run:
                file.unlink()
            sizes.append(size)
    return sizes


def _of_pins(path: Path, care: Care) -> str:
    told = [
        f"version {version} {'is kept for' if _readable(path, version) else 'can no longer be read by'} a data rollback"
        for version in care.pinned
    ]
    return "; ".join(told)


def _readable(path: Path, version: int) -> bool:
    """Whether the log of commits still tells what a version was made of."""
    try:
        DeltaTable(str(path), version=version).file_uris()
    except DeltaError:
        return False
    return True


def _again(step: Callable[[], _T]) -> _T:
    """Take a step that opens the table itself; again when another commit was faster."""
    for attempt in range(_TRIES):
        try:
            return step()
        except CommitFailedError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(random.uniform(0.01, 0.05) * 2**attempt)  # noqa: S311 - spreads writers, no secret
    raise AssertionError("unreachable")
