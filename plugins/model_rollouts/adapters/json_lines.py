"""Rows as the spool has them: JSON lines, which are decoded only for a reader that wants them one by one."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import orjson


class JsonLines(Sequence[Mapping[str, Any]]):
    """The rows of whole lines.

    Args:
        data: JSON lines, each with its newline.

    Attributes:
        data: As given.
        damaged: Lines that were found to be no JSON object and left out; 0 until the rows were decoded.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.damaged = 0
        self._rows: list[Mapping[str, Any]] | None = None

    def decoded(self) -> Sequence[Mapping[str, Any]]:
        """The rows, made at the first call: this takes the interpreter for some microseconds a row."""
        if self._rows is None:
            self._rows = []
            for line in self.data[:-1].splitlines():
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError:
                    row = None
                if isinstance(row, dict):
                    self._rows.append(row)
                else:
                    self.damaged += 1
        return self._rows

    def __bool__(self) -> bool:
        """Whether there are lines at all; they may all turn out to be damaged."""
        return bool(self.data)

    def __len__(self) -> int:
        return len(self.decoded())

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        return self.decoded()[index]
