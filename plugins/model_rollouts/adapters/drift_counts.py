"""Columns of a Delta log's files in counts, straight from Parquet: what `counts_query` counts, in a third of its time.

Doubles are counted by a grid and texts by categories; the query counts columns of other types.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.delta_drift_queries import MISSING, NOT_FINITE, REST, Bins
from model_rollouts.adapters.delta_files import current_files
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.core.profile import LARGEST, Grid

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ARMS = ("champion", "challenger")
_TRIES = 3
_THREADS = min(4, os.cpu_count() or 1)
_ROWS = 1 << 16  # of a batch: its columns stay in the processor's cache
_PART = 1 << 14  # numbers binned at once: larger arrays are mapped anew for each step, which takes twice as long
_BUFFER = 1 << 20  # bytes of each column that are read ahead
_ROW_TEXTS = ("rollout_id", "arm", "cohort", "version")
_ROW_COLUMNS = (*_ROW_TEXTS, "ts", "stage")

Counts = dict[str, dict[int, dict[int, int]]]  # by arm, column's position and bin


def countable(kind: str, bins: Bins) -> bool:
    """Whether a column of a DuckDB type can be counted here by these bins."""
    return kind == ("DOUBLE" if isinstance(bins, Grid) else "VARCHAR")


def counted_in_files(
    path: Path, window: tuple[datetime, datetime], columns: Sequence[tuple[str, Bins]], given: Mapping[str, Any]
) -> Counts | None:
    """Count columns by arm and bin; each file is read once, in bounded memory.

    Args:
        path: The table's folder.
        window: [start, end), UTC.
        columns: Name and bins of each column.
        given: "rollout" and "stage" for the evidence of a stage, or "version" for its answers as champion; "low" and
            "high" are the window in microseconds since 1970.

    Returns:
        None where a file has columns of types that only the query can count.

    Raises:
        LogReadError: The table or one of its files can't be read.
    """
    import pyarrow as pa

    for attempt in range(_TRIES):
        try:
            return _counted(current_files(path, *window), columns, given)
        except FileNotFoundError as error:  # vacuumed between the listing and the reading: list again
            if attempt == _TRIES - 1:
                raise LogReadError(f"files of {path}: {error}") from error
        except (OSError, pa.ArrowException) as error:
            raise LogReadError(f"files of {path} can't be read: {error}") from error
    raise AssertionError("unreachable")


def _counted(files: Sequence[str], columns: Sequence[tuple[str, Bins]], given: Mapping[str, Any]) -> Counts | None:
    """The files shared out among threads: most of the time is spent in libraries that let others run."""
    shares, stop = [files[at::_THREADS] for at in range(min(_THREADS, len(files)))], Event()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            parts = list(threads.map(lambda share: _counted_by_one(share, columns, given, stop), shares))
        finally:
            stop.set()  # one of them has failed, or the task is to end: nobody waits for the others' counts
    found: Counts = {}
    for part in parts:
        if part is None:
            return None
        for arm, by_column in part.items():
            for at, counts in by_column.items():
                sums = found.setdefault(arm, {}).setdefault(at, {})
                for which, count in counts.items():
                    sums[which] = sums.get(which, 0) + count
    return found


def _counted_by_one(
    files: Sequence[str], columns: Sequence[tuple[str, Bins]], given: Mapping[str, Any], stop: Event
) -> Counts | None:
    counters = [_Numbers(bins) if isinstance(bins, Grid) else _Texts(bins) for _, bins in columns]
    for file in files:
        with _opened(file, columns) as parquet:
            if parquet is None:
                stop.set()
                return None
            there = set(parquet.schema_arrow.names)
            asked = [*_ROW_COLUMNS, *(name for name, _ in columns if name in there)]
            for batch in parquet.iter_batches(batch_size=_ROWS, columns=asked, use_threads=False):
                if stop.is_set():
                    return None
                arm, chosen = _rows(batch, given)
                if not len(arm):
                    continue
                for (name, _), counter in zip(columns, counters, strict=True):
                    counter.add(batch.column(name) if name in there else None, arm, chosen)
    found: Counts = {}
    for at, counter in enumerate(counters):
        for which, arm_name in enumerate(ARMS):
            if counts := counter.counts(which):
                found.setdefault(arm_name, {})[at] = counts
    return found


@contextmanager
def _opened(file: str, columns: Sequence[tuple[str, Bins]]) -> "Iterator[pq.ParquetFile | None]":
    """A file with its texts as codes of a dictionary; None when a column has a type that is not known here."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as plain:
        metadata = plain.metadata
        types = dict(zip(plain.schema_arrow.names, plain.schema_arrow.types, strict=True))
    texts = [*_ROW_TEXTS, *(name for name, bins in columns if not isinstance(bins, Grid) and name in types)]
    numbers = [name for name, bins in columns if isinstance(bins, Grid) and name in types]
    known = (
        all(types.get(name) in (pa.string(), pa.large_string()) for name in texts)
        and all(types[name] == pa.float64() for name in numbers)
        and pa.types.is_integer(types.get("stage", pa.null()))
        and types.get("ts") == pa.timestamp("us", tz="UTC")
    )
    if not known:
        yield None
        return
    with pq.ParquetFile(
        file, metadata=metadata, read_dictionary=texts, buffer_size=_BUFFER, pre_buffer=False
    ) as parquet:
        yield parquet


