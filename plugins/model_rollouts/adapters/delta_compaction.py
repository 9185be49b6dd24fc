"""Merges a Delta table's small files, by one process at a time.

deltalake 1.6 takes two compactions of the same files for no conflict, as neither changes data, and commits both: every
row would be there twice. So whoever compacts takes a lease first: a commit of an application transaction, of which two
at once are a conflict. Its version is the time at which the lease ends, so that a process that died holds nobody up for
long.
"""

import time
from contextlib import suppress
from datetime import date
from pathlib import Path

from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError

_APPLICATION = "model-rollouts/compaction"
_LEASE_SECONDS = 3600.0  # far more than a compaction of a day takes


def compact(path: Path, target_size: int, day: date | None = None, tasks: int | None = None) -> int | None:
    """Merge files below the target size, in one commit; rows stay in their order, and in their days.

    Args:
        path: The table's folder.
        target_size: About how many bytes a file shall have.
        day: Only the files of a day.
        tasks: Files that are made at once; memory grows with them. None: one a processor.

    Returns:
        How many files were merged; None where another process compacts the table, and nothing was done.

    Raises:
        CommitFailedError: Rows were deleted meanwhile; nothing was changed, try again.
        DeltaError: The table can't be read or written.
    """
    lease = _claim(path)
    if lease is None:
        return None
    try:
        metrics = DeltaTable(str(path)).optimize.compact(
            partition_filters=None if day is None else [("day", "=", str(day))],
            target_size=target_size,
            max_concurrent_tasks=tasks,
        )
        return int(metrics["numFilesRemoved"])
    finally:
        with suppress(DeltaError):  # it ends by itself
            _release(path, lease)


def _claim(path: Path) -> int | None:
    """When the lease that was taken ends, in milliseconds since 1970; None where another process has one."""
    delta = DeltaTable(str(path))
    now = time.time_ns() // 1_000_000
    if (until := delta.transaction_version(_APPLICATION)) is not None and until > now:
        return None
    lease = now + int(_LEASE_SECONDS * 1000)
    try:
        _mark(delta, lease)
    except CommitFailedError:  # another process was faster
        return None
    return lease


def _release(path: Path, lease: int) -> None:
    delta = DeltaTable(str(path))
    if delta.transaction_version(_APPLICATION) == lease:  # else it had ended, and another process has one now
        _mark(delta, time.time_ns() // 1_000_000)


def _mark(delta: DeltaTable, until: int) -> None:
    """A commit without rows; it fails where another one of this application came since the table was opened."""
    delta.create_write_transaction(
        [],
        mode="append",
        schema=delta.schema(),
        partition_by=delta.metadata().partition_columns,
        commit_properties=CommitProperties(app_transactions=[Transaction(_APPLICATION, until)]),
    )
