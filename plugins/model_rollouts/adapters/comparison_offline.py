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
from model_rollouts.adapters.delta_queries import FAR, REPEAT, REPEAT_SECONDS, first_rows, microseconds
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.log_places import LogRoot, log_table
from model_rollouts.adapters.offline_queries import OFFLINE, REQUESTS
from model_rollouts.adapters.paired_rows import PairedLog
from model_rollouts.core.rollout import Rollout

_EPOCH = datetime.fromtimestamp(0, UTC)

# Which of an id's rows was asked is found as the sample of the requests finds it; see `offline_queries.SAMPLE`. A row
# of another revision is none that was asked, and has no pair. A request that could not be asked has no cohort, and is
# not there. The challenger's latency is that of a batch in a task: the champion's stands in its place, so that nothing
# is found in it.
_COUNTED = first_rows(f"{REQUESTS} AND request_id IN (SELECT request_id FROM scored)", "request_id").replace(
    "{predictions}", "{{predictions}}"
)
_BOTH = f"""
COPY (
    WITH scored AS (
        SELECT request_id, traffic_revision, status, error, prediction, score FROM {{{{predictions}}}}
        WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger' AND gateway_id = '{OFFLINE}'
            AND cohort IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY ts) = 1
    ),
    {_COUNTED},
    chosen AS (
        SELECT request_id, us FROM counted WHERE us >= $since
        QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY us) = 1
    ),
    first AS (
        SELECT request_id, ts, served, unit_id, status, error, latency_ms, prediction, score,
            traffic_revision{{features}}
        FROM {{{{predictions}}}} JOIN chosen USING (request_id)
        WHERE epoch_us(ts) = us AND {REQUESTS}
        QUALIFY row_number() OVER (
            PARTITION BY request_id ORDER BY (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
        ) = 1
    ),
    old AS (
        SELECT * EXCLUDE (traffic_revision) FROM first
        WHERE (request_id, coalesce(traffic_revision, 0)) IN (SELECT (request_id, traffic_revision) FROM scored)
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
def offline_rows(root: LogRoot, rollout: Rollout, stage: int, since: datetime) -> Iterator[OfflineRows | None]:
    """The rows of an offline stage, in a scratch file; None while nothing is scored.

    Args:
        root: The log.
        rollout: The rollout.
        stage: Position of an offline stage.
        since: From when on requests were scored, UTC; see `DeltaOfflineLog.requests_from`.

    Raises:
        LogReadError: The log can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="model-rollouts-offline-") as scratch:
        file = Path(scratch, "rows.parquet")
        yield _written(root, rollout, stage, since, file)


def _written(root: LogRoot, rollout: Rollout, stage: int, since: datetime, file: Path) -> OfflineRows | None:
    start, until = since - REPEAT, rollout.judged_from or rollout.opened_at or rollout.created_at
    where = (log_table(root, rollout.model, "predictions"), start, FAR)
    columns = columns_of(*where)
    if columns is None:
        return None
    named = [name for name, _ in columns if name.startswith(FEATURE_PREFIX)]
    sql = _BOTH.format(features=_features(named), file=_literal(file))
    given = {"rollout": rollout.id, "stage": stage, "model": rollout.model, "version": rollout.champion,
        "challenger": rollout.challenger, "since": microseconds(since), "low": microseconds(start),
        "high": microseconds(until), "repeat": REPEAT_SECONDS * 1_000_000}  # fmt: skip
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
