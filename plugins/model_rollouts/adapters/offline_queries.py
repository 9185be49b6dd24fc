# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""Queries about logged requests that are scored again, in DuckDB's SQL.

A stage's sample of the champion's requests is a Parquet file of its own, `$sample`: one row a request.
"""

from model_rollouts.adapters.delta_queries import CHAMPION_ROWS, first_rows

OFFLINE = "offline"  # gateway_id of rows that no gateway has written

REQUESTS = f"{CHAMPION_ROWS} AND request_id IS NOT NULL"

# What the challenger has answered in the stage. Rows of one batch have one time.
_SCORED = f"""
SELECT request_id, ts, cohort, unit_id, status, latency_ms, prediction FROM {{predictions}}
WHERE rollout_id = $rollout AND stage = $offline_stage AND arm = 'challenger' AND gateway_id = '{OFFLINE}'
"""

BATCHES = f"""
SELECT epoch_us(ts), count(cohort), count(*) - count(cohort) FROM ({_SCORED}) GROUP BY 1 ORDER BY 1
"""

SCORED_IDS = f"SELECT request_id FROM ({_SCORED})"

# `%s` is, for each input that the challenger can't do without, when a value of it was logged first.
SURVEY = f"""
SELECT %s FROM {{predictions}} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND {REQUESTS}
"""
FIRST_VALUE = "min(epoch_us(ts)) FILTER (%s IS NOT NULL)"

COUNT = f"""
SELECT count(*) FROM {{predictions}} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND {REQUESTS}
"""

_DRAW = "(md5_number_lower($salt || request_id) >> 1)"

# Requests by a hash of their id, so that every batch is spread evenly over the whole time, and the same each time. A
# request whose id comes back later is asked once. The first `%s` are the columns of the inputs, the second is the file.
SAMPLE = f"""
COPY (
    WITH scored AS ({_SCORED}),
    {first_rows(f"{REQUESTS} AND ({_DRAW} <= $limit OR request_id IN (SELECT request_id FROM scored))", "request_id")},
    chosen AS (
        SELECT request_id, us FROM counted WHERE us >= $since
        QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY us) = 1
    )
    SELECT request_id, us, unit_id, status, latency_ms, prediction, score, traffic_revision, %s
    FROM {{predictions}} JOIN chosen USING (request_id)
    WHERE epoch_us(ts) = us AND {REQUESTS}
    -- Of rows with one time the failed and the slow come first, as elsewhere: a tie never hides harm.
    QUALIFY row_number() OVER (
        PARTITION BY request_id ORDER BY (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
    ) = 1
    ORDER BY {_DRAW}, request_id
) TO '%s' (FORMAT parquet)
"""
COLUMNS = "SELECT * FROM {predictions} LIMIT 0"


def seen_as_live(counts: str) -> str:
    """In the place of a stage's rows: both answers to each scored request, at the time of its batch.

    Args:
        counts: When a request counts for the cohorts; over `scored` and `old`, the champion's row.
    """
    columns = "false AS served, $rollout AS rollout_id, CAST($offline_stage AS INTEGER) AS stage"
    return f"""(
        WITH scored AS ({_SCORED}),
        old AS (
            SELECT request_id, us, unit_id, status, latency_ms, prediction
            FROM read_parquet($sample, hive_partitioning = false)
        )
        SELECT old.request_id, scored.ts, 'champion' AS arm, CASE WHEN {counts} THEN 'champion' END AS cohort,
            {columns}, old.unit_id, old.status, old.latency_ms, old.prediction
        FROM scored JOIN old USING (request_id)
        UNION ALL
        SELECT scored.request_id, scored.ts, 'challenger', CASE WHEN {counts} THEN 'challenger' END,
            {columns}, scored.unit_id, scored.status, scored.latency_ms, scored.prediction
        FROM scored JOIN old USING (request_id) WHERE scored.cohort IS NOT NULL
    )"""


EVERY_REQUEST = "true"
ASKED = "scored.cohort IS NOT NULL"
# Known by the time of the batch: whenever it is counted, it comes out the same.
MATURED = f"{ASKED} AND old.us + $age <= epoch_us(scored.ts)"

# In the place of the outcomes: as late after the batch as they were after their request.
SHIFTED_OUTCOMES = f"""(
    SELECT known.request_id, make_timestamp(epoch_us(known.ts) + epoch_us(scored.ts) - old.us) AS ts, label, value
    FROM {{outcomes}} AS known
    JOIN (SELECT request_id, us FROM read_parquet($sample, hive_partitioning = false)) AS old USING (request_id)
    JOIN ({_SCORED}) AS scored USING (request_id)
)"""
