"""Merges a Delta table's small files, by one process at a time.

deltalake 1.6 takes two compactions of the same files for no conflict, as neither changes data, and commits both: every
row would be there twice. So whoever compacts takes a lease first: a commit of an application transaction, of which two
at once are a conflict. Its version is the time at which the lease ends, so that a process that died holds nobody up for
long. A process that is slower than its lease, or whose clock is wrong, is held off by the same transaction: the commit
that merges the files has it too, and fails where another process took the lease meanwhile. deltalake's own compaction
does not pass a transaction on to its commit, so the files are merged here.
"""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

_APPLICATION = "model-rollouts/compaction"
_LEASE_SECONDS = 3600.0  # far more than a compaction of a day takes
_GROUP_BYTES = 32 * 1024 * 1024  # of rows that are held in memory until they are written
_GROUP_ROWS = 500_000
_READ_ROWS = 10_000
_COMMIT_TRIES = 100  # against those who only append: what was merged would have to be merged again
_HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}  # data files say all there is to know


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    day: str
    low: datetime | None
    high: datetime | None
    nulls: int | None


def compact(path: Path, target_size: int, day: date | None = None) -> int | None:
    """Merge files below the target size, in one commit; rows stay in their order, and in their days.

    Args:
        path: The table's folder.
        target_size: About how many bytes a file shall have.
        day: Only the files of a day.

    Returns:
        How many files were merged; None where another process compacts the table, and nothing was done.

    Raises:
        CommitFailedError: Rows were deleted meanwhile, or another process took the lease; nothing was changed, try
            again.
        DeltaError: The table can't be read or written.
        OSError: One of its files can't be.
    """
    lease = _claim(path)
    if lease is None:
        return None
    try:
        delta = DeltaTable(str(path))
        if delta.transaction_version(_APPLICATION) != lease:
            return None
        return _merge(path, delta, lease, target_size, day)
    finally:
        with suppress(DeltaError):  # it ends by itself
            _release(path, lease)


def _merge(path: Path, delta: DeltaTable, lease: int, target_size: int, day: date | None) -> int:
    if features := set(delta.protocol().reader_features or ()) - _HARMLESS:
        raise DeltaError(
            f"{path} uses Delta features {', '.join(sorted(features))}, which its files alone do not tell of; "
            "compact it with the tool that it is written by"
        )
    bins = list(_bins(_files(delta, day), target_size))
    if not bins:
        return 0
    schema = _schema(delta)
    actions: list[AddAction | RemoveAction] = list(_all_merged(path, bins, schema))
    now = time.time_ns() // 1_000_000
    gone = [file for files in bins for file in files]
    actions += [
        RemoveAction(
            path=file.path,
            data_change=False,
            deletion_timestamp=now,
            partition_values={"day": file.day},
            size=file.size,
        )
        for file in gone
    ]
    _commit(delta, lease, actions)
    return len(gone)


def _files(delta: DeltaTable, day: date | None) -> list[_File]:
    """The table's files in the order of their rows' times, day by day; those of no day stay as they are."""
    found = []
    for each in pa.table(delta.get_add_actions(flatten=True)).to_pylist():
        of = each.get("partition.day")
        if isinstance(of, date) and (day is None or of == day):
            name, size = unquote(str(each["path"])), int(each["size_bytes"])
            times = (each.get("min.ts"), each.get("max.ts"), each.get("null_count.ts"))
            found.append(_File(name, size, str(of), *times))
    return sorted(found, key=lambda file: (file.day, _microseconds(file.low), file.path))


def _bins(files: Sequence[_File], target_size: int) -> Iterator[list[_File]]:
    """Neighbours that become one file."""
    kept: list[_File] = []
    size = 0
    for file in files:
        if file.size >= target_size:
            continue
        if kept and (size + file.size > target_size or kept[0].day != file.day):
            if len(kept) > 1:
                yield kept
            kept, size = [], 0
        kept.append(file)
        size += file.size
    if len(kept) > 1:
        yield kept


def _schema(delta: DeltaTable) -> pa.Schema:
    """What is in a data file; days are in the names of folders."""
    partitions = set(delta.metadata().partition_columns)
    return pa.schema([field for field in pa.schema(delta.schema()) if field.name not in partitions])


