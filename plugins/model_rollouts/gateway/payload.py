"""Rows on their way to a model, in the form its signature asks for."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Column:
    """One input of a signature.

    Attributes:
        name: Its name.
        type: MLflow's name of its type: boolean, integer, long, float, double, string, binary, datetime.
        required: Whether every row must have it.
    """

    name: str
    type: str
    required: bool = True


class Payload(Protocol):
    """Rows of one request."""

    @property
    def rows(self) -> int:
        """How many."""

    @property
    def key(self) -> Hashable | None:
        """Payloads of one key may be scored in one call; None: on its own only."""

    def take(self, indices: Sequence[int]) -> "Payload":
        """Some of the rows, in the order asked for."""

    def data(self) -> Any:
        """What `predict` is called with."""

    def features(self, index: int) -> Mapping[str, Any]:
        """The inputs of one row as the log keeps them: numbers, booleans, text or None."""


_DTYPES: dict[str, Any] = {
    "boolean": np.dtype("bool"),
    "integer": np.dtype("int32"),
    "long": np.dtype("int64"),
    "float": np.dtype("float32"),
    "double": np.dtype("float64"),
    "string": np.dtype("object"),
    "binary": np.dtype("object"),
    "datetime": np.dtype("datetime64[ns]"),
}


@dataclass(slots=True)
class Table:
    """Rows under a signature with named columns of plain types.

    Attributes:
        columns: Those that are there, in the signature's order.
        values: One sequence a row, with a value for each column.
        names: Names of the columns, where the log keeps every value as it is.
    """

    columns: tuple[Column, ...]
    values: Sequence[Sequence[Any]]
    names: tuple[str, ...] | None = None

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.values)

    @property
    def key(self) -> Hashable:
        """The columns: an optional column that only some requests have keeps them apart."""
        return self.columns

    def take(self, indices: Sequence[int]) -> "Table":
        """Some of the rows, in the order asked for."""
        return Table(self.columns, [self.values[i] for i in indices], self.names)

    def joined(self, others: Sequence[Self]) -> "Table":
        """These rows and those of the others, which have the same key."""
        return Table(self.columns, [row for table in (self, *others) for row in table.values])

    def by_column(self) -> list[tuple[Any, ...]]:
        """The values of each column."""
        return list(zip(*self.values, strict=True))

    def data(self) -> Any:
        """A DataFrame with exactly the signature's dtypes, whatever values a batch happens to hold."""
        import pandas as pd

        return pd.DataFrame(
            {c.name: np.array(v, dtype=_DTYPES[c.type]) for c, v in zip(self.columns, self.by_column(), strict=True)}
        )

    def matrix(self) -> "np.ndarray[Any, Any]":
        """The values as floats, one row a row, where all columns are of numbers."""
        return np.array(self.values, dtype=np.float64)

    def features(self, index: int) -> dict[str, Any]:
        """The inputs of one row as the log keeps them."""
        if self.names is not None:
            return dict(zip(self.names, self.values[index], strict=True))
        return {c.name: _loggable(c.type, v) for c, v in zip(self.columns, self.values[index], strict=True)}


def joined(payloads: Sequence[Payload]) -> Payload:
    """Payloads of one key, which is not None, as one.

    Raises:
        AssertionError: They have none.
    """
    tables = [payload for payload in payloads if isinstance(payload, Table)]
    if len(payloads) == 1:
        return payloads[0]
    if len(tables) != len(payloads):
        raise AssertionError("only tables have a key to be joined by")
    return tables[0].joined(tables[1:])


def _loggable(kind: str, value: Any) -> Any:
    if kind == "datetime":
        return None if np.isnat(value) else np.datetime_as_string(value, unit="us")
    if kind == "binary":
        import base64

        return base64.b64encode(value).decode()
    if kind == "string" and not isinstance(value, str):
        return None  # NaN, as MLflow has a missing text in CSV
    return value
