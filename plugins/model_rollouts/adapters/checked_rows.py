"""The rows that data checks look at: all of them, in parts of a bounded size, or as many as may be, saying so.

DuckDB reads the log once and writes the rows into scratch files by a hash of their request id. So a part has all rows
of its requests: what must be unique within a request's rows can be seen part by part, and parts are fair samples.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from model_rollouts.adapters.delta_files import connect, run_local
from model_rollouts.adapters.delta_queries import CHAMPION_ROWS, FAR, LABELS, OUTCOME_SLACK, STAGE_ROWS, microseconds
from model_rollouts.adapters.delta_schema import SCHEMAS
from model_rollouts.adapters.log_places import LogPlace, LogRoot, log_table
from model_rollouts.core.errors import RolloutError

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 5_000_000  # about a minute of one processor
_PART_ROWS = 250_000  # some 300 MB as a frame
_OVERFULL = 4  # parts that are so much larger are cut: one request has most of the rows, which is found all the same
_MOST_DISTINCT = 100_000
_BUCKET = "model_rollouts_bucket"

Where = tuple[LogPlace, datetime, datetime]


class TooManyError(RolloutError):
    """There are more combinations of values than are looked at one by one."""


class Rows(Protocol):
    """Rows to check.

    Attributes:
        total: Rows in the log.
        checked: Rows that `frames` give.
    """

    total: int
    checked: int

    def frames(self) -> "Iterator[pd.DataFrame]":
        """Frames with the same columns, at least one; all rows of a request are in one of them."""

    def distinct(self, columns: Sequence[str], only_counted: bool = False) -> "pd.DataFrame":
        """Each combination of values of some columns once, among all rows that are checked.

        Args:
            columns: The columns.
            only_counted: Where one column has very many values, numbers may stand for them, as many as there are.

        Raises:
            TooManyError: There are very many combinations, and nothing may stand for them.
        """


class FrameRows:
    """Implements `Rows` with one frame.

    Args:
        frame: Rows of the log.
        total: Rows that it was drawn from, at least its own.

    Raises:
        ValueError: There are fewer in total.
    """

    def __init__(self, frame: "pd.DataFrame", total: int) -> None:
        if total < len(frame):
            raise ValueError(f"rows_total is {total}, must be at least the frame's {len(frame)} rows")
        self._frame, self.total, self.checked = frame, total, len(frame)

    def frames(self) -> "Iterator[pd.DataFrame]":
        """The frame."""
        yield self._frame

    def distinct(self, columns: Sequence[str], only_counted: bool = False) -> "pd.DataFrame":
        """Each combination once."""
        known = [column for column in columns if column in self._frame.columns]
        return self._frame[known].drop_duplicates()


class LogRows:
    """Implements `Rows` with a log. Use it as a context manager: the parts are in scratch files.

    Args:
        query: Gives the rows, with `request_id`.
        tables: What the query reads, as for `delta_files.run`.
        parameters: The query's.
        columns: Those of a frame where there are no rows.
        most: Most rows to check. Where there are more, whole requests are drawn by a hash, the same each time.
        part_rows: About how many rows a frame has.

    Raises:
        ValueError: most or part_rows is below 1.
    """

    def __init__(
        self,
        query: str,
        tables: Mapping[str, Where],
        parameters: Mapping[str, Any],
        columns: Sequence[str],
        most: int = MOST_ROWS,
        part_rows: int = _PART_ROWS,
    ) -> None:
        if most < 1 or part_rows < 1:
            raise ValueError(f"most is {most} and part_rows is {part_rows}, must be at least 1")
        self._query, self._tables, self._parameters = query, tables, parameters
        self._columns, self._most, self._part_rows = columns, most, part_rows
        self.total = self.checked = 0
        self._parts: list[Path] = []
        self._scratch = Path()

    def __enter__(self) -> Self:
        """Read the log.

        Raises:
            LogReadError: It can't be read.
        """
        self._scratch = Path(tempfile.mkdtemp(prefix="model-rollouts-checks-"))
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the scratch files."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _read(self) -> None:
        counted = run_local(f"SELECT count(*) FROM ({self._query}) AS rows_", self._tables, self._parameters)  # noqa: S608
        total = int(counted.fetchall()[0][0]) if counted else 0
        if not total:
            return
        buckets = math.ceil(total / self._part_rows)
        taken = buckets if total <= self._most else max(1, int(buckets * self._most / total))
        hashed = "CAST(hash(coalesce(request_id, '')) % $buckets AS INTEGER)"
        target = str(self._scratch / "rows").replace("'", "''").replace("{", "{{").replace("}", "}}")
        copy = (
            f"COPY (SELECT *, {hashed} AS {_BUCKET} FROM ({self._query}) AS rows_ WHERE {hashed} < $taken) "  # noqa: S608
            f"TO '{target}' (FORMAT parquet, PARTITION_BY ({_BUCKET}))"
        )
        run_local(copy, self._tables, {**self._parameters, "buckets": buckets, "taken": taken})
        self._parts = sorted((self._scratch / "rows").glob(f"{_BUCKET}=*"))
        sizes = [self._one(f"SELECT count(*) FROM {_files(part)}") for part in self._parts]  # noqa: S608
        self.checked = sum(min(size, self._limit) for size in sizes)
        # Rows that came while the log was read are checked too.
        self.total = max(total, sum(sizes))

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the rows."""
        if not self._parts:
            return self._columns
        with connect() as connection:
            described = connection.execute(f"DESCRIBE SELECT * FROM {_files(self._parts[0])}")  # noqa: S608
            return [str(name) for name, *_ in described.fetchall()]

    @property
    def _limit(self) -> int:
        return _OVERFULL * self._part_rows

    def frames(self) -> "Iterator[pd.DataFrame]":
        """One a part; an empty one where there are no rows."""
        import pandas as pd

        for part in self._parts:
            with connect() as connection:
                yield connection.execute(f"SELECT * FROM {_files(part)} LIMIT {self._limit}").df()  # noqa: S608
        if not self._parts:
            yield pd.DataFrame(columns=list(self._columns))

    def distinct(self, columns: Sequence[str], only_counted: bool = False) -> "pd.DataFrame":
        """See `Rows`; more than 100,000 are very many."""
        import pandas as pd

        if not self._parts:
            return pd.DataFrame(columns=list(columns))
        every = _files(self._scratch / "rows" / "*")
        with connect() as connection:
            described = connection.execute(f"DESCRIBE SELECT * FROM {every}").fetchall()  # noqa: S608
            kinds = {str(name): str(kind) for name, kind, *_ in described}
            known = [column for column in columns if column in kinds]
            if not known:
                return pd.DataFrame()
            names = ", ".join('"' + column.replace('"', '""') + '"' for column in known)
            distinct = f"SELECT DISTINCT {names} FROM {every}"  # noqa: S608
            found = connection.execute(f"{distinct} LIMIT {_MOST_DISTINCT + 1}").df()
            if len(found) <= _MOST_DISTINCT:
                return found
            if len(known) > 1 or not only_counted:
                raise TooManyError(
                    f"{' and '.join(known)} have more than {_MOST_DISTINCT:,} combinations of values, which were not "
                    "counted; expect this of one column without a condition, or of one with fewer values"
                )
            odd = f" WHERE NOT isnan({names})" if kinds[known[0]] in ("DOUBLE", "FLOAT") else ""  # counts as missing
            counted = connection.execute(f"SELECT count({names}) FROM ({distinct}) AS distinct_{odd}").fetchall()  # noqa: S608
            return pd.DataFrame({known[0]: range(int(counted[0][0]))})

    def _one(self, query: str) -> int:
        with connect() as connection:
            return int(connection.execute(query).fetchall()[0][0])


