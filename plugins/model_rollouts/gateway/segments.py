"""Rows on disk between the answer and the log: numbered files, one JSON line a row.

A row is in the page cache before its request is answered, so it survives the death of the process at any point
(`kill -9`, out of memory). It is not synced: a power cut may lose the last moments.

Numbers only grow, whatever happens to the files: a number that the log has seen is skipped there as a repetition, so
using one again would lose rows without a word. They start at the clock (microseconds) and at a synced counter,
whichever is higher, so neither a lost folder nor a clock that was set back brings one back.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from model_rollouts.adapters.json_lines import JsonLines
from model_rollouts.gateway.sent_marks import SUFFIX, Receipt, SentMarks, as_sent

_SUFFIX = ".rows"
_LATELY_SECONDS = 10.0
_BLOCK = 1000  # numbers reserved by one write of the counter


@dataclass(frozen=True, slots=True)
class Contents:
    """What a sealed segment holds.

    Attributes:
        rows: Its whole lines.
        torn_bytes: Length of a last line that was cut off in mid write. Its request was never answered.
    """

    rows: JsonLines
    torn_bytes: int = 0


class SegmentLog:
    """The segments of one model and table.

    Args:
        folder: Theirs alone; made when missing. Files that are there are sealed segments of an earlier process.
        roll_bytes: Size after which a new segment is begun.
        marked: Whether it is kept which rows belong to answers that went out; see `sent_marks`.
    """

    def __init__(self, folder: Path, roll_bytes: int, *, marked: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._roll_bytes = roll_bytes
        self._lock = threading.Lock()
        self._sizes = {int(path.stem): path.stat().st_size for path in folder.glob(f"*{_SUFFIX}")}
        self._size = sum(self._sizes.values())
        self.inherited = frozenset(self._sizes)
        self._began = {number: self._inherited_began(number) for number in self._sizes}
        self._next = max([self._counter(), time.time_ns() // 1000, *(n + 1 for n in self._sizes)])
        self._reserved = self._next
        self._marked = marked
        self._marks: dict[int, SentMarks] = {}
        for path in folder.glob(f"*{SUFFIX}"):
            if int(path.stem) not in self._sizes:
                path.unlink()
        self._active: int | None = None
        self._fd = -1
        self._slowest = _Slowest()

    @property
    def size(self) -> int:
        """Size of all segments."""
        return self._size

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest row has been here, at least; 0: there is none."""
        with self._lock:
            began = [self._began[number] for number, size in self._sizes.items() if size]
        return max(0.0, time.monotonic() - min(began)) if began else 0.0

    @property
    def slowest_write_seconds(self) -> float:
        """Of the writes of the last ten to twenty seconds."""
        return self._slowest.seconds(time.perf_counter())

    def append(self, rows: Sequence[Mapping[str, Any]]) -> Receipt | None:
        """Add rows with one write: all of them, or none. Their receipt, where marks are kept.

        Raises:
            OSError: The disk took less than all of it; nothing was added.
            TypeError: A row holds what is no JSON; nothing was added.
        """
        return self.append_lines(encoded(rows))

    def append_lines(self, data: bytes) -> Receipt | None:
        """Add whole JSON lines with one write: all of them, or none. Their receipt, where marks are kept.

        Raises:
            OSError: The disk took less than all of it; nothing was added.
            ValueError: The last line has no end; the next one would be lost with it.
        """
        if not data.endswith(b"\n"):
            raise ValueError(f"the lines end with {data[-20:]!r}, must end with a newline")
        lines = data.count(b"\n") if self._marked else 0
        with self._lock:
            if self._marked and self._active is not None and not self._marks[self._active].has_room(lines):
                self._seal()
            if self._active is None:
                self._begin(lines)
            number = self._active
            assert number is not None  # noqa: S101  # for the type checker: _begin has set it
            size, began = self._sizes[number], time.perf_counter()
            try:
                written = os.write(self._fd, data)
            except OSError:
                self._take_back(size)
                raise
            finally:
                self._slowest.note(began, time.perf_counter())
            if written != len(data):
                self._take_back(size)
                raise OSError(f"the disk took {written} of {len(data)} bytes in {self._folder}; free some space")
            self._sizes[number] = size + written
            self._size += written
            receipt = self._marks[number].add(lines) if self._marked else None
            if size + written >= self._roll_bytes:
                self._seal()
        return receipt

    def seal(self) -> None:
        """Close the segment that is written to, if there is one."""
        with self._lock:
            self._seal()

    def sealed(self) -> list[int]:
        """Numbers of the sealed segments, oldest first."""
        with self._lock:
            return sorted(number for number in self._sizes if number != self._active)

    def read(self, number: int) -> Contents:
        """The rows of a sealed segment."""
        with self._path(number).open("rb") as file:
            data = file.read(self._sizes[number])  # behind it may be what a failed write left and would not be cut off
        whole = len(data) if data.endswith(b"\n") else data.rfind(b"\n") + 1
        rows = as_sent(data[:whole], self._marks_path(number)) if self._marked else data[:whole]
        return Contents(JsonLines(rows), len(data) - whole)

    def all_sent(self, number: int) -> bool:
        """Whether the answers of all its rows have gone out; of an earlier process's segment, nothing more will."""
        marks = self._marks.get(number)
        return marks is None or marks.complete

    def keep_aside(self, number: int) -> None:
        """Copy a sealed segment that has damaged lines, for someone to look at."""
        path = self._path(number)
        shutil.copyfile(path, path.with_suffix(".damaged"))

    def drop(self, number: int) -> None:
        """Delete a sealed segment."""
        self._path(number).unlink(missing_ok=True)
        self._marks_path(number).unlink(missing_ok=True)
        with self._lock:
            self._size -= self._sizes.pop(number)
            self._began.pop(number, None)
            self._marks.pop(number, None)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:020d}{_SUFFIX}"

    def _marks_path(self, number: int) -> Path:
        return self._folder / f"{number:020d}{SUFFIX}"

    def _inherited_began(self, number: int) -> float:
        """When an earlier process began a segment, on this process's clock: its first row has the time."""
        path = self._path(number)
        began = path.stat().st_mtime  # of the last write
        with path.open("rb") as file, contextlib.suppress(ValueError, KeyError, TypeError):
            began = min(began, orjson.loads(file.readline())["ts"] / 1e6)
        return time.monotonic() - max(0.0, time.time() - began)

    def _begin(self, lines: int) -> None:
        if self._next >= self._reserved:
            self._reserve(self._next + _BLOCK)
        number = self._next
        if self._marked:
            self._marks[number] = SentMarks(self._marks_path(number), lines)
        self._fd = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._next += 1
        self._sizes[number], self._began[number] = 0, time.monotonic()
        self._active = number

    def _take_back(self, size: int) -> None:
        """Cut off what a failed write left. Where that fails too, nothing may be written behind it."""
        try:
            os.ftruncate(self._fd, size)
        except OSError:
            self._seal()

    def _seal(self) -> None:
        if self._active is not None:
            descriptor, self._active, self._fd = self._fd, None, -1
            os.close(descriptor)

    def _counter(self) -> int:
        try:
            return int((self._folder / "next").read_text())
        except FileNotFoundError:
            return 0

    def _reserve(self, upto: int) -> None:
        """Put on disk, synced, that numbers below `upto` may have been used."""
        path, fresh = self._folder / "next", self._folder / "next.new"
        with fresh.open("w") as file:
            file.write(str(upto))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._reserved = upto


class _Slowest:
    """What took longest lately, whoever asks for it and however often."""

    __slots__ = ("_before", "_began", "_now")

    def __init__(self) -> None:
        self._before = self._now = 0.0
        self._began = 0.0

    def note(self, began: float, ended: float) -> None:
        self._turn(ended)
        self._now = max(self._now, ended - began)

    def seconds(self, now: float) -> float:
        self._turn(now)
        return max(self._before, self._now)

    def _turn(self, now: float) -> None:
        gone = now - self._began
        if gone >= _LATELY_SECONDS:
            self._before = self._now if gone < 2 * _LATELY_SECONDS else 0.0
            self._now, self._began = 0.0, now


def encoded(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines.

    Raises:
        TypeError: A row holds what is no JSON.
    """
    if len(rows) == 1:
        return orjson.dumps(rows[0], option=orjson.OPT_APPEND_NEWLINE)
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
