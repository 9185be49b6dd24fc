# ruff: noqa: S608 - the texts are put together from constants of this module; every value is a parameter
"""The log's queries, in DuckDB's SQL. `{predictions}` and `{outcomes}` stand for the tables' current files."""

_EVIDENCE = """
seen AS (
    SELECT request_id, arm, status, latency_ms, prediction, score, epoch_us(ts) AS us
    FROM {predictions}
    WHERE rollout_id = $rollout AND stage = $stage AND arm = cohort AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
),
counted AS (
    SELECT * FROM seen
    -- Of rows with one time the failed and the slow come first: a tie never hides harm.
    QUALIFY coalesce(us - lag(us) OVER (
        PARTITION BY request_id, arm
        ORDER BY us, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
    ) >= $repeat, true)
),
windows AS (SELECT unnest($indices) AS window_at, unnest($lows) AS low, unnest($highs) AS high),
placed AS (SELECT counted.*, window_at FROM counted JOIN windows ON us >= low AND us < high)
"""

# An answer whose latency is no number, or beyond the last bin, counts as an error: no bin tells the truth about it.
REQUESTS = f"""
WITH {_EVIDENCE},
binned AS (
    SELECT window_at, arm,
        CASE WHEN status IS DISTINCT FROM 'ok' OR latency_ms IS NULL OR NOT isfinite(latency_ms) THEN NULL
            WHEN NOT latency_ms > $floor THEN 0
            WHEN isfinite(latency_ms / $floor) THEN CAST(floor(ln(latency_ms / $floor) / ln($ratio)) AS INTEGER)
        END AS bin
    FROM placed
)
SELECT window_at, arm, CASE WHEN bin < $bins THEN bin END AS bin, count(*) AS n FROM binned GROUP BY ALL
"""

_LABELS = """
    SELECT request_id, min(struct_pack(us := epoch_us(ts), text := label)) FILTER (label IS NOT NULL) AS first_label,
        min(struct_pack(us := epoch_us(ts), number := value)) FILTER (value IS NOT NULL) AS first_value
    FROM {outcomes}
    WHERE epoch_us(ts) >= $outcomes_from
    GROUP BY request_id
"""

LABEL_COUNTS = f"""
WITH {_EVIDENCE},
due AS (SELECT window_at, arm, request_id, prediction FROM placed WHERE status = 'ok'),
labels AS ({_LABELS})
SELECT window_at, arm, count(*), count(first_label),
    count(*) FILTER (first_label IS NOT NULL AND first_label.text IS DISTINCT FROM prediction)
FROM due LEFT JOIN labels USING (request_id) GROUP BY ALL
"""

SAMPLE = f"""
WITH chosen AS (
    SELECT * FROM {{predictions}}
    WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND (%s)
    ORDER BY md5($seed || coalesce(request_id, '')), ts, arm LIMIT $limit
),
labels AS ({_LABELS})
SELECT chosen.*, first_label.text AS label, first_value.number AS value
FROM chosen LEFT JOIN labels USING (request_id)
ORDER BY ts, request_id, arm
"""

SCORE_MEANS = """
SELECT arm, count(*), avg(score) FROM (
    SELECT DISTINCT ON (request_id, arm) arm, score FROM {predictions}
    WHERE rollout_id = $rollout AND arm = cohort AND status = 'ok' AND isfinite(score)
        AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
    ORDER BY ts, score
) GROUP BY arm
"""

ROW_COUNT = "SELECT count(*) FROM {predictions} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND (%s)"

OUTCOME_SAMPLE = """
SELECT * FROM (
    SELECT * FROM {outcomes} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high
    ORDER BY md5($seed || coalesce(request_id, '')), ts, label, value LIMIT $limit
) ORDER BY ts, request_id
"""

OUTCOME_COUNT = "SELECT count(*) FROM {outcomes} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high"

STAGE_ROWS = "rollout_id = $rollout AND stage = $stage"
ARM_ROWS = f"{STAGE_ROWS} AND arm = $arm AND cohort = $arm"
CHAMPION_ROWS = "arm = 'champion' AND version = $version AND coalesce(cohort, 'champion') = 'champion'"
