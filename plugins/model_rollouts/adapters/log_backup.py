"""Copies the Delta tables of a log while gateways write to it: each table as it was at one version.

A table's log names its data files. A copy that takes the log after the data has entries whose files are not in it, and
can't be read. So the version is fixed first; its files never change, and stay for a day after they are replaced.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from model_rollouts.core.errors import RolloutError

_TRIES = 3
_LOG = "_delta_log"
_LAST = "_last_checkpoint"
_ENTRY = re.compile(r"(\d{20})\.(json|checkpoint(\.\d+\.\d+)?\.parquet)")


class LogBackupError(RolloutError):
    """The log can't be copied, or the copy can't be read."""


@dataclass(frozen=True, slots=True)
class TableBackup:
    """A table's copy.

    Attributes:
        model: Registered model name.
        table: Which of its tables.
        version: The Delta version that was copied.
        files: Data files of that version.
        copied: Files that were not in the copy yet.
        megabytes: What those take.
    """

    model: str
    table: str
    version: int
    files: int
    copied: int
    megabytes: float


def back_up(root: Path, folder: Path) -> Iterator[TableBackup]:
    """Copy every table of a log; into a copy that is there already, only what is new.

    Args:
        root: The log's folder.
        folder: Where to. It can be read as a log itself.

    Raises:
        LogBackupError: A table can't be read or copied; the copy has its earlier version, if it had one.
    """
    root, folder = root.resolve(), folder.resolve()
    if folder == root or root in folder.parents:
        raise LogBackupError(f"{folder} is inside of the log {root}; name a folder somewhere else")
    found = sorted(each.parent for each in root.glob(f"*/*/{_LOG}"))
    if not found:
        raise LogBackupError(f"{root} has no Delta tables; is it the folder of MODEL_ROLLOUTS_LOG_DIR?")
    for path in found:
        yield _back_up(path, folder / path.relative_to(root))


def _back_up(path: Path, target: Path) -> TableBackup:
    for attempt in range(_TRIES):
        try:
            return _copy(path, target)
        except (FileNotFoundError, DeltaError) as error:  # old entries were cleaned away amid it: as it is now, then
            if attempt == _TRIES - 1:
                raise LogBackupError(f"{path} can't be copied to {target}: {error}") from error
        except OSError as error:
            raise LogBackupError(f"{path} can't be copied to {target}: {error}") from error
    raise AssertionError("unreachable")


def _copy(path: Path, target: Path) -> TableBackup:
    table = DeltaTable(str(path))
    version = table.version()
    files = _files(table, path)
    entries = sorted(each for each in (path / _LOG).iterdir() if _version_of(each) in range(version + 1))
    _require_same_history(entries, target)
    sizes = [_take(path / file, target / file) for file in sorted(files)]
    sizes += [_take(entry, target / _LOG / entry.name) for entry in entries]
    last = path / _LOG / _LAST
    if last.exists() and int(json.loads(last.read_text())["version"]) <= version:
        _take(last, target / _LOG / _LAST, anew=True)
    _check(target, version, files)
    new = [size for size in sizes if size is not None]
    return TableBackup(unquote(path.parent.name.replace("~", "%")), path.name, version, len(files), len(new),
        round(sum(new) / 1e6, 3))  # fmt: skip


def _files(table: DeltaTable, path: Path) -> set[Path]:
    """Data files of a table, as places in its folder."""
    folder = path.resolve()  # Delta tells them without symbolic links
    return {Path(unquote(uri.removeprefix("file://"))).relative_to(folder) for uri in table.file_uris()}


def _take(file: Path, copy: Path, *, anew: bool = False) -> int | None:
    """Copy a file, as a whole or not at all; its size, or None where it is there already: files are written once."""
    size = file.stat().st_size
    if not anew and copy.exists() and copy.stat().st_size == size:
        return None
    copy.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(f".{copy.name}.part")
    shutil.copy2(file, part)
    part.replace(copy)
    return size


def _version_of(entry: Path) -> int:
    match = _ENTRY.fullmatch(entry.name)
    return int(match[1]) if match else -1


def _require_same_history(entries: Sequence[Path], target: Path) -> None:
    """Refuse a copy whose commits are others than the log's: one that was restored makes the same versions anew.

    Equal sizes say nothing: names of files and times have the same length in every commit.
    """
    for entry in entries:
        copy = target / _LOG / entry.name
        if entry.suffix == ".json" and copy.exists() and copy.read_bytes() != entry.read_bytes():
            raise LogBackupError(
                f"version {_version_of(entry)} in {target} is of another history than in {entry.parents[1]}: the log "
                "was restored or made anew since. The copy is as it was; use an empty folder"
            )


def _check(target: Path, version: int, files: set[Path]) -> None:
    """Read the copy's log, and see that it says what the source's does and that all it names is there."""
    copy = DeltaTable(str(target))
    found = _files(copy, target)
    missing = [file for file in found if not (target / file).exists()]
    if copy.version() != version or missing:
        raise LogBackupError(
            f"{target} is at version {copy.version()} and lacks {len(missing)} files, must be at version {version} "
            "and lack none; copy it to an empty folder"
        )
    if found != files:
        raise LogBackupError(
            f"{target} names {len(found - files)} files at version {version} that the log does not, and lacks "
            f"{len(files - found)} that it does: it is of another history; copy it to an empty folder"
        )
