"""Parquet bodies, which may hold far more than they weigh: bounded before they are unpacked.

A column's text is there once, however many rows have it, and its rows are there as runs. So the size that the file
gives for itself says little of what it becomes.
"""

import io
from collections.abc import Iterator
from typing import Any

from model_rollouts.gateway.errors import BadRequestError

_GROWTH = 20  # a file may unpack to this many times the largest body
_VALUE_BYTES = 32  # that a value takes at least, as one of a row


def read_table(body: bytes, max_rows: int, max_bytes: int) -> Any:
    """The table in a Parquet file.

    Args:
        body: The file.
        max_rows: Most rows.
        max_bytes: Largest body; the table may be a small multiple of it.

    Raises:
        BadRequestError: It is no Parquet file, or too large; that is found before its values are copied.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    limit = _GROWTH * max_bytes
    try:
        file = pq.ParquetFile(io.BytesIO(body))
        meta = file.metadata
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        rows = max(meta.num_rows, sum(group.num_rows for group in groups))
        chunks = [group.column(i) for group in groups for i in range(meta.num_columns)]
        unpacked = sum(max(chunk.total_uncompressed_size, chunk.num_values * _VALUE_BYTES) for chunk in chunks)
        unpacked += sum(_fixed_bytes(meta, group) for group in groups)
        if rows <= max_rows and unpacked <= limit:
            shared = {c.path_in_schema: c for c in chunks if c.physical_type == "BYTE_ARRAY"}
            # A value is no longer than all of its column's: most files need no closer look.
            if sum(c.num_values * c.total_uncompressed_size for c in chunks if c.path_in_schema in shared) > limit:
                unpacked += _text_bytes(pq.ParquetFile(io.BytesIO(body), read_dictionary=list(shared)), list(shared))
        if rows > max_rows or unpacked > limit:
            raise BadRequestError(
                f"the Parquet file has {rows} rows and takes {unpacked} bytes, must have at most "
                f"{max_rows} and {limit}; send smaller parts"
            )
        return file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadRequestError(f"Invalid input. The body must be a Parquet file. {error}") from error


def _fixed_bytes(meta: Any, group: Any) -> int:
    """Bytes of the values that all have the same length, beyond numbers."""
    return sum(
        meta.schema.column(i).length * group.column(i).num_values
        for i in range(meta.num_columns)
        if meta.schema.column(i).physical_type == "FIXED_LEN_BYTE_ARRAY"
    )


def _text_bytes(file: Any, columns: list[str]) -> int:
    """Bytes of all texts, each as often as a row has it; only its number is copied for each."""
    import pyarrow.compute as pc

    size = 0
    for column in file.read(columns=columns, use_threads=False).itercolumns():
        for chunk in column.chunks:
            for texts in _texts(chunk):
                lengths = pc.binary_length(texts.dictionary).take(texts.indices)
                size += pc.sum(pc.cast(lengths, "int64")).as_py() or 0
    return size


def _texts(array: Any) -> Iterator[Any]:
    """The arrays of numbered texts in a column, however deep."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        yield array
    elif pa.types.is_map(array.type):
        yield from _texts(array.keys)
        yield from _texts(array.items)
    elif pa.types.is_struct(array.type):
        for part in array.flatten():
            yield from _texts(part)
    elif pa.types.is_nested(array.type):
        yield from _texts(array.flatten())
