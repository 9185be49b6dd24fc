"""What drift asks of the prediction log: columns in counts over all rows, and bounded samples."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.delta_drift_queries import (
    MISSING,
    NOT_FINITE,
    REST,
    SLICES,
    STAGE_EVIDENCE,
    Bins,
    counted,
    counts_query,
    in_parts,
    is_number,
    sample_query,
    slice_parameters,
)
from model_rollouts.adapters.delta_files import columns_of, run
from model_rollouts.adapters.delta_queries import ARM_ROWS, CHAMPION_ROWS, ROW_COUNT, microseconds
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.drift_counts import countable, counted_in_files
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import LogRoot, QueryResult, log_table
from model_rollouts.core.profile import (
    LARGEST,
    LONGEST_CATEGORY,
    MOST_CATEGORIES,
    ColumnProfile,
    Grid,
    Profile,
    column_of_numbers,
    grid_of,
)

if TYPE_CHECKING:
    import pandas as pd

ANSWERS = ("prediction", "score")
MOST_SAMPLED = 50_000
_MOST_READ = 2_000_000  # rows that a sample of a Delta log is drawn from: of more, parts are read, spread in time
_TIMES_AS_MANY = 4  # rows to draw a sample from: enough for any seed to differ
_MOST_AT_ONCE = 40  # columns of one query: more are counted in further passes, or its text would have no end
_MANY_NUMBERS = 20  # different numbers from which on predictions are numbers and no classes
_NONE = Grid(0.0, 1.0)  # of a column without a number: it has no counts

Columns = dict[str, ColumnProfile]


class DeltaDriftLog:
    """Counts columns of the log. A model without a table has no rows; a broken table is an error.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
    """

    def __init__(self, root: LogRoot) -> None:
        self.root = root

    def columns(self, model: str, start: datetime, end: datetime) -> dict[str, str]:
        """DuckDB type of the model's inputs, its prediction and its score, as logged in [start, end); by name."""
        found = columns_of(log_table(self.root, model, "predictions"), start, end) or []
        return {name: kind for name, kind in found if name.startswith(FEATURE_PREFIX) or name in ANSWERS}

    def stage_sample(
        self,
        model: str,
        rollout_id: str,
        stage: int,
        arm: str,
        window: tuple[datetime, datetime],
        columns: Mapping[str, str],
        limit: int,
        seed: int,
    ) -> "pd.DataFrame":
        """A sample of the evidence of one arm of a stage, the same each time; one column for each of `columns`.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            arm: "champion" or "challenger".
            window: [start, end), UTC.
            columns: Type by name, as `columns` gives them.
            limit: Most rows, 1 to 50,000.
            seed: Another seed draws another sample.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The limit is out of its bounds.
        """
        given = {"rollout": rollout_id, "stage": stage, "arm": arm}
        return self._sample(model, ARM_ROWS, given, window, columns, limit, seed)

    def champion_sample(
        self,
        model: str,
        version: str,
        window: tuple[datetime, datetime],
        columns: Mapping[str, str],
        limit: int,
        seed: int,
    ) -> "pd.DataFrame":
        """A sample of a version's answers as champion, in or out of rollouts; the rest as for `stage_sample`."""
        return self._sample(model, CHAMPION_ROWS, {"version": version}, window, columns, limit, seed)

    def stage_profiles(
        self,
        model: str,
        rollout_id: str,
        stage: int,
        window: tuple[datetime, datetime],
        columns: Mapping[str, str],
        bins: Mapping[str, Bins],
    ) -> dict[str, Columns]:
        """All evidence of a stage in counts, by arm; both arms are there, without rows where there are none.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            window: [start, end), UTC.
            columns: Type by name, as `columns` gives them.
            bins: What each column is counted by; only columns that have some are counted.

        Raises:
            LogReadError: The log can't be read.
        """
        given = {"rollout": rollout_id, "stage": stage}
        found = self._profiles(model, STAGE_EVIDENCE, given, window, columns, bins)
        return {arm: found.get(arm) or _no_rows(bins, columns) for arm in ("champion", "challenger")}

    def champion_profile(
        self,
        model: str,
        version: str,
        window: tuple[datetime, datetime],
        columns: Mapping[str, str],
        bins: Mapping[str, Bins],
    ) -> Columns:
        """A version's answers as champion, in or out of rollouts, in counts: the reference before a rollout.

        Arguments and errors as for `stage_profiles`.
        """
        found = self._profiles(model, CHAMPION_ROWS, {"version": version}, window, columns, bins)
        return found.get("champion") or _no_rows(bins, columns)

    # --- inside

    def _sample(
        self,
        model: str,
        condition: str,
        given: Mapping[str, Any],
        window: tuple[datetime, datetime],
        columns: Mapping[str, str],
        limit: int,
        seed: int,
    ) -> "pd.DataFrame":
        import pandas as pd

        if not 1 <= limit <= MOST_SAMPLED:
            raise ValueError(f"limit is {limit}, must be between 1 and {MOST_SAMPLED}")
        named = list(columns.items())
        if not named:
            return pd.DataFrame()
        where, times = self._where(model, window), _times(window)
        counted_rows = run(ROW_COUNT % condition, where, {**given, **times})
        rows = int(counted_rows.fetchall()[0][0]) if counted_rows else 0
        own = {**given, **times, "limit": limit, "seed": str(seed)}
        few = -(-SLICES * _TIMES_AS_MANY * limit // rows) if rows else SLICES
        tries = [(condition, few), (condition, SLICES)] if few < SLICES else [(condition, SLICES)]
        if rows > _MOST_READ and isinstance(where["predictions"][0], Path):
            some, bounds = in_parts(times["low"], times["high"], _MOST_READ / rows, seed)
            own |= bounds
            tries.insert(
                0, (f"{condition} AND ({some})", min(SLICES, -(-SLICES * _TIMES_AS_MANY * limit // _MOST_READ)))
            )
        frame = pd.DataFrame(columns=range(len(named)))
        for rows_of, slices in tries:  # all of them where the rows are not spread in time
            asked = own | slice_parameters(times["low"], times["high"], slices, seed)
            result = self._run(model, columns, window, partial(sample_query, named, rows_of), asked)
            frame = frame if result is None else result.df()
            if len(frame) >= limit:
                break
        return frame.set_axis([name for name, _ in named], axis=1)

    def _profiles(
        self,
        model: str,
        condition: str,
        given: Mapping[str, Any],
        window: tuple[datetime, datetime],
        columns: Mapping[str, str],
        bins: Mapping[str, Bins],
    ) -> dict[str, Columns]:
        named = [(name, kind, bins[name]) for name, kind in columns.items() if name in bins]
        place = log_table(self.root, model, "predictions")
        quick = [each for each in named if isinstance(place, Path) and countable(each[1], each[2])]
        made: dict[str, Columns] = {}
        for some in (quick, [each for each in named if each not in quick]):
            for start in range(0, len(some), _MOST_AT_ONCE):
                part = some[start : start + _MOST_AT_ONCE]
                own = {**given, **_times(window)}
                found: Mapping[str, Mapping[int, Mapping[int, int]]] | None = None
                if some is quick and isinstance(place, Path):
                    found = counted_in_files(place, window, [(name, by) for name, _, by in part], own)
                if found is None:
                    found = self._asked(model, condition, own, window, part)
                for arm, counts in found.items():
                    for at, (name, _, by) in enumerate(part):
                        made.setdefault(arm, {})[name] = _column(by, counts.get(at, {}))
        return made

    def _asked(
        self,
        model: str,
        condition: str,
        given: Mapping[str, Any],
        window: tuple[datetime, datetime],
        columns: Sequence[tuple[str, str, Bins]],
    ) -> Mapping[str, Mapping[int, Mapping[int, int]]]:
        names = [name for name, _, _ in columns]
        own = {**counts_query(columns, condition)[1], **given}
        result = self._run(model, names, window, lambda absent: counts_query(columns, condition, absent)[0], own)
        return counted(result.fetchall() if result else [])

    def _run(
        self,
        model: str,
        columns: Collection[str],
        window: tuple[datetime, datetime],
        query: Callable[[Collection[str]], str],
        given: Mapping[str, Any],
    ) -> QueryResult | None:
        """Run a query that is told the columns which no file has; there hardly ever are any, so only when it fails."""
        where = self._where(model, window)
        sql = query(())
        try:
            return run(sql, where, _named(sql, given))
        except LogReadError:
            absent = self._absent(model, columns, window)
            if not absent:
                raise
        sql = query(absent)
        return run(sql, where, _named(sql, given))

    def _absent(self, model: str, columns: Iterable[str], window: tuple[datetime, datetime]) -> set[str]:
        """Columns that no file of a time has: they came later, with another version."""
        place = log_table(self.root, model, "predictions")
        there = columns_of(place, *window) if isinstance(place, Path) else None
        return set() if there is None else set(columns) - {name for name, _ in there}

    def _where(self, model: str, window: tuple[datetime, datetime]) -> dict[str, Any]:
        return {"predictions": (log_table(self.root, model, "predictions"), *window)}


def bins_of(columns: Mapping[str, str], samples: Sequence["pd.DataFrame"], known: Profile | None) -> dict[str, Bins]:
    """What to count each column by.

    Inputs by the bins of the training profile where it has them; categories that are common now are counted too. What
    has no profile by where the first sample with values has them.

    Args:
        columns: Type by name.
        samples: Of the rows that will be counted.
        known: The training profile.
    """
    bins: dict[str, Bins] = {}
    for name, kind in columns.items():
        given = None
        if known is not None and name.startswith(FEATURE_PREFIX):
            given = known.columns.get(name.removeprefix(FEATURE_PREFIX))
        values = [frame[name].dropna() for frame in samples if name in frame.columns]
        if _holds_numbers(name, kind, values):
            own = given.grid if given is not None and given.kind == "number" else None
            bins[name] = own or next((grid for each in values if (grid := _grid(each)) is not None), _NONE)
        else:
            listed = dict.fromkeys(given.categories if given is not None and given.kind == "text" else ())
            for each in values:
                common = each.astype(str).value_counts().head(MOST_CATEGORIES).index
                listed |= dict.fromkeys(text for text in common if len(text) <= LONGEST_CATEGORY)
            bins[name] = tuple(listed)[: 2 * MOST_CATEGORIES]
    return bins


def _holds_numbers(name: str, kind: str, values: Sequence["pd.Series[Any]"]) -> bool:
    """Whether a column is counted as numbers: the log has predictions as text, whatever the model answers."""
    import pandas as pd

    if name != "prediction":
        return is_number(kind)
    answers = pd.concat(list(values)) if values else pd.Series(dtype=object)
    return answers.nunique() > _MANY_NUMBERS and bool(pd.to_numeric(answers, errors="coerce").notna().all())


def _grid(values: "pd.Series[Any]") -> Grid | None:
    import numpy as np
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    finite = np.sort(numbers[np.abs(numbers) <= LARGEST])
    return grid_of(finite.tolist()) if len(finite) else None


def _column(bins: Bins, counts: Mapping[int, int]) -> ColumnProfile:
    missing, not_finite, rest = (counts.get(each, 0) for each in (MISSING, NOT_FINITE, REST))
    own = {index: count for index, count in counts.items() if index not in (MISSING, NOT_FINITE, REST)}
    if isinstance(bins, Grid):
        return column_of_numbers(bins, own, missing, not_finite)
    return ColumnProfile("text", missing, categories={text: own.get(i, 0) for i, text in enumerate(bins)}, rest=rest)


def _no_rows(bins: Mapping[str, Bins], columns: Mapping[str, str]) -> Columns:
    return {name: _column(by, {}) for name, by in bins.items() if name in columns}


def _named(sql: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if f"${name}" in sql}


def _times(window: tuple[datetime, datetime]) -> dict[str, int]:
    return {"low": microseconds(window[0]), "high": microseconds(window[1])}