def _rows(batch: "pa.RecordBatch", given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Arm of each row that counts, and which rows do (None: all): `STAGE_EVIDENCE` and `CHAMPION_ROWS` say the same."""
    import numpy as np
    import pyarrow as pa

    time = batch.column("ts").cast(pa.int64())
    chosen = time.is_valid().to_numpy(zero_copy_only=False)
    us = time.fill_null(0).to_numpy()
    chosen = chosen & (us >= given["low"]) & (us < given["high"])
    champion, challenger = (_is(batch.column("arm"), arm) for arm in ARMS)
    cohort = batch.column("cohort")
    if "rollout" in given:
        stage = batch.column("stage").cast(pa.int64()).fill_null(-1).to_numpy()
        chosen &= _is(batch.column("rollout_id"), given["rollout"]) & (stage == given["stage"])
        chosen &= (champion & _is(cohort, ARMS[0])) | (challenger & _is(cohort, ARMS[1]))
    else:
        none = cohort.is_null().to_numpy(zero_copy_only=False)
        chosen &= champion & _is(batch.column("version"), given["version"]) & (none | _is(cohort, ARMS[0]))
    if chosen.all():
        return challenger.astype(np.int64), None
    return challenger[chosen].astype(np.int64), chosen


def _is(column: "pa.DictionaryArray", text: str) -> Any:
    codes, names = _codes(column)
    return (names == text)[codes]


def _codes(column: "pa.DictionaryArray") -> tuple[Any, Any]:
    """The code of each row, and the text of each code; the last one is that of null."""
    import numpy as np

    names = np.array([*column.dictionary.to_pylist(), None], dtype=object)
    codes = column.indices if not column.indices.null_count else column.indices.fill_null(len(names) - 1)
    return codes.to_numpy(), names


class _Numbers:
    """Counts of a column of numbers, by arm."""

    def __init__(self, grid: Grid) -> None:
        import numpy as np

        self._grid = grid
        self._first = 0  # bin of the first count
        self._counts = np.zeros((len(ARMS), 1), dtype=np.int64)
        self._missing = np.zeros(len(ARMS), dtype=np.int64)
        self._not_finite = np.zeros(len(ARMS), dtype=np.int64)

    def add(self, column: "pa.Array | None", arm: Any, chosen: Any) -> None:
        """Count the chosen rows of a batch.

        Args:
            column: Its values; None where the file has no such column.
            arm: Of each chosen row, its position in `ARMS`.
            chosen: Whether each row is; None when all are.
        """

        if column is None:
            self._missing += _of_arms(arm)
            return
        values = column.to_numpy(zero_copy_only=False)
        values = values if chosen is None else values[chosen]
        if column.null_count:
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            valid = valid if chosen is None else valid[chosen]
            self._missing += _of_arms(arm[~valid])
            values, arm = values[valid], arm[valid]
        for start in range(0, len(values), _PART):
            self._add(values[start : start + _PART], arm[start : start + _PART])

    def _add(self, values: Any, arm: Any) -> None:
        import numpy as np

        size = np.abs(values)
        if not size.max() <= LARGEST:  # what is no number is not
            finite = size <= LARGEST
            self._not_finite += _of_arms(arm[~finite])
            values, arm = values[finite], arm[finite]
            if not len(values):
                return
        bins = self._grid.indices(values)
        low, high = int(bins.min()), int(bins.max()) + 1
        bins -= low
        if arm.any():
            bins += arm * (high - low)
        counts = np.bincount(bins, minlength=len(ARMS) * (high - low)).reshape(len(ARMS), -1)
        first, last = self._first, self._first + self._counts.shape[1]
        if low < first or high > last:
            grown = np.pad(self._counts, ((0, 0), (max(first - low, 0), max(high - last, 0))))
            self._first, self._counts = min(first, low), grown
        self._counts[:, low - self._first : high - self._first] += counts

    def counts(self, arm: int) -> dict[int, int]:
        """By bin, of one arm."""
        import numpy as np

        own = self._counts[arm]
        found = {int(at) + self._first: int(own[at]) for at in np.flatnonzero(own)}
        others = {MISSING: int(self._missing[arm]), NOT_FINITE: int(self._not_finite[arm])}
        return found | {what: count for what, count in others.items() if count}


class _Texts:
    """Counts of a column of texts, by arm."""

    def __init__(self, categories: Sequence[str]) -> None:
        import numpy as np
        import pyarrow as pa

        self._bins = [*range(len(categories)), REST, MISSING]
        self._known = pa.array(categories, pa.string())
        self._counts = np.zeros((len(ARMS), len(self._bins)), dtype=np.int64)

    def add(self, column: "pa.DictionaryArray | None", arm: Any, chosen: Any) -> None:
        """As `_Numbers.add`."""
        import numpy as np
        import pyarrow.compute as pc

        if column is None:
            self._counts[:, -1] += _of_arms(arm)
            return
        names = len(column.dictionary)
        codes = column.indices.fill_null(names) if column.indices.null_count else column.indices
        own = codes.to_numpy().astype(np.int64)
        own = own if chosen is None else own[chosen]
        times = np.bincount(own + arm * (names + 1), minlength=len(ARMS) * (names + 1)).reshape(len(ARMS), -1)
        category = pc.index_in(column.dictionary, value_set=self._known)
        place = np.append(category.fill_null(len(self._known)).to_numpy(), len(self._known) + 1)
        for which in range(len(ARMS)):
            np.add.at(self._counts[which], place, times[which])

    def counts(self, arm: int) -> dict[int, int]:
        """By bin, of one arm."""
        return {what: int(count) for what, count in zip(self._bins, self._counts[arm], strict=True) if count}


def _of_arms(arm: Any) -> Any:
    import numpy as np

    return np.bincount(arm, minlength=len(ARMS))
