"""A log of its own for a replay: what the gateway would have logged, had it dealt past requests by a plan's shares.

A row of the past counts where the version that gave it is the one that the share gives its unit. Where both versions
answered every request (a shadow period), every unit's row is there whatever the share; where the traffic was split,
those remain whose version was dealt the same way, a random part since the new salt deals anew.
"""

import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from model_rollouts.adapters.delta_files import run_local
from model_rollouts.adapters.delta_queries import FAR, OUTCOME_SLACK, microseconds
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.log_places import EngineTable, LogPlace, LogRoot, log_table
from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.routing import Arm, route

if TYPE_CHECKING:
    import pyarrow as pa

# A champion's answer that stands in for a failed challenger's is no fair draw of the champion's.
_ROWS = """
SELECT *, CAST(ts AS DATE) AS day FROM {predictions}  -- the partition's column is not in the files
WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND version IN ($champion, $challenger)
    AND NOT (arm = 'champion' AND coalesce(cohort, 'champion') = 'challenger')
ORDER BY ts, request_id, version
"""
_OUTCOMES = "SELECT *, CAST(ts AS DATE) AS day FROM {outcomes}"
_BATCH = 50_000


class Scenario:
    """Deals the past anew.

    Args:
        source: The log to read.
        root: Root folder of the replay's own log.
        model: Registered model name.
        start: Outcomes are those of requests from here on, UTC.

    Raises:
        LogReadError: The outcomes can't be read.
    """

    def __init__(self, source: LogRoot, root: Path, model: str, start: datetime) -> None:
        self.source, self.root, self.model = source, root, model
        here = table_path(root, model, "outcomes")
        here.parent.mkdir(parents=True, exist_ok=True)
        place = log_table(source, model, "outcomes")
        outcomes = place.place if isinstance(place, EngineTable) else place
        if not isinstance(outcomes, Path):
            self._copy_outcomes(outcomes, here, start)
        elif outcomes.exists():
            here.symlink_to(outcomes.resolve(), target_is_directory=True)

    @staticmethod
    def _copy_outcomes(source: LogPlace, here: Path, start: datetime) -> None:
        result = run_local(_OUTCOMES, {"outcomes": (source, start - OUTCOME_SLACK, FAR)}, {})
        if result is not None:
            from deltalake import write_deltalake

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that it copies the rows
                rows: pa.RecordBatchReader = result.to_arrow_reader(_BATCH)
            write_deltalake(str(here), rows, mode="append", partition_by=["day"])

    def deal(self, traffic: Traffic, start: datetime, end: datetime) -> int:
        """Write the rows of [start, end) as the traffic would have had them logged; returns how many.

        Raises:
            LogReadError: The log can't be read.
        """
        where = (log_table(self.source, self.model, "predictions"), start, end)
        parameters = {
            "low": microseconds(start),
            "high": microseconds(end),
            "champion": traffic.champion,
            "challenger": traffic.challenger,
        }
        result = run_local(_ROWS, {"predictions": where}, parameters)
        if result is None:
            return 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it copies the rows: they are dealt anew below
            table: pa.Table = result.to_arrow_table()
        dealt = _dealt(table, traffic)
        if dealt.num_rows:
            from deltalake import write_deltalake

            target = table_path(self.root, self.model, "predictions")
            write_deltalake(str(target), dealt, mode="append", partition_by=["day"], schema_mode="merge")
        return int(dealt.num_rows)


def _dealt(table: "pa.Table", traffic: Traffic) -> "pa.Table":
    import pyarrow as pa

    names = ("request_id", "unit_id", "version")
    kept: list[int] = []
    arms: list[str] = []
    for position, (request_id, unit, version) in enumerate(
        zip(*(table.column(name).to_pylist() for name in names), strict=True)
    ):
        arm = Arm.CHALLENGER if version == traffic.challenger else Arm.CHAMPION
        if arm in _counted(traffic, unit, str(request_id)):
            kept.append(position)
            arms.append(str(arm))
    dealt = table.take(pa.array(kept, pa.int64()))
    count = dealt.num_rows
    for name, column in {
        "arm": pa.array(arms, pa.string()),
        "cohort": pa.array(arms, pa.string()),
        "served": pa.array([True] * count, pa.bool_()),
        "rollout_id": pa.array([traffic.rollout_id] * count, pa.string()),
        "stage": pa.array([traffic.stage] * count, pa.int32()),
    }.items():
        dealt = dealt.set_column(dealt.schema.get_field_index(name), name, column)
    return dealt


def _counted(traffic: Traffic, unit: str | None, request_id: str) -> tuple[Arm, ...]:
    """Whose answers of a request count: both where the challenger mirrors, none outside of a control group."""
    if traffic.share == 0:
        return Arm.CHAMPION, Arm.CHALLENGER
    cohort = route(traffic, unit, request_id, challenger_ready=True).cohort
    return () if cohort is None else (cohort,)
