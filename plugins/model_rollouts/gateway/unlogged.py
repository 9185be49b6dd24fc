"""Rows of answers that were given and are not in the log: the price of serving on when logging fails."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

_SAY_AGAIN = timedelta(minutes=1)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unlogged:
    """What the log misses of one model, since the process started.

    Attributes:
        rows: How many rows.
        first: When the first of them was lost, UTC.
        last: When the last one was.
        reason: Why the last one was.
    """

    rows: int
    first: datetime
    last: datetime
    reason: str


class UnloggedRows:
    """Counts them. Safe to use from several threads.

    Args:
        tell: Called with model, rows and reason each time, on the thread that answers requests: it must be quick. What
            it raises is logged and changes nothing.
    """

    def __init__(self, tell: Callable[[str, int, str], None] | None = None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._of: dict[str, Unlogged] = {}

    def add(self, model: str, rows: int, reason: str) -> None:
        """Note that rows of a model are not in the log."""
        now = datetime.now(UTC)
        with self._lock:
            before = self._of.get(model)
            known = before or Unlogged(0, now, now, reason)
            self._of[model] = replace(known, rows=known.rows + rows, last=now, reason=reason)
        if before is None or now - before.last >= _SAY_AGAIN:
            _log.error("answers_not_logged", model=model, rows=known.rows + rows, error=reason)
        if self._tell is not None:
            try:
                self._tell(model, rows, reason)
            except Exception:  # whoever listens must not cost the caller the answer
                _log.exception("unlogged_rows_not_told", model=model)

    def by_model(self) -> dict[str, Unlogged]:
        """What the log misses of each model that it misses something of."""
        with self._lock:
            return dict(self._of)

    def status(self) -> dict[str, dict[str, Any]]:
        """The same in JSON types."""
        return {
            model: {
                "rows": each.rows,
                "first": each.first.isoformat(),
                "last": each.last.isoformat(),
                "reason": each.reason,
            }
            for model, each in self.by_model().items()
        }
