"""What the log's newest rows say of the store: after a restore, one of the two may be older than the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from model_rollouts.adapters.delta_files import run
from model_rollouts.adapters.delta_queries import microseconds
from model_rollouts.adapters.log_places import LogRoot, log_table

_NEWEST = """
SELECT rollout_id, max(traffic_revision) AS revision, max(epoch_us(ts)) AS newest FROM {predictions}
WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high GROUP BY rollout_id ORDER BY rollout_id
"""


@dataclass(frozen=True, slots=True)
class Routed:
    """What rows of a rollout, or of none, were routed by.

    Attributes:
        rollout_id: The rollout; None: rows of the time outside of rollouts.
        revision: The highest revision of the traffic row among them.
        newest: Time of the newest one, UTC.
    """

    rollout_id: str | None
    revision: int
    newest: datetime


def routed(root: LogRoot, model: str, start: datetime, end: datetime) -> Sequence[Routed]:
    """What the model's rows in [start, end) were routed by, a line a rollout.

    Raises:
        LogReadError: The log can't be read.
    """
    tables = {"predictions": (log_table(root, model, "predictions"), start, end)}
    result = run(_NEWEST, tables, {"low": microseconds(start), "high": microseconds(end)})
    rows: list[Any] = result.fetchall() if result else []
    return [Routed(name, int(revision), datetime.fromtimestamp(us / 1e6, UTC)) for name, revision, us in rows]
