"""MLflow's scoring protocol: from a request's body to records, one dict a row.

What `mlflow models serve` accepts is accepted here: the JSON dictionaries `dataframe_split`, `dataframe_records`,
`instances` and `inputs` with optional `params`, CSV with a header, and Parquet.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from model_rollouts.gateway.errors import BadRequestError, UnsupportedMediaError
from model_rollouts.gateway.parquet import read_table

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")

# What pandas, and so MLflow's server, reads as a missing value in a CSV file.
_CSV_NULLS = frozenset(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)
_SHOWN = 80
_NO_CSV = "Invalid input. The body must be CSV in UTF-8 with a header."


@dataclass(slots=True)
class Document:
    """A decoded body.

    Attributes:
        format: One of FORMATS, or `csv` or `parquet`.
        content: What stood under the format's key; the text of a CSV file; a Parquet file's `pyarrow.Table`.
        params: Inference parameters, if any were sent.
    """

    format: str
    content: Any
    params: Mapping[str, Any] = field(default_factory=dict)


def decode(body: bytes, content_type: str | None, max_rows: int, max_bytes: int) -> Document:
    """Decode a body by its content type.

    Args:
        body: As sent.
        content_type: The header, with parameters.
        max_rows: Most rows that a packed table may hold; checked before it is unpacked.
        max_bytes: Largest body; a packed table may unpack to a small multiple of it.

    Raises:
        UnsupportedMediaError: Another content type, or another charset than UTF-8.
        BadRequestError: The body does not hold what the content type says.
    """
    kind = _media_type(content_type)
    if kind == JSON:
        return _decode_json(body)
    if kind == CSV:
        return Document("csv", _csv_text(body))
    return Document("parquet", read_table(body, max_rows, max_bytes))


def records(document: Document, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a document for a model whose inputs have names.

    Args:
        document: A decoded body.
        names: The signature's inputs; a bare list of values fits a model with exactly one.

    Raises:
        BadRequestError: The content has not the shape that its format asks for.
    """
    content = document.content
    if document.format == "csv":
        rows = _csv_records(content)
    elif document.format == "parquet":
        rows = _table_records(content)
    elif document.format == "dataframe_split":
        rows = _split_records(content)
    elif document.format == "dataframe_records":
        rows = _dict_records(content, document.format)
    elif isinstance(content, dict):
        rows = _column_records(content)
    elif isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        rows = _dict_records(content, document.format)
    elif isinstance(content, list) and len(names) == 1:
        rows = [{names[0]: item} for item in content]
    else:
        raise BadRequestError(
            f"'{document.format}' holds {type(content).__name__} without column names, and the model has "
            f"{len(names)} named inputs; send a list of dictionaries, or use 'dataframe_split' with 'columns'"
        )
    if not rows:
        raise BadRequestError("the input has 0 rows, must have at least 1")
    return rows


def _media_type(content_type: str | None) -> str:
    kind, *parameters = [part.strip() for part in (content_type or "").split(";")]
    if kind.lower() not in (JSON, CSV, PARQUET):
        raise UnsupportedMediaError(
            f"This predictor only supports the following content types: {JSON}, {CSV}, {PARQUET}. Got '{content_type}'."
        )
    for parameter in filter(None, parameters):
        key, _, value = parameter.partition("=")
        if key.strip().lower() != "charset" or value.strip(' "').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaError(f"The scoring server only supports UTF-8; Got '{content_type}'.")
    return kind.lower()