def _all_merged(path: Path, bins: Sequence[Sequence[_File]], schema: pa.Schema) -> list[AddAction]:
    """Write a file for each bin, or none: on a full disk what is in no version would take the room of what is.

    Those of a crash, or of a commit that failed later, are removed by upkeep when they are old.
    """
    written: list[AddAction] = []
    try:
        for files in bins:
            written.append(_merged(path, files, schema))
    except BaseException:
        for action in written:
            (path / action.path).unlink(missing_ok=True)
        raise
    return written


def _merged(path: Path, files: Sequence[_File], schema: pa.Schema) -> AddAction:
    """Write one file with the rows of some."""
    name = f"day={files[0].day}/part-00000-{uuid.uuid4()}-c000.zstd.parquet"
    rows = 0
    try:
        with pq.ParquetWriter(path / name, schema, compression="zstd") as writer:
            for group in _groups(path, files, schema):
                writer.write_table(group)
                rows += group.num_rows
    except BaseException:
        (path / name).unlink(missing_ok=True)
        raise
    return AddAction(
        path=name,
        size=(path / name).stat().st_size,
        partition_values={"day": files[0].day},
        modification_time=time.time_ns() // 1_000_000,
        data_change=False,
        stats=_stats(files, rows),
    )


def _groups(path: Path, files: Sequence[_File], schema: pa.Schema) -> Iterator[pa.Table]:
    """All rows, in parts of a bounded size; a column that a file does not have yet is empty."""
    kept: list[pa.Table] = []
    size = rows = 0
    for file in files:
        with pq.ParquetFile(path / file.path) as opened:
            for batch in opened.iter_batches(_READ_ROWS):
                columns = [
                    batch.column(field.name).cast(field.type)
                    if field.name in batch.schema.names
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                kept.append(pa.Table.from_arrays(columns, schema=schema))
                size, rows = size + batch.nbytes, rows + batch.num_rows
                if size > _GROUP_BYTES or rows > _GROUP_ROWS:
                    yield pa.concat_tables(kept)
                    kept, size, rows = [], 0, 0
    if kept:
        yield pa.concat_tables(kept)


def _stats(files: Sequence[_File], rows: int) -> str:
    """What readers prune by: the times of the rows; of a file without it nothing is said, and it is always read."""
    known: dict[str, Any] = {"numRecords": rows}
    lows = [file.low for file in files if file.low is not None]
    highs = [file.high for file in files if file.high is not None]
    nulls = [file.nulls for file in files if file.nulls is not None]
    if len(lows) == len(highs) == len(files):
        known |= {"minValues": {"ts": _text(min(lows))}, "maxValues": {"ts": _text(max(highs))}}
    if len(nulls) == len(files):
        known["nullCount"] = {"ts": sum(nulls)}
    return json.dumps(known)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _microseconds(moment: datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp() * 1e6)


def _claim(path: Path) -> int | None:
    """When the lease that was taken ends, in milliseconds since 1970; None where another process has one."""
    delta = DeltaTable(str(path))
    now = time.time_ns() // 1_000_000
    if (until := delta.transaction_version(_APPLICATION)) is not None and until > now:
        return None
    lease = now + int(_LEASE_SECONDS * 1000)
    try:
        _commit(delta, lease)
    except CommitFailedError:  # another process was faster
        return None
    return lease


def _release(path: Path, lease: int) -> None:
    delta = DeltaTable(str(path))
    if delta.transaction_version(_APPLICATION) == lease:  # else it had ended, and another process has one now
        _commit(delta, time.time_ns() // 1_000_000)


def _commit(delta: DeltaTable, until: int, actions: Sequence[AddAction | RemoveAction] = ()) -> None:
    """A commit that fails where another one of this application came since the table was opened."""
    delta.create_write_transaction(
        list(actions),
        mode="append",
        schema=delta.schema(),
        partition_by=delta.metadata().partition_columns,
        commit_properties=CommitProperties(
            app_transactions=[Transaction(_APPLICATION, until)], max_commit_retries=_COMMIT_TRIES
        ),
    )
