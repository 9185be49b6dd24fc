"""Which rows of a segment belong to answers that went out: one byte a row, in a file that is mapped into memory.

A row is written before its answer goes out, so a process that dies in between leaves a row that says "served" of an
answer that nobody got. The mark is set afterwards. It costs no system call, and like the row it survives the death of
the process. Rows that are still without one when their segment is committed are logged as not served.
"""

import mmap
import os
from pathlib import Path

import orjson

SUFFIX = ".sent"
_LINES = 32_768
_SENT, _LOST = 1, 2


class Receipt:
    """Rows that were written, until their answer has gone out."""

    __slots__ = ("_count", "_map", "_start")

    def __init__(self, marks: mmap.mmap, start: int, count: int) -> None:
        self._map = marks
        self._start = start
        self._count = count

    def sent(self) -> None:
        """The answer has gone out, or the rows say themselves that there was none."""
        self._mark(_SENT)

    def lost(self) -> None:
        """The answer will not go out."""
        self._mark(_LOST)

    def _mark(self, mark: int) -> None:
        if self._count == 1:
            self._map[self._start] = mark
        else:
            self._map[self._start : self._start + self._count] = bytes((mark,)) * self._count


class SentMarks:
    """The marks of a segment that is written to.

    Args:
        path: Their file; made anew, with its room on the disk, so that a full disk is an error here and no crash later.
        lines: At least for so many rows.

    Raises:
        OSError: The disk has no room.
    """

    def __init__(self, path: Path, lines: int) -> None:
        self._size = max(lines, _LINES)
        self._used = 0
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
            self._map = mmap.mmap(descriptor, self._size)
        finally:
            os.close(descriptor)

    def has_room(self, lines: int) -> bool:
        """Whether so many more rows have their marks here."""
        return self._used + lines <= self._size

    def add(self, lines: int) -> Receipt:
        """The marks of the next rows."""
        receipt = Receipt(self._map, self._used, lines)
        self._used += lines
        return receipt

    @property
    def complete(self) -> bool:
        """Whether it is known of every row what became of its answer."""
        return self._map.find(b"\x00", 0, self._used) < 0


def as_sent(data: bytes, path: Path) -> bytes:
    """Rows of a segment, not served where they have no mark.

    Args:
        data: Whole JSON lines.
        path: Their marks; rows of a segment that has none stay as they are.
    """
    try:
        marks = path.read_bytes()
    except FileNotFoundError:
        return data
    count = data.count(b"\n")
    if marks[:count].count(_SENT) == count:
        return data
    lines = data.splitlines(keepends=True)
    return b"".join(line if marks[at : at + 1] == bytes((_SENT,)) else _unserved(line) for at, line in enumerate(lines))


def _unserved(line: bytes) -> bytes:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line  # damaged: whoever reads it finds out
    if not isinstance(row, dict) or not row.get("served"):
        return line
    return orjson.dumps(row | {"served": False}, option=orjson.OPT_APPEND_NEWLINE)
