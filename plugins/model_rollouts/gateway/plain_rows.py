"""The short way for requests that fit the signature as they came: every column there, every value of its own type.

Most requests are like that. They are told by the types of the values alone, and nothing is converted but whole numbers
for floats. Whatever is unusual goes the long way (`signature.py`), which casts, or says what is wrong.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from operator import itemgetter
from typing import Any

from model_rollouts.gateway.payload import Column, Table
from model_rollouts.gateway.scoring_protocol import Document

_INT32 = 2**31
_JSON_TYPES: dict[str, type] = {"double": float, "long": int, "integer": int, "string": str, "boolean": bool}
_PLAIN_SPLIT = {"columns", "data"}
_NUMBERS = frozenset({int, float})


class PlainRows:
    """Reads requests for one signature.

    Args:
        columns: Its inputs.
    """

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._columns = columns
        self._names = [column.name for column in columns]
        self._logged = tuple(self._names)
        self._types = tuple(_JSON_TYPES.get(column.type) for column in columns)
        self._floats = _places(columns, "double")
        self._whole = _places(columns, "long", "integer")
        self._texts = _places(columns, "string")
        self._possible = len(columns) > 1 and None not in self._types
        self._values: Callable[[dict[str, Any]], tuple[Any, ...]] | None = (
            itemgetter(*self._names) if len(columns) > 1 else None
        )
        self._all_floats = len(self._floats) == len(columns)

    def read(self, document: Document) -> Table | None:
        """The rows of a document, or None when they are to go the long way."""
        if not self._possible:
            return None
        content = document.content
        if document.format == "dataframe_split":
            rows = self._of_split(content)
        elif document.format == "dataframe_records":
            rows = self._of_records(content)
        else:
            return None
        if not rows:
            return None
        checked = []
        for row in rows:
            fitting = self._fitting(row)
            if fitting is None:
                return None
            checked.append(fitting)
        return Table(self._columns, checked, self._logged)

    def _of_split(self, content: Any) -> Sequence[Any] | None:
        if type(content) is not dict or content.keys() != _PLAIN_SPLIT or content["columns"] != self._names:
            return None
        data = content["data"]
        return data if type(data) is list else None

    def _of_records(self, content: Any) -> Sequence[Any] | None:
        if type(content) is not list or self._values is None:
            return None
        try:
            return [self._values(record) if len(record) == len(self._names) else () for record in content]
        except (KeyError, TypeError, IndexError):
            return None

    def _fitting(self, row: Any) -> Sequence[Any] | None:
        """The values if they are as the signature has them, with floats for whole numbers in columns of floats."""
        try:
            types = tuple(map(type, row))
        except TypeError:
            return None
        try:
            values: Sequence[Any] | None = row if types == self._types else self._with_floats(row, types)
        except OverflowError:  # a whole number that no float can hold
            return None
        if values is None:
            return None
        # A sum that is finite has no part that is not; one that overflows goes the long way.
        if not isfinite(sum(values) if self._all_floats else sum(values[at] for at in self._floats)):
            return None
        if self._whole and not all(-_INT32 <= values[at] < _INT32 for at in self._whole):
            return None
        if self._texts and not all(values[at].isascii() for at in self._texts):
            return None
        return values

    def _with_floats(self, row: Any, types: tuple[type, ...]) -> Sequence[Any] | None:
        """Whole numbers in columns of floats as floats, if nothing else is different."""
        if len(types) != len(self._types):
            return None
        if self._all_floats:
            return list(map(float, row)) if _NUMBERS.issuperset(types) else None
        values = list(row)
        for at in self._floats:
            if types[at] is int:
                values[at] = float(values[at])
        return values if tuple(map(type, values)) == self._types else None


def _places(columns: Sequence[Column], *kinds: str) -> tuple[int, ...]:
    return tuple(at for at, column in enumerate(columns) if column.type in kinds)
