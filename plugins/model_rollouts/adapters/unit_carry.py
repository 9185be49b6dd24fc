"""What units did in looks that are closed, kept on this machine so that the next look need not read it again.

A carry is a saving and no record: whoever has none, or a part of one, reads the log. It is one folder a question, with
a file for each run of looks; files are merged as they get as large as those before them, so that there are few. See
docs/adr/0025-carried-sums.md.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_KEPT_DAYS = 14
_LOCK = ".lock"
_LOCK_SECONDS = 3.0
_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True)
class Part:
    """A file with sums over looks.

    Attributes:
        file: Where it is.
        first: Position of its first look.
        end: Position after its last look.
        rows: How many units it has.
    """

    file: Path
    first: int
    end: int
    rows: int


class CarryBusyError(Exception):
    """Another process writes the sums and does not come to an end."""


class UnitCarry:
    """Sums by unit that outlive a process.

    Args:
        scratch: A folder of this machine's own; made where it is missing, for nobody else to read.
        log: What tells the log from others that this machine reads: its folder or database. It goes into a hash only.
    """

    def __init__(self, scratch: Path, log: str) -> None:
        self.scratch, self._log = scratch, log

    @contextmanager
    def open(self, question: Sequence[Any]) -> Iterator["Carried"]:
        """The sums of one question. Many processes may read them at once; see `Carried.writing`.

        Args:
            question: What tells it from others of the log: the rollout, what is counted and by which limits.

        Raises:
            CarryBusyError: Another process has been writing for seconds.
            OSError: The folder can't be used: it is another user's, say, or others may write to it.
        """
        root = self.scratch / "units"
        for folder in (self.scratch, root):  # who can rename a folder's parent can put another one in its place
            own_folder(folder)
        name = hashlib.sha256(json.dumps([self._log, *question], default=str).encode()).hexdigest()[:32]
        folder = root / name
        if not folder.exists():
            _sweep(root)
        folder.mkdir(mode=0o700, exist_ok=True)
        with (folder / _LOCK).open("a") as lock:
            if not _locked(lock, fcntl.LOCK_SH, _LOCK_SECONDS):
                raise CarryBusyError(f"another process has been writing to {folder} for {_LOCK_SECONDS:g} s")
            os.utime(folder)
            yield Carried(folder, lock)


def own_folder(folder: Path) -> None:
    """Make a folder where it is missing, for this user alone.

    Raises:
        OSError: It is another user's, or others may write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink():
        raise PermissionError(
            f"{folder} belongs to user {found.st_uid} with mode {found.st_mode & 0o777:o}, must be this user's and "
            "writable by nobody else; set MODEL_ROLLOUTS_SCRATCH_DIR to a folder of its own"
        )


def _sweep(root: Path) -> None:
    """Remove what nobody has asked for in weeks: the rollouts have ended."""
    oldest = time.time() - _KEPT_DAYS * 86_400
    for folder in root.iterdir():
        if folder.is_dir() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def _locked(lock: IO[str], kind: int, seconds: float) -> bool:
    """Take a lock that the kernel opens again when its holder ends, however; False where it does not come in time."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)  # the kernel tells nobody who would not wait for ever
        else:
            return True


class Carried:
    """The sums of one question.

    Args:
        folder: Where they are.
        lock: Its lock file, held for reading.
    """

    def __init__(self, folder: Path, lock: IO[str]) -> None:
        self._folder, self._lock = folder, lock

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Whether this process may write: not while another one reads or writes. What was read may be gone by then."""
        free = _locked(self._lock, fcntl.LOCK_EX, 0.0)
        try:
            if free:
                for left in self._folder.glob(f".*{_SUFFIX}.*"):  # of a process that was killed
                    left.unlink(missing_ok=True)
            yield free
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def parts(self, looks: Sequence[Any]) -> list[Part]:
        """Files that follow each other from the first look on, for as many of the looks as there are sums of.

        Args:
            looks: What tells each look from others; none may be there that can still be counted again.
        """
        known = sorted(self._known(), key=lambda part: (part.first, -part.end))
        found: list[Part] = []
        at = 0
        for part in known:
            if part.first == at and part.end <= len(looks) and part.file.name == _name(looks, at, part.end, part.rows):
                found.append(part)
                at = part.end
        return found

    def place(self, looks: Sequence[Any], first: int, end: int, rows: int) -> Path:
        """Where the sums of `looks[first:end]` are to be: write them beside it and move them there."""
        return self._folder / _name(looks, first, end, rows)

    def other(self, kind: str) -> Path:
        """A file of the question that is not about looks."""
        return self._folder / f"{kind}{_SUFFIX}"

    def forget(self) -> None:
        """Remove everything: it can't be read."""
        for file in self._folder.glob(f"*{_SUFFIX}*"):
            file.unlink(missing_ok=True)

    def keep_only(self, parts: Sequence[Part]) -> None:
        """Remove what is in none of the parts: runs that were merged, and those of looks that are no more."""
        kept = {part.file for part in parts}
        for part in self._known():
            if part.file not in kept:
                part.file.unlink(missing_ok=True)

    def _known(self) -> list[Part]:
        found = []
        for file in self._folder.glob(f"looks-*{_SUFFIX}"):
            first, end, rows = file.name.split("-")[1:4]
            found.append(Part(file, int(first), int(end), int(rows)))
        return found


def merged(parts: Sequence[Part], rows: int) -> int:
    """How many of the last parts to merge when one of so many rows comes: those that are not twice as large."""
    count = 0
    for part in reversed(parts):
        if part.rows > 2 * rows:
            break
        rows += part.rows
        count += 1
    return count


def _name(looks: Sequence[Any], first: int, end: int, rows: int) -> str:
    marks = json.dumps(looks[first:end], default=str)
    return f"looks-{first}-{end}-{rows}-{hashlib.sha256(marks.encode()).hexdigest()[:24]}{_SUFFIX}"
