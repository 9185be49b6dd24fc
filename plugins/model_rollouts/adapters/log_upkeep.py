"""Upkeep of the prediction log, of either kind: small files merged, old days dropped, dead files and rows removed.

Gateways write on meanwhile, and readers see each table as it was before a step or after it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Protocol

from model_rollouts.adapters.delta_schema import SCHEMAS, TableName, table_path
from model_rollouts.adapters.log_places import EngineLog, LogRoot
from model_rollouts.core.data_rollback import DataRollbackKind
from model_rollouts.core.errors import NotReadyError, RolloutError
from model_rollouts.core.log_retention import Kept, kept
from model_rollouts.core.rollout import Rollout
from model_rollouts.ports import RolloutStore

logger = logging.getLogger(__name__)

_MOST_ROLLOUTS = 10_000
_PINNED = timedelta(days=30)  # after a rollback its data may be left to be undone by hand


@dataclass(frozen=True, slots=True)
class TableUpkeep:
    """What was done to a table, or would be.

    Attributes:
        model: Registered model name.
        table: "predictions" or "outcomes".
        kept_since: First day that stays; None: all of them.
        days_dropped: Days that went. Their files are removed another time, once nobody can have listed them any more.
        rows_dropped: Their rows.
        files_before: Files of the table; 0 for PostgreSQL.
        files_after: The same afterwards; in a dry run as before.
        files_merged: Small files that became larger ones; in a dry run those that would be looked at.
        files_removed: Files that no version needs any more, gone from the disk; 0 for PostgreSQL.
        bytes_before: Size of what the table is made of.
        bytes_after: The same afterwards.
        bytes_freed: Room on the disk that the removed files took; 0 for PostgreSQL.
        note: Why days stay, and what else is to be known.
        error: Why it was not done, or not to its end, or ""; other tables go on.
    """

    model: str
    table: TableName
    kept_since: date | None = None
    days_dropped: int = 0
    rows_dropped: int = 0
    files_before: int = 0
    files_after: int = 0
    files_merged: int = 0
    files_removed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    bytes_freed: int = 0
    note: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Care:
    """How a table is to be cared for.

    Attributes:
        since: First day that stays; None: all of them.
        retention_hours: Files that no longer belong to the table stay for so long, for those who have listed them.
        pinned: Versions of the table that a data rollback may go back to.
        dry_run: Only say what would be done.
        now: UTC.
    """

    since: date | None
    retention_hours: int
    pinned: Sequence[int]
    dry_run: bool
    now: datetime


def told_error(error: Exception) -> str:
    """What went wrong, for `TableUpkeep.error`."""
    text = str(error) if isinstance(error, RolloutError) else f"{type(error).__name__}: {error}"
    return text[:500]


class Caretaker(Protocol):
    """Cares for the tables of one kind of log."""

    def models(self) -> list[str]:
        """Models that the log has tables of."""

    def care(self, model: str, table: TableName, care: Care) -> TableUpkeep | None:
        """Do it; None where there is no such table."""


class LogUpkeep:
    """Cares for a whole log.

    Args:
        root: The log.
        store: Says which days rollouts still need. A model that it does not know loses no row.
        retention_days: Days of the log to keep; 0: all.
        vacuum_hours: See `Care.retention_hours`; at least 1.
        clock: Current time, UTC.
    """

    def __init__(
        self,
        root: LogRoot,
        store: RolloutStore,
        retention_days: int = 0,
        vacuum_hours: int = 24,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if vacuum_hours < 1:
            raise ValueError(f"vacuum_hours is {vacuum_hours}, must be at least 1: readers need the files they listed")
        self._root = root.root if isinstance(root, EngineLog) else root  # whoever is asked, the tables are the same
        self._store, self._clock = store, clock
        self._retention_days, self._vacuum_hours = retention_days, vacuum_hours
        self._caretaker = _caretaker(self._root)

    def run(self, model: str | None = None, *, dry_run: bool = False) -> list[TableUpkeep]:
        """Care for every table, or for those of one model. A table that fails does not hold up the others.

        Raises:
            NotReadyError: The log has no such model.
            Exception: The store or the log can't be read; nothing was done.
        """
        models = self._caretaker.models()
        if model is not None:
            if model not in models:
                raise NotReadyError(f"the log has no table of {model!r}; it has: {', '.join(models) or 'none'}")
            models = [model]
        needed = {each: self._kept(each) for each in models}
        pins = self._pins()
        done = []
        for each in models:
            for table in SCHEMAS:
                found = self._care(each, table, needed[each], pins, dry_run)
                if found is not None:
                    done.append(found)
        return done

    def _care(
        self, model: str, table: TableName, needed: Kept, pins: dict[str, list[int]], dry_run: bool
    ) -> TableUpkeep | None:
        since = needed.since if table == "predictions" else needed.outcomes_since
        pinned: Sequence[int] = ()
        if isinstance(self._root, Path):
            pinned = pins.get(str(table_path(self._root.absolute(), model, table)), ())
        care = Care(since, self._vacuum_hours, pinned, dry_run, self._clock())
        try:
            found = self._caretaker.care(model, table, care)
        except Exception as error:
            logger.exception("upkeep of %s of %s failed", table, model)
            return TableUpkeep(model, table, since, note=needed.reason, error=told_error(error))
        if found is None:
            return None
        return replace(found, note="; ".join(part for part in (needed.reason, found.note) if part))

    def _kept(self, model: str) -> Kept:
        rollouts: list[Rollout] = self._store.rollouts(model, limit=_MOST_ROLLOUTS)
        active = self._store.active(model)
        if active is not None and all(active.id != rollout.id for rollout in rollouts):
            rollouts.append(active)
        return kept(self._retention_days, rollouts, self._store.traffic(model), self._clock())

    def _pins(self) -> dict[str, list[int]]:
        """Absolute folder -> versions that data rollbacks of rollouts that may still go back name."""
        found: dict[str, list[int]] = {}
        for traffic in self._store.all_traffic():
            for rollout in self._store.rollouts(traffic.model, limit=_MOST_ROLLOUTS):
                over = rollout.ended_at is not None and rollout.ended_at + _PINNED < self._clock()
                if over and traffic.previous != rollout.champion:
                    continue
                for step in rollout.plan.data_rollback:
                    if step.kind is DataRollbackKind.DELTA_RESTORE and step.version is not None:
                        place = str(Path(step.target.removeprefix("file://")).absolute())
                        found.setdefault(place, []).append(step.version)
        return found


def _caretaker(root: LogRoot) -> Caretaker:
    if isinstance(root, Path):
        from model_rollouts.adapters.log_upkeep_delta import DeltaCaretaker

        return DeltaCaretaker(root)
    from model_rollouts.adapters.log_upkeep_postgres import PostgresCaretaker
    from model_rollouts.adapters.postgres_log import PostgresLog

    if not isinstance(root, PostgresLog):
        raise NotReadyError(f"a log in {root} is not cared for here; its owner is to do it")
    return PostgresCaretaker(root)
