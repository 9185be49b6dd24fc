# ruff: noqa: S608 - the text is put together from constants and quoted column names; every value is a parameter
"""An offline stage as the comparison sees it: both answers to each scored request, at the time of the champion's."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from model_rollouts.adapters.delta_files import columns_of, run_local
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.delta_queries import CHAMPION_ROWS, FAR, microseconds
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.log_places import LogRoot, log_table
from model_rollouts.adapters.offline_queries import OFFLINE
from model_rollouts.adapters.paired_rows import PairedLog
from model_rollouts.core.rollout import Rollout

HISTORY = timedelta(days=400)  # requests that are scored offline are no older
_EPOCH = datetime.fromtimestamp(0, UTC)

# A request that could not be asked has no cohort, and is not there. The challenger's latency is that of a batch in a
# task: the champion's stands in its place, so that nothing is found in it.
_BOTH = f"""
COPY (
    WITH scored AS (
        SELECT request_id, traffic_revision, status, error, prediction, score FROM {{{{predictions}}}}
        WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger' AND gateway_id = '{OFFLINE}'
            AND cohort IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY ts) = 1
    ),
    old AS (
        SELECT request_id, ts, served, unit_id, status, error, latency_ms, prediction, score{{features}}
        FROM {{{{predictions}}}}
        WHERE {CHAMPION_ROWS} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
            AND (request_id, coalesce(traffic_revision, 0)) IN (SELECT (request_id, traffic_revision) FROM scored)
        QUALIFY row_number() OVER (
            PARTITION BY request_id ORDER BY ts, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
        ) = 1
    )
    SELECT request_id, ts, $model AS model, $version AS version, 'champion' AS arm, 'champion' AS cohort, served,
        $rollout AS rollout_id, CAST($stage AS INTEGER) AS stage, unit_id, status, error, latency_ms, prediction, score,
        '{OFFLINE}' AS gateway_id, CAST(1 AS BIGINT) AS traffic_revision{{features}}
    FROM old
    UNION ALL
    SELECT old.request_id, ts, $model, $challenger, 'challenger', 'challenger', false, $rollout,
        CAST($stage AS INTEGER), unit_id, scored.status, scored.error, latency_ms, scored.prediction, scored.score,
        '{OFFLINE}', CAST(1 AS BIGINT){{features}}
    FROM old JOIN scored USING (request_id)
) TO '{{file}}' (FORMAT parquet)
"""
_SPAN = "SELECT min(epoch_us(ts)), max(epoch_us(ts)) FROM {predictions}"


@dataclass(frozen=True, slots=True)
class OfflineRows:
    """Both answers to each request that was scored.

    Attributes:
        log: They, and the log's outcomes.
        start: Time of the first request.
        end: Time after the last one, UTC.
    """

    log: DeltaPredictionLog
    start: datetime
    end: datetime


@contextmanager
def offline_rows(root: LogRoot, rollout: Rollout, stage: int) -> Iterator[OfflineRows | None]:
    """The rows of an offline stage, in a scratch file; None while nothing is scored.

    Args:
        root: The log.
        rollout: The rollout.
        stage: Position of an offline stage.

    Raises:
        LogReadError: The log can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="model-rollouts-offline-") as scratch:
        file = Path(scratch, "rows.parquet")
        yield _written(root, rollout, stage, file)


def _written(root: LogRoot, rollout: Rollout, stage: int, file: Path) -> OfflineRows | None:
    start = (rollout.opened_at or rollout.created_at) - HISTORY
    where = (log_table(root, rollout.model, "predictions"), start, FAR)
    columns = columns_of(*where)
    if columns is None:
        return None
    named = [name for name, _ in columns if name.startswith(FEATURE_PREFIX)]
    sql = _BOTH.format(features=_features(named), file=_literal(file))
    given = {"rollout": rollout.id, "stage": stage, "model": rollout.model, "version": rollout.champion,
        "challenger": rollout.challenger, "low": microseconds(start), "high": microseconds(FAR)}  # fmt: skip
    if run_local(sql, {"predictions": where}, given) is None:
        return None
    log = DeltaPredictionLog(PairedLog(file, root))
    found = run_local(_SPAN, {"predictions": (log_table(log.root, rollout.model, "predictions"), start, FAR)}, {})
    low, high = found.fetchall()[0] if found else (None, None)
    if low is None:
        return None
    return OfflineRows(log, _EPOCH + timedelta(microseconds=low), _EPOCH + timedelta(microseconds=high + 1))


def _features(names: Sequence[str]) -> str:
    """Columns in a query that is still to be filled in."""
    quoted = (name.replace('"', '""').replace("{", "{{").replace("}", "}}") for name in names)
    return "".join(f', "{name}"' for name in quoted)


def _literal(file: Path) -> str:
    return str(file).replace("'", "''").replace("{", "{{").replace("}", "}}")