def stage_rows(
    root: LogRoot, model: str, rollout_id: str, stage: int, start: datetime, end: datetime, most: int = MOST_ROWS
) -> LogRows:
    """Every row of a stage, whether it counts or not, with `label` and `value` of its request."""
    return _predictions(root, model, STAGE_ROWS, {"rollout": rollout_id, "stage": stage}, (start, end), most)


def champion_rows(
    root: LogRoot, model: str, version: str, start: datetime, end: datetime, most: int = MOST_ROWS
) -> LogRows:
    """A version's answers as champion, in or out of rollouts, with `label` and `value` of their requests."""
    return _predictions(root, model, CHAMPION_ROWS, {"version": version}, (start, end), most)


def outcome_rows(root: LogRoot, model: str, start: datetime, end: datetime, most: int = MOST_ROWS) -> LogRows:
    """Outcomes that became known in [start, end)."""
    tables = {"outcomes": (log_table(root, model, "outcomes"), start, end)}
    return LogRows(_OUTCOMES, tables, _span(start, end), SCHEMAS["outcomes"].names[1:], most)


def _predictions(
    root: LogRoot,
    model: str,
    condition: str,
    parameters: dict[str, Any],
    between: tuple[datetime, datetime],
    most: int,
) -> LogRows:
    start, end = between
    since = start - OUTCOME_SLACK
    tables = {
        "predictions": (log_table(root, model, "predictions"), start, end),
        "outcomes": (log_table(root, model, "outcomes"), since, FAR),
    }
    given = parameters | _span(start, end) | {"outcomes_from": microseconds(since)}
    columns = [*SCHEMAS["predictions"].names[1:], "label", "value"]
    return LogRows(_PREDICTIONS % condition, tables, given, columns, most)


def _span(start: datetime, end: datetime) -> dict[str, Any]:
    return {"low": microseconds(start), "high": microseconds(end)}


def _files(folder: Path) -> str:
    escaped = str(folder).replace("'", "''")
    return f"read_parquet('{escaped}/*.parquet', hive_partitioning = false)"


_PREDICTIONS = f"""
WITH chosen AS (
    SELECT * FROM {{predictions}} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND (%s)
),
labels AS ({LABELS})
SELECT chosen.*, labels.label, labels.value FROM chosen LEFT JOIN labels ON labels.request_id = chosen.request_id
"""  # noqa: S608 - of constants alone

_OUTCOMES = "SELECT * FROM {outcomes} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high"
