"""Bulk import of outcomes: a file of labels and business values into the prediction log, whole and once.

The file is read twice. First every row is checked, and one bad row stops the import before anything is written. Then
the rows are written in numbered chunks under the file's own digest, so that an import that broke off goes on where
it was, and a file that is imported again adds nothing.
"""

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.core.errors import RolloutError

COLUMNS = ("request_id", "label", "value", "ts")
_CHUNK_ROWS = 50_000
_ID_CHARS = 220  # as the gateway takes them
_LABEL_CHARS = 1000
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_CLOCK_SKEW = timedelta(minutes=5)
_TOLD = 10  # bad rows that a message spells out
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_TORN = object()  # stands for the id of a CSV row with too few or too many cells

Row = dict[str, Any]


class OutcomesFileError(RolloutError, ValueError):
    """The file is not what can be imported. Nothing was written."""


def import_file(log: LogRoot, model: str, file: Path) -> tuple[int, int]:
    """Write a file's outcomes to a model's log.

    Args:
        log: The log: a folder of Delta tables, or a `LogStore`.
        model: Registered model name.
        file: `.csv`, `.parquet`, or `.jsonl`/`.ndjson` (one object a line), with the columns request_id, label, value
            and ts. Each row needs request_id, and label or value. A missing ts is the time of the import, a ts
            without time zone is UTC.

    Returns:
        Outcomes added, and outcomes that an earlier import of the same file had added.

    Raises:
        OutcomesFileError: The file, or a row of it, is wrong; the message names the rows by number, from 1.
        OSError: The file can't be read.
    """
    now = datetime.now(UTC)
    digest = _digest(file)
    _check(file, now)
    writer = log_appender(log, f"import-{digest}")
    added = known = 0
    rows = _checked(file, now)
    for number, chunk in enumerate(iter(lambda: list(islice(rows, _CHUNK_ROWS)), [])):
        if writer.append(model, "outcomes", chunk, number):
            added += len(chunk)
        else:
            known += len(chunk)
    if _digest(file) != digest:
        raise OutcomesFileError(
            f"{file} changed while it was imported, {added} outcomes of it were added; import a file that is complete"
        )
    return added, known


def parse_row(item: Mapping[str, Any], now: datetime) -> Row:
    """One outcome in the log's types.

    Args:
        item: Values by column; text from CSV, JSON or Arrow types from the others.
        now: Time of the import, UTC.

    Raises:
        ValueError: A value is missing or wrong; says which, and what it must be.
    """
    request_id = _request_id(item.get("request_id"))
    label, value = _label(item.get("label")), _value(item.get("value"))
    if label is None and value is None:
        raise ValueError("neither label nor value; give at least one")
    return {"request_id": request_id, "ts": _time(item.get("ts"), now), "label": label, "value": value}


# --- reading


def _check(file: Path, now: datetime) -> None:
    bad: list[str] = []
    count = wrong = 0
    for number, item in enumerate(_items(file), start=1):
        count += 1
        try:
            parse_row(item, now)
        except ValueError as error:
            wrong += 1
            if len(bad) < _TOLD:
                bad.append(f"row {number}: {error}")
    if wrong:
        more = f"\n... and {wrong - len(bad)} more" if wrong > len(bad) else ""
        raise OutcomesFileError(
            f"{wrong} of {count} rows of {file} are wrong; nothing was imported\n" + "\n".join(bad) + more
        )
    if not count:
        raise OutcomesFileError(f"{file} has no rows; nothing was imported")


def _checked(file: Path, now: datetime) -> Iterator[Row]:
    return (parse_row(item, now) for item in _items(file))


def _items(file: Path) -> Iterator[Mapping[str, Any]]:
    match file.suffix.lower():
        case ".csv":
            return _csv_items(file)
        case ".parquet":
            return _parquet_items(file)
        case ".jsonl" | ".ndjson":
            return _json_items(file)
        case other:
            raise OutcomesFileError(f"{file} ends with {other!r}, must end with .csv, .parquet, .jsonl or .ndjson")


