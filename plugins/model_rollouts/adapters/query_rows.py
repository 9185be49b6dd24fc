"""The rows that an engine gave, as DuckDB would have given them."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Rows:
    """Implements `QueryResult`. A number without a type of its own in Python is an int if it is whole, else a float.

    Attributes:
        schema: Name and type of each column.
        rows: The rows.
    """

    schema: "pa.Schema"
    rows: Sequence[tuple[Any, ...]]

    @property
    def description(self) -> list[tuple[Any, ...]]:
        """Name and type of each column."""
        return [(field.name, field.type) for field in self.schema]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows."""
        return [tuple(map(_plain, row)) for row in self.rows]

    def df(self) -> "pd.DataFrame":
        """The rows, with the types that DuckDB's frames have."""
        import pyarrow as pa

        from model_rollouts.adapters.delta_files import connect

        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.schema)
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, self.schema, strict=True)]
        with connect() as connection:
            return connection.from_arrow(pa.Table.from_arrays(arrays, schema=self.schema)).df()


def _plain(value: Any) -> Any:
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)
