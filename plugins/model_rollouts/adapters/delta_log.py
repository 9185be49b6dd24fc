"""The prediction log, read with DuckDB: evidence as counts, and samples for the reports.

Evidence is made of rows whose arm is their cohort. A request that is logged again in the same arm within
`REPEAT_SECONDS` of its last row counts once, as its first row, whichever windows are asked for together.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model_rollouts.adapters.delta_files import LogReadError, run
from model_rollouts.adapters.delta_queries import (
    ARM_ROWS,
    CHAMPION_ROWS,
    FAR,
    OUTCOME_COUNT,
    OUTCOME_SAMPLE,
    OUTCOME_SLACK,
    REPEAT_SECONDS,
    REQUESTS,
    ROW_COUNT,
    SAMPLE,
    STAGE_ROWS,
    look_parameters,
    microseconds,
    span,
)
from model_rollouts.adapters.delta_schema import SCHEMAS, LogContractError, feature_column, table_path
from model_rollouts.adapters.delta_unit_log import DeltaUnitLog
from model_rollouts.adapters.delta_writer import DeltaLogWriter
from model_rollouts.adapters.log_places import LogRoot, log_table
from model_rollouts.adapters.unit_carry import UnitCarry
from model_rollouts.core.evidence import LATENCY_BINS, LATENCY_FLOOR_MS, LATENCY_RATIO, RequestCounts
from model_rollouts.ports import StageWindow, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "REPEAT_SECONDS",
    "DeltaLogWriter",
    "DeltaPredictionLog",
    "LogContractError",
    "LogReadError",
    "feature_column",
    "table_path",
]

Arm = Literal["champion", "challenger"]
MAX_SAMPLE = 1_000_000
_ARMS: tuple[Arm, Arm] = ("champion", "challenger")


class DeltaPredictionLog(DeltaUnitLog):
    """Reads evidence and samples. A model without a table has no rows; a broken table is an error.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
        carry: As for `DeltaUnitLog`.
    """

    def __init__(self, root: LogRoot, carry: UnitCarry | None = None) -> None:
        super().__init__(root, carry)

    def request_counts(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window]
    ) -> list[tuple[RequestCounts, RequestCounts]]:
        """(champion, challenger) for each window, in order; zeros where there are no rows.

        An answer whose latency is no finite number counts as an error.

        Raises:
            LogReadError: The log can't be read.
        """
        if not windows:
            return []
        requests: dict[tuple[int, str], int] = defaultdict(int)
        errors: dict[tuple[int, str], int] = defaultdict(int)
        latency: dict[tuple[int, str], dict[int, int]] = defaultdict(dict)
        for at, arm, index, n in self._request_rows(model, rollout_id, stage, windows):
            requests[at, arm] += n
            if index is None:
                errors[at, arm] += n
            else:
                latency[at, arm][index] = n
        counts = [
            [RequestCounts(requests[at, arm], errors[at, arm], latency[at, arm]) for arm in _ARMS]
            for at in range(len(windows))
        ]
        return [(champion, challenger) for champion, challenger in counts]

    def stage_frame(
        self,
        model: str,
        rollout_id: str,
        stage: int,
        arm: Arm | None,
        start: datetime,
        end: datetime,
        limit: int = 5_000,
        seed: int = 0,
    ) -> "pd.DataFrame":
        """A sample of a stage's rows as they were logged, with `label` and `value` joined.

        The sample is drawn by a hash of request id and seed: the same each time, and repeats stay together.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            arm: The evidence of one arm; None: every row of the stage, whether it counts or not, for data checks.
            start: First time, UTC.
            end: Time after the last, UTC.
            limit: Most rows to return, 1 to 1,000,000.
            seed: Another seed draws another sample.

        Returns:
            One row a log row, by time; the contract's columns but `day`, one column a feature, `label` and `value`.
        """
        condition, parameters = _stage_filter(rollout_id, stage, arm)
        return self._sample(model, condition, parameters, start, end, limit, seed)

    def champion_frame(
        self, model: str, version: str, start: datetime, end: datetime, limit: int = 5_000, seed: int = 0
    ) -> "pd.DataFrame":
        """A sample of a version's answers as champion, in or out of rollouts: the reference before a rollout.

        Arguments and result as for `stage_frame`.
        """
        return self._sample(model, CHAMPION_ROWS, {"version": version}, start, end, limit, seed)

    def count_rows(
        self, model: str, rollout_id: str, stage: int, arm: Arm | None, start: datetime, end: datetime
    ) -> int:
        """How many rows `stage_frame` samples from."""
        condition, parameters = _stage_filter(rollout_id, stage, arm)
        return self._total(model, condition, parameters, start, end)

    def count_champion_rows(self, model: str, version: str, start: datetime, end: datetime) -> int:
        """How many rows `champion_frame` samples from."""
        return self._total(model, CHAMPION_ROWS, {"version": version}, start, end)

    def outcomes_frame(
        self, model: str, start: datetime, end: datetime, limit: int = 5_000, seed: int = 0
    ) -> "pd.DataFrame":
        """A sample of the outcomes that became known in [start, end), as they were logged; drawn like `stage_frame`."""
        import pandas as pd

        where = (log_table(self.root, model, "outcomes"), start, end)
        parameters = {
            "low": microseconds(start),
            "high": microseconds(end),
            "limit": _bounded(limit),
            "seed": str(seed),
        }
        result = run(OUTCOME_SAMPLE, {"outcomes": where}, parameters)
        return pd.DataFrame(columns=SCHEMAS["outcomes"].names[1:]) if result is None else result.df()

    def count_outcomes(self, model: str, start: datetime, end: datetime) -> int:
        """How many rows `outcomes_frame` samples from."""
        where = (log_table(self.root, model, "outcomes"), start, end)
        result = run(OUTCOME_COUNT, {"outcomes": where}, {"low": microseconds(start), "high": microseconds(end)})
        return int(result.fetchall()[0][0]) if result else 0

    def at_once(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], maturity: timedelta
    ) -> "AbstractContextManager[DeltaPredictionLog]":
        """This log, for who asks for all parts of all of these looks; see `looks_at_once`.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All closed looks of the rollout in order of time, from its first one.
            maturity: A label or value counts up to this long after its request.
        """
        from model_rollouts.adapters.looks_at_once import looks_at_once

        seen_as_it_is = type(self)._run is DeltaUnitLog._run
        if seen_as_it_is and windows and isinstance(log_table(self.root, model, "predictions"), Path):
            return looks_at_once(self, model, rollout_id, windows, maturity)
        return nullcontext(self)

    # --- inside

    def _request_rows(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window]
    ) -> list[tuple[int, str, int | None, int]]:
        """Position of the window, arm, latency bin (None: an error) and how many requests."""
        parameters = look_parameters(rollout_id, [StageWindow(stage, window) for window in windows]) | {"stage": stage}
        parameters |= {"floor": LATENCY_FLOOR_MS, "ratio": LATENCY_RATIO, "bins": LATENCY_BINS}
        tables = {"predictions": (log_table(self.root, model, "predictions"), *span(windows))}
        result = self._run(REQUESTS, tables, parameters)
        return result.fetchall() if result else []

    def _sample(
        self,
        model: str,
        condition: str,
        parameters: dict[str, Any],
        start: datetime,
        end: datetime,
        limit: int,
        seed: int,
    ) -> "pd.DataFrame":
        import pandas as pd

        since = start - OUTCOME_SLACK
        tables = {
            "predictions": (log_table(self.root, model, "predictions"), start, end),
            "outcomes": (log_table(self.root, model, "outcomes"), since, FAR),
        }
        given = {
            "low": microseconds(start),
            "high": microseconds(end),
            "limit": _bounded(limit),
            "seed": str(seed),
            "outcomes_from": microseconds(since),
        }
        result = run(SAMPLE % condition, tables, given | parameters)
        if result is None:
            return pd.DataFrame(columns=[*SCHEMAS["predictions"].names[1:], "label", "value"])  # without `day`
        return result.df()

    def _total(self, model: str, condition: str, parameters: dict[str, Any], start: datetime, end: datetime) -> int:
        where = (log_table(self.root, model, "predictions"), start, end)
        result = run(
            ROW_COUNT % condition,
            {"predictions": where},
            {"low": microseconds(start), "high": microseconds(end)} | parameters,
        )
        return int(result.fetchall()[0][0]) if result else 0


def _stage_filter(rollout_id: str, stage: int, arm: Arm | None) -> tuple[str, dict[str, Any]]:
    if arm is None:
        return STAGE_ROWS, {"rollout": rollout_id, "stage": stage}
    return ARM_ROWS, {"rollout": rollout_id, "stage": stage, "arm": arm}


def _bounded(limit: int) -> int:
    if not 1 <= limit <= MAX_SAMPLE:
        raise ValueError(f"limit is {limit}, must be between 1 and {MAX_SAMPLE}")
    return limit
