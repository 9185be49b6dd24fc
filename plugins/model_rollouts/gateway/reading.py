"""From a decoded request to rows for one version, and to the units that the rows are for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.plain_rows import PlainRows
from model_rollouts.gateway.scoring_protocol import Document, records
from model_rollouts.gateway.signature import Signature, check_text, is_null

MAX_UNIT_CHARS = 256


@dataclass(slots=True)
class Reading:
    """What a request holds.

    Attributes:
        payload: Its rows, for the model.
        units: Who each row is for; None where the row does not say.
    """

    payload: Payload
    units: tuple[str | None, ...]


class Reader(Protocol):
    """Reads requests for one version. Readers that are equal read every request alike."""

    def read(self, document: Document, unit_column: str | None, max_rows: int) -> Reading:
        """The rows, checked against the version's signature.

        Args:
            document: A decoded body.
            unit_column: Column that names the unit, whether the model knows it or not.
            max_rows: Most rows.

        Raises:
            BadRequestError: They do not fit; says which row, column and value.
        """


@dataclass(frozen=True, slots=True)
class SignatureReader:
    """For models with named inputs of plain types, which can be checked to the last value and batched."""

    signature: Signature
    _plain: PlainRows = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare the short way."""
        object.__setattr__(self, "_plain", PlainRows(self.signature.columns))

    def read(self, document: Document, unit_column: str | None, max_rows: int) -> Reading:
        """See `Reader`."""
        if unit_column is None and (table := self._plain.read(document)) is not None:
            check_rows(table.rows, max_rows)
            return Reading(table, (None,) * table.rows)
        rows = records(document, tuple(column.name for column in self.signature.columns))
        check_rows(len(rows), max_rows)
        return Reading(self.signature.cast(rows), units_of(rows, unit_column))


def check_rows(rows: int, max_rows: int) -> None:
    """Refuse no rows and too many.

    Raises:
        BadRequestError: There are.
    """
    if not 1 <= rows <= max_rows:
        raise BadRequestError(f"the input has {rows} rows, must have between 1 and {max_rows}; send smaller parts")


def units_of(rows: Sequence[Mapping[str, Any]], column: str | None) -> tuple[str | None, ...]:
    """The unit of each row."""
    if column is None:
        return (None,) * len(rows)
    return tuple(unit_text(row.get(column), f"row {index} of column {column}") for index, row in enumerate(rows))


def unit_text(value: Any, where: str) -> str | None:
    """A unit's id as text; None for null and for empty text.

    Raises:
        BadRequestError: It is neither text nor a whole number, or too long.
    """
    if is_null(value) or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRequestError(f"the unit in {where} is a {type(value).__name__}, must be text or a whole number")
    text = str(value)
    if len(text) > MAX_UNIT_CHARS:
        raise BadRequestError(f"the unit in {where} has {len(text)} characters, must have at most {MAX_UNIT_CHARS}")
    try:
        return check_text(text)
    except ValueError as error:
        raise BadRequestError(f"the unit in {where} must be text that UTF-8 can hold") from error