def parse_json(body: bytes) -> Any:
    """JSON, with the NaN that Python's and so MLflow's clients write.

    Raises:
        BadRequestError: It is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        reason = error
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequestError(f"Invalid input. Ensure that input is a valid JSON formatted string. {reason}") from None


def _decode_json(body: bytes) -> Document:
    message = f"The input must be a JSON dictionary with exactly one of the input fields {', '.join(FORMATS)}"
    decoded = parse_json(body)
    if not isinstance(decoded, dict):
        raise BadRequestError(f"Invalid input. {message}. Received a {type(decoded).__name__}.")
    found = [key for key in decoded if key in FORMATS]
    if len(found) != 1:
        raise BadRequestError(
            f"{message}. Received dictionary with input fields: {[str(k)[:80] for k in decoded][:20]}"
        )
    params = decoded.get("params")
    if params is not None and not isinstance(params, dict):
        raise BadRequestError(f"'params' is a {type(params).__name__}, must be a dictionary")
    return Document(found[0], decoded[found[0]], params or {})


def _split_records(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, dict):
        raise BadRequestError(f"Dataframe split format must be a dictionary. Got {type(content).__name__}.")
    if "data" not in content or not content.keys() <= {"columns", "data", "index"}:
        raise BadRequestError(
            "Dataframe split format must have 'data' field and optionally 'columns' and 'index' fields. "
            f"Got {sorted(content)[:20]}."
        )
    columns, data = content.get("columns"), content["data"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise BadRequestError("the model has named inputs, so 'dataframe_split' needs 'columns', a list of names")
    if len(set(columns)) != len(columns):
        twice = sorted(name[:_SHOWN] for name, times in Counter(columns).items() if times > 1)
        raise BadRequestError(f"'columns' names {', '.join(twice[:20])} more than once; name each column once")
    if not isinstance(data, list):
        raise BadRequestError(f"'data' is a {type(data).__name__}, must be a list of rows")
    rows = []
    for index, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            have = f"{len(row)} values" if isinstance(row, list) else f"a {type(row).__name__}"
            raise BadRequestError(f"row {index} of 'data' has {have}, must have {len(columns)}, one for each column")
        rows.append(dict(zip(columns, row, strict=True)))
    labels = content.get("index")
    if labels is not None and (not isinstance(labels, list) or len(labels) != len(rows)):
        raise BadRequestError(f"'index' must be a list of {len(rows)} labels, one for each row, or be left out")
    return rows


def _dict_records(content: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise BadRequestError(f"'{name}' must be a list of records. Got {type(content).__name__}.")
    for index, row in enumerate(content):
        if not isinstance(row, dict):
            raise BadRequestError(f"row {index} of '{name}' is a {type(row).__name__}, must be a dictionary")
    return content


def _column_records(content: dict[str, Any]) -> list[dict[str, Any]]:
    lists = {name: column for name, column in content.items() if isinstance(column, list)}
    if not lists:  # every value is a scalar: one row
        return [content] if content else []
    sizes = {name: len(column) for name, column in lists.items()}
    if len(lists) != len(content) or len(set(sizes.values())) != 1:
        have = ", ".join(f"{name}: {sizes.get(name, 'no list')}" for name in list(content)[:20])
        raise BadRequestError(f"The length of values for each input/column name are not the same ({have})")
    return [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]


def _table_records(table: Any) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, TypeError, OverflowError) as error:  # such as nanoseconds, which Python's dates have not
        raise BadRequestError(f"the Parquet file has values that can't be read: {error}") from error
    return rows


def is_packed(content_type: str | None) -> bool:
    """Whether a body of that type may hold far more than it weighs."""
    return content_type is not None and PARQUET in content_type.lower()


def _csv_text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequestError(f"{_NO_CSV} {error}") from error


def _csv_records(text: str) -> list[dict[str, Any]]:
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise BadRequestError(f"{_NO_CSV} {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise BadRequestError(f"{_NO_CSV} It is empty")
    header, rows = lines[0], lines[1:]
    if len(set(header)) != len(header):
        raise BadRequestError("the CSV header names a column more than once; name each column once")
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise BadRequestError(f"row {index} of the CSV has {len(row)} values, must have {len(header)}")
    return [{k: math.nan if v in _CSV_NULLS else v for k, v in zip(header, row, strict=True)} for row in rows]
