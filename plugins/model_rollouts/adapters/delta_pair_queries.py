# ruff: noqa: S608 - the texts are put together from constants and quoted column names; every value is a parameter
"""Queries that look into the pairs of answers of one stage, in DuckDB's SQL.

What a pair is says `PAIR_COUNTS` in `delta_unit_queries.py`; here the pairs are kept as a table, so that many questions
can be asked of them.
"""

from collections.abc import Sequence

from model_rollouts.adapters.delta_queries import CHAMPION_ROWS, first_rows
from model_rollouts.adapters.delta_unit_queries import SAME_NUMBER, SAME_TEXT

TEXT_CHARS = 80  # longer texts are cut in what is shown, never in what is compared
QUANTILES = {"p1": 0.01, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
_QUANTILE_LIST = f"[{', '.join(map(str, QUANTILES.values()))}]"


def quoted(column: str) -> str:
    """A column's name in a query that `run` will format."""
    return '"' + column.replace('"', '""').replace("{", "{{").replace("}", "}}") + '"'


def pairs_table(features: Sequence[str], tolerance: float | None) -> str:
    """Statement that makes the table `pairs`: one row for each champion's answer that counts as its own.

    Columns: `unit`, the champion's `status`, `prediction`, `score`, `latency_ms`, its features as `c0`, `c1`, ..., then
    `paired`, `agreed` (null where it is not paired), `their_status`, `their_prediction`, `their_score` and
    `their_latency_ms`.

    Args:
        features: The log's columns to slice by.
        tolerance: As for `pair_counts`; the parameter `$tolerance` is used unless it is None.
    """
    rows = first_rows("rollout_id = $rollout AND stage = $stage AND arm = cohort AND arm = 'champion'")
    rows = rows.replace("epoch_us(ts) AS us", f"epoch_us(ts) AS us, score{_named(features)}")
    champions = f"""{rows},
champions AS MATERIALIZED (SELECT row_number() OVER () AS place, * FROM counted WHERE us >= $start),
theirs AS (
    SELECT request_id, epoch_us(ts) AS us, status, prediction, score, latency_ms FROM {{predictions}}
    WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger'
)"""
    return _paired(champions, "abs(theirs.us - asked.us) < $repeat", features, tolerance)


def offline_pairs_table(features: Sequence[str], tolerance: float | None) -> str:
    """The same table for an offline stage: the champion's rows are those of the log that were scored again.

    A request is scored once, whenever it was asked, and its row has the traffic revision of the champion's. One that
    could not be scored has no cohort: it is asked and not paired.

    Args:
        features: As for `pairs_table`.
        tolerance: As for `pairs_table`.
    """
    champions = f"""
scored AS (
    SELECT DISTINCT ON (request_id) request_id, traffic_revision, cohort, epoch_us(ts) AS us, status, prediction, score,
        latency_ms
    FROM {{predictions}} WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger'
    ORDER BY request_id, ts
),
champions AS MATERIALIZED (
    SELECT row_number() OVER () AS place, request_id, unit_id, status, latency_ms, prediction,
        epoch_us(ts) AS us, score{_named(features)}
    FROM {{predictions}}
    WHERE {CHAMPION_ROWS} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
        AND (request_id, coalesce(traffic_revision, 0)) IN (SELECT (request_id, traffic_revision) FROM scored)
    QUALIFY row_number() OVER (
        PARTITION BY request_id ORDER BY us, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
    ) = 1
),
theirs AS (SELECT * FROM scored WHERE cohort IS NOT NULL)"""
    return _paired(champions, "true", features, tolerance)


def _named(features: Sequence[str]) -> str:
    return "".join(f", {quoted(column)} AS c{at}" for at, column in enumerate(features))


def _paired(champions: str, near: str, features: Sequence[str], tolerance: float | None) -> str:
    """`pairs` of the common tables `champions` and `theirs`; of several answers the first one counts."""
    kept = "".join(f", c{at}" for at in range(len(features)))
    same = SAME_TEXT if tolerance is None else SAME_NUMBER
    return f"""
CREATE TEMP TABLE pairs AS
WITH {champions},
asked AS (SELECT place, request_id, us, prediction FROM champions WHERE status = 'ok'),
answers AS (
    SELECT place, min(struct_pack(
        us := theirs.us, agreed := coalesce(theirs.status = 'ok' AND ({same}), false), status := theirs.status,
        prediction := theirs.prediction, score := theirs.score, latency_ms := theirs.latency_ms
    )) AS first
    FROM asked JOIN theirs ON theirs.request_id = asked.request_id AND {near}
    GROUP BY place
)
SELECT coalesce('u' || unit_id, 'r' || request_id, '') AS unit, champions.status AS status, prediction, score,
    latency_ms{kept}, first IS NOT NULL AS paired, first.agreed AS agreed, first.status AS their_status,
    first.prediction AS their_prediction, first.score AS their_score, first.latency_ms AS their_latency_ms
FROM champions LEFT JOIN answers USING (place)
"""


COUNTS = """
SELECT count(*) FILTER (status = 'ok'), count(*) FILTER (status IS DISTINCT FROM 'ok'), count(*) FILTER (paired),
    count(*) FILTER (agreed), count(*) FILTER (paired AND their_status = 'timeout'),
    count(*) FILTER (paired AND their_status IS DISTINCT FROM 'ok' AND their_status IS DISTINCT FROM 'timeout'),
    count(DISTINCT unit) FILTER (paired)
FROM pairs
"""

# Requests of the control sample whose second answer was never logged: no champion's row tells of them.
WITHOUT_CHAMPION = """
SELECT count(DISTINCT request_id) FROM {predictions}
WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger' AND cohort = 'champion'
    AND epoch_us(ts) >= $start AND epoch_us(ts) < $high
    AND request_id NOT IN (
        SELECT request_id FROM {predictions}
        WHERE rollout_id = $rollout AND stage = $stage AND arm = 'champion' AND request_id IS NOT NULL
    )
"""

# Requests that were scored again and whose champion's answer is not in the log any more.
OFFLINE_WITHOUT_CHAMPION = f"""
SELECT count(DISTINCT request_id) FROM {{predictions}}
WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger'
    AND request_id NOT IN (
        SELECT request_id FROM {{predictions}}
        WHERE {CHAMPION_ROWS} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high AND request_id IS NOT NULL
    )
"""

DISAGREEMENTS = f"""
WITH kinds AS (
    SELECT prediction, their_prediction, coalesce(their_status, '') AS their_status, count(*) AS n
    FROM pairs WHERE paired AND NOT agreed GROUP BY ALL
)
SELECT left(prediction, {TEXT_CHARS}), left(their_prediction, {TEXT_CHARS}), their_status, n,
    (SELECT count(*) FROM kinds)
FROM kinds ORDER BY n DESC, prediction, their_prediction, their_status LIMIT $most
"""


def differences(mine: str, theirs: str) -> str:
    """Count, mean, mean of the sizes, largest size and quantiles of `theirs - mine`, where both are finite."""
    return f"""
SELECT count(*), avg(d), avg(abs(d)), max(abs(d)), quantile_cont(d, {_QUANTILE_LIST}) FROM (
    SELECT {theirs} - {mine} AS d FROM pairs
    WHERE paired AND their_status = 'ok' AND isfinite({mine}) AND isfinite({theirs})
) WHERE isfinite(d)
"""


def distribution(column: str) -> str:
    """The same numbers of one column, over the pairs that both versions answered."""
    return f"""
SELECT count(*), avg(d), avg(abs(d)), max(abs(d)), quantile_cont(d, {_QUANTILE_LIST}) FROM (
    SELECT {column} AS d FROM pairs WHERE paired AND their_status = 'ok'
) WHERE isfinite(d)
"""


def categories(column: str) -> str:
    """Pairs by the values of a text column: kind, value, pairs, agreed; `$most` values, and the rest as one row."""
    return f"""
WITH counts AS (
    SELECT CAST({column} AS VARCHAR) AS value, count(*) AS n, count(*) FILTER (agreed) AS agreed
    FROM pairs WHERE paired GROUP BY ALL
),
ranked AS (
    SELECT *, CASE WHEN value IS NULL THEN 'null' WHEN row_number() OVER (
        PARTITION BY value IS NULL ORDER BY n DESC, value
    ) > $most THEN 'other' ELSE 'value' END AS kind
    FROM counts
),
shown AS (SELECT kind, CASE kind WHEN 'value' THEN value END AS value, n, agreed FROM ranked)
SELECT kind, left(value, {TEXT_CHARS}), CAST(sum(n) AS BIGINT) AS pairs, CAST(sum(agreed) AS BIGINT)
FROM shown GROUP BY kind, value ORDER BY kind DESC, pairs DESC, value
"""


def quartiles(column: str) -> str:
    """Pairs by the quarters of a number column: kind, least and greatest value, pairs, agreed.

    The cuts are the quartiles over all of the champion's answers. A number that takes few values has fewer slices.
    """
    return f"""
WITH cuts AS (
    SELECT quantile_disc({column}, [0.25, 0.5, 0.75]) AS cut FROM pairs WHERE status = 'ok' AND isfinite({column})
),
placed AS (
    SELECT {column} AS value, agreed,
        CASE WHEN {column} IS NULL THEN 'null' WHEN NOT isfinite({column}) THEN 'not finite' ELSE 'range' END AS kind,
        CASE WHEN isfinite({column}) THEN
            ({column} > cut[1])::INTEGER + ({column} > cut[2])::INTEGER + ({column} > cut[3])::INTEGER
        END AS quarter
    FROM pairs, cuts WHERE paired
)
SELECT kind, min(value) FILTER (kind = 'range'), max(value) FILTER (kind = 'range'), count(*),
    count(*) FILTER (agreed)
FROM placed GROUP BY kind, quarter ORDER BY kind DESC, quarter
"""
