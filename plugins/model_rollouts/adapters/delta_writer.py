"""Appends to the prediction log, each batch exactly once."""

import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from pyarrow.lib import ArrowException

from model_rollouts.adapters.delta_compaction import compact
from model_rollouts.adapters.delta_schema import SCHEMAS, TableName, table_path, to_arrow
from model_rollouts.adapters.segment_arrow import columnar

_TRIES = 12
_COMPACT_EVERY = 200  # commits of one writer; a commit costs some 5 ms more for every 50 small files
_COMPACTED_BYTES = 16 * 1024 * 1024  # small, so that a compaction never takes long
_CONFIGURATION = {
    "delta.checkpointInterval": "50",
    "delta.dataSkippingStatsColumns": "ts",  # readers prune by time alone; more would only swell the commits
    "delta.logRetentionDuration": "interval 2 days",
    "delta.enableExpiredLogCleanup": "true",
    # Compacted-away files stay for readers that have listed them already.
    "delta.deletedFileRetentionDuration": "interval 1 days",
}


class DeltaLogWriter:
    """Writes one process's rows. Safe to use from several threads; several processes may write to one table.

    Args:
        root: Root folder of the log.
        app_id: Who writes. Stays the same over restarts, and no two living writers share it.
    """

    def __init__(self, root: Path, app_id: str) -> None:
        if not app_id:
            raise ValueError("app_id is empty; give the gateway's id")
        self.root = Path(root)
        self.app_id = app_id
        self._tables: dict[Path, DeltaTable] = {}
        self._commits: dict[Path, int] = {}
        self._lock = threading.Lock()

    def append(self, model: str, table: TableName, rows: Sequence[Mapping[str, Any]], version: int) -> bool:
        """Write a batch in one commit, unless it is there already.

        Delta keeps the last version of each application alone, so versions must grow: one that is not above the
        last counts as written.

        Args:
            model: Registered model name.
            table: "predictions" or "outcomes".
            rows: The batch, keys as in docs/contracts.md; inputs under the key `features`. `JsonLines` are read
                without holding up other threads.
            version: Number of the batch, growing within this app_id, model and table.

        Returns:
            True when this call wrote the rows; False when they were there already, or there are none.

        Raises:
            LogContractError: A row breaks the contract or an existing column's type. Nothing is written; writing
                the same rows again would fail again.
            DeltaError: The table can't be read or written. Nothing is written; try again.
        """
        path = table_path(self.root, model, table)
        if isinstance(version, bool) or not isinstance(version, int) or version < 0:
            raise ValueError(f"version is {version!r}, must be a whole number from 0")
        if not rows:
            return False
        application = f"{self.app_id}/{model}/{table}"
        with self._lock:
            for attempt in range(_TRIES):
                try:
                    written = self._append_once(path, table, rows, application, version)
                    break
                except CommitFailedError:  # another process was faster: look again, write again
                    self._tables.pop(path, None)
                    if attempt == _TRIES - 1:
                        raise
                    time.sleep(random.uniform(0.005, 0.02) * (attempt + 1))  # noqa: S311 - spreads writers, no secret
                except BaseException:  # the handle may be in any state
                    self._tables.pop(path, None)
                    raise
            if written:
                self._commits[path] = self._commits.get(path, 0) + 1
                if self._commits[path] % _COMPACT_EVERY == 0:
                    self._compact(path)
        return written

    def _append_once(
        self, path: Path, table: TableName, rows: Sequence[Mapping[str, Any]], application: str, version: int
    ) -> bool:
        delta = self._open(path, table)
        last = delta.transaction_version(application)
        if last is not None and last >= version:
            return False
        existing = {field.name: str(getattr(field.type, "type", field.type)) for field in delta.schema().fields}
        data = columnar(table, rows, existing)
        if data is None:
            if not (decoded := list(rows)):
                return False
            data = to_arrow(table, decoded, existing)
        grows = set(data.column_names) > set(existing)
        write_deltalake(
            delta,
            data,
            mode="append",
            schema_mode="merge" if grows else None,
            # A rival's commit of the same transaction fails this one, so the check above can't be outrun.
            commit_properties=CommitProperties(app_transactions=[Transaction(application, version)]),
        )
        return True

    def _open(self, path: Path, table: TableName) -> DeltaTable:
        if delta := self._tables.get(path):
            delta.update_incremental()
            return delta
        if not DeltaTable.is_deltatable(str(path)):
            try:
                DeltaTable.create(
                    str(path), SCHEMAS[table], mode="error", partition_by=["day"], configuration=_CONFIGURATION
                )
            except DeltaError:
                if not DeltaTable.is_deltatable(str(path)):  # else another process has just made it
                    raise
        self._tables[path] = DeltaTable(str(path))
        return self._tables[path]

    def _compact(self, path: Path) -> None:
        """Merge small files. The rows are safe already, so a rival's compaction or a full disk is no failure.

        Files that left the table are upkeep's to remove: it knows which versions a data rollback may go back to.
        """
        with suppress(DeltaError, OSError, ArrowException):
            compact(path, _COMPACTED_BYTES)