def _csv_items(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
            _require_columns(file, header)
            for cells in reader:
                if len(cells) == len(header):
                    yield {column: cell or None for column, cell in zip(header, cells, strict=True)}
                elif cells:  # a blank line is no row
                    yield {"request_id": _TORN}
        except (csv.Error, UnicodeDecodeError) as error:
            raise OutcomesFileError(f"{file}, line {reader.line_num}: no valid CSV in UTF-8: {error}") from error


def _json_items(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError as error:
                raise OutcomesFileError(f"{file}, line {number}: no valid JSON: {error}") from error
            if not isinstance(item, dict):
                raise OutcomesFileError(f"{file}, line {number}: a {type(item).__name__}, must be an object")
            _require_columns(f"{file}, line {number}", item, every=False)
            yield item


def _parquet_items(file: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            _require_columns(file, parquet.schema_arrow.names)
            for batch in parquet.iter_batches(_CHUNK_ROWS):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise OutcomesFileError(f"{file} is no valid Parquet file: {error}") from error


def _require_columns(where: Path | str, names: Iterable[Any], *, every: bool = True) -> None:
    """Every column must be known: a misspelt one would be lost without a word."""
    found = list(names)
    if unknown := sorted({str(name) for name in found} - set(COLUMNS)):
        raise OutcomesFileError(f"{where}: unknown column {', '.join(unknown)}; known are {', '.join(COLUMNS)}")
    if len(set(found)) != len(found):
        raise OutcomesFileError(f"{where}: a column is there twice: {', '.join(found)}")
    if every and ("request_id" not in found or not {"label", "value"} & set(found)):
        raise OutcomesFileError(
            f"{where}: columns are {', '.join(found) or 'none'}; need request_id, and label or value"
        )


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


# --- values


def _request_id(value: Any) -> str:
    if value is _TORN:
        raise ValueError("not as many cells as the header has columns")
    if not isinstance(value, str) or not value.strip() or len(value) > _ID_CHARS:
        raise ValueError(f"request_id is {value!r:.80}, must be text of 1 to {_ID_CHARS} characters")
    return value


def _label(value: Any) -> str | None:
    """The label as predictions are written: 1 for 1, 1.0 and true; text as it is.

    Text that is a decimal number counts as one: in CSV there is no other way to write it, and tables with gaps write
    their whole numbers as "1.0".
    """
    match value:
        case None:
            return None
        case bool() | int():
            text = str(int(value))
        case float() | Decimal():
            text = _number_text(float(value))
        case str() if _DECIMAL.fullmatch(value.strip()):
            text = _number_text(float(value))
        case str():
            text = value
        case _:
            raise ValueError(f"label is {value!r:.80}, must be text, a number or a boolean")
    if not text.strip() or len(text) > _LABEL_CHARS:
        raise ValueError(f"label has {len(text)} characters, must have 1 to {_LABEL_CHARS} and not only blanks")
    return text


def _number_text(number: float) -> str:
    if not math.isfinite(number):
        raise ValueError(f"label is {number}, must be finite")
    return str(int(number)) if number.is_integer() else repr(number)


def _value(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError(f"value is {value!r:.80}, must be a number")  # noqa: TRY004 - all become one message
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"value is {value!r:.80}, must be a finite number")
    return number


def _time(value: Any, now: datetime) -> datetime:
    if value is None:
        return now
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"ts is {value!r:.80}, must be ISO 8601, such as 2026-01-31T12:00:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError(f"ts is {value!r:.80}, must be a time in ISO 8601")  # noqa: TRY004 - all become one message
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if not _EARLIEST <= moment <= now + _CLOCK_SKEW:
        raise ValueError(f"ts is {moment.isoformat()}, must be between {_EARLIEST.date()} and now ({now.isoformat()})")
    return moment
