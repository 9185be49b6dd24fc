"""The champion's logged requests that an offline stage scores: a sample of them, drawn once a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from model_rollouts.adapters import offline_queries as queries
from model_rollouts.adapters.delta_files import run_local as run
from model_rollouts.adapters.delta_queries import FAR, REPEAT, REPEAT_SECONDS, microseconds
from model_rollouts.adapters.delta_schema import feature_column
from model_rollouts.adapters.log_places import LogPlace, LogRoot, log_table
from model_rollouts.adapters.logged_inputs import rebuilt_inputs
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.rollout import Rollout
from model_rollouts.ports import ModelVersion

MOST_REQUESTS = 200_000
_EPOCH = datetime.fromtimestamp(0, UTC)
_LARGEST_DRAW = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RequestSample:
    """Requests that the champion answered, or failed to, in a time: one for each request id.

    Attributes:
        root: The log: a folder of Delta tables, or a `LogStore`.
        rollout: The rollout; its open stage is the offline one.
        challenger: Its challenger, as the registry has it.
        start: UTC. Requests of before the challenger's inputs were logged are left out.
        end: UTC.
        most: About how many requests to draw where there are more.
    """

    root: LogRoot
    rollout: Rollout
    challenger: ModelVersion
    start: datetime
    end: datetime
    most: int = MOST_REQUESTS

    def __post_init__(self) -> None:
        """Refuse what could not be drawn.

        Raises:
            ValueError: Times or size are out of their bounds.
            NotReadyError: The challenger's inputs can't be made from any log.
        """
        if not self.start < self.end:
            raise ValueError(f"start is {self.start.isoformat()}, must be before the end ({self.end.isoformat()})")
        if not 1 <= self.most <= MOST_REQUESTS:
            raise ValueError(f"most is {self.most}, must be between 1 and {MOST_REQUESTS:,}")
        rebuilt_inputs(self.challenger)

    def draw(self, file: Path) -> datetime | None:
        """Write the requests to a Parquet file, in the order of a hash of their ids.

        Returns:
            From when on requests were taken, UTC; None where there are none.

        Raises:
            NotReadyError: The log does not hold what the challenger has to be asked with; names it.
            LogReadError: The log can't be read.
        """
        columns = self._columns()
        if columns is None:
            return None
        since = self._since(columns)
        if since is None:
            return None
        total = self._one(queries.COUNT, low=since, high=microseconds(self.end))[0]
        names = [name for name, _ in rebuilt_inputs(self.challenger)]
        held = ", ".join(_quoted(feature_column(name)) for name in names if feature_column(name) in columns)
        if not held:
            raise NotReadyError(f"{self._told} has none of the inputs {', '.join(names)}; log them first")
        given = {
            "rollout": self.rollout.id,
            "offline_stage": self.rollout.stage,
            "version": self.rollout.champion,
            "salt": f"{self.rollout.salt}/{self.rollout.stage}/",
            "limit": _LARGEST_DRAW if total <= self.most else int(_LARGEST_DRAW * self.most / total),
            "repeat": REPEAT_SECONDS * 1_000_000,
            "low": since - REPEAT_SECONDS * 1_000_000,
            "high": microseconds(self.end),
            "since": since,
        }
        path = str(file).replace("'", "''").replace("{", "{{").replace("}", "}}")
        where = {"predictions": (log_table(self.root, self.rollout.model, "predictions"), self.start - REPEAT, FAR)}
        if run(queries.SAMPLE % (held, path), where, given) is None:
            return None
        return _EPOCH + timedelta(microseconds=since)

    @property
    def _told(self) -> str:
        return (
            f"the log of version {self.rollout.champion} of {self.rollout.model} from {self.start:%Y-%m-%d %H:%M} to "
            f"{self.end:%Y-%m-%d %H:%M} UTC"
        )

    def _columns(self) -> set[str] | None:
        result = run(queries.COLUMNS, self._tables, {})
        return None if result is None else {str(column[0]) for column in result.description or ()}

    def _since(self, columns: set[str]) -> int | None:
        """From when on every input that the challenger can't do without was logged; None where nothing was."""
        needed = [name for name, _ in rebuilt_inputs(self.challenger) if name not in self.challenger.optional]
        missing = [name for name in needed if feature_column(name) not in columns]
        start = microseconds(self.start)
        firsts: Sequence[int | None] = ()
        if not missing:
            if not self._one(queries.COUNT, low=start, high=microseconds(self.end))[0]:
                return None
            wanted = [queries.FIRST_VALUE % _quoted(feature_column(name)) for name in needed]
            firsts = self._one(queries.SURVEY % ", ".join(["1", *wanted]), low=start, high=microseconds(self.end))[1:]
            missing = [name for name, first in zip(needed, firsts, strict=True) if first is None]
        if missing:
            raise NotReadyError(
                f"{self._told} has no values of the inputs {', '.join(missing)}, which version "
                f"{self.challenger.version} needs; log them first, or compare the versions on live requests"
            )
        return max(start, *(first for first in firsts if first is not None), start)

    def _one(self, sql: str, **parameters: Any) -> Sequence[Any]:
        result = run(sql, self._tables, parameters | {"version": self.rollout.champion})
        return result.fetchall()[0] if result else (0,)

    @property
    def _tables(self) -> Mapping[str, tuple[LogPlace, datetime, datetime]]:
        return {"predictions": (log_table(self.root, self.rollout.model, "predictions"), self.start, self.end)}


def _quoted(column: str) -> str:
    """A column's name in a query that is still to be filled in."""
    return '"' + column.replace('"', '""').replace("{", "{{").replace("}", "}}") + '"'
