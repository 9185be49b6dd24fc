# ruff: noqa: S608 - the texts are put together from constants of this module; every value is a parameter
"""The log's queries, in DuckDB's SQL, and the parameters that they share.

`{predictions}` and `{outcomes}` stand for the tables. The texts keep to what `sql_dialects.py` can say in the other
engines' words too.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from model_rollouts.ports import Window

REPEAT_SECONDS = 900
REPEAT = timedelta(seconds=REPEAT_SECONDS)
OUTCOME_SLACK = timedelta(days=1)  # a label's clock may be behind; one older than this is of another request
FAR = datetime(2199, 12, 31, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def first_rows(condition: str, within: str = "stage, request_id, arm") -> str:
    """Common table `counted`: rows of `condition` from `$low` to `$high`, repeats `within` the same left out.

    A request that comes back in another stage counts there too, so that each stage can be counted by itself. Rows of
    ids that were logged once are no repeats: only the others are put in order, which takes time and memory.
    """
    seen = f"""(
        SELECT request_id, arm, stage, unit_id, status, latency_ms, prediction, epoch_us(ts) AS us
        FROM {{predictions}}
        WHERE {condition} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
    ) AS seen"""
    return f"""
repeated AS (
    SELECT coalesce(request_id, '') AS request_id FROM {{predictions}}
    WHERE {condition} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
    GROUP BY {within} HAVING count(*) > 1
),
counted AS (
    SELECT seen.*, CAST(NULL AS BIGINT) AS earlier_us FROM {seen}
    WHERE NOT EXISTS (SELECT 1 FROM repeated WHERE repeated.request_id = coalesce(seen.request_id, ''))
    UNION ALL
    SELECT * FROM (
        -- Of rows with one time the failed and the slow come first: a tie never hides harm.
        SELECT seen.*, lag(us) OVER (
            PARTITION BY {within}
            ORDER BY us, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
        ) AS earlier_us
        FROM {seen}
        WHERE coalesce(request_id, '') IN (SELECT request_id FROM repeated)
    ) AS in_order
    WHERE earlier_us IS NULL OR us - earlier_us >= $repeat
)
"""


EVIDENCE = f"""
{first_rows("rollout_id = $rollout AND stage = $stage AND arm = cohort")},
windows AS (SELECT unnest($indices) AS window_at, unnest($lows) AS low, unnest($highs) AS high),
placed AS (
    SELECT window_at, arm, request_id, us, status, latency_ms, prediction
    FROM counted JOIN windows ON us >= low AND us < high
)
"""

# An answer whose latency is no number, or beyond the last bin, counts as an error: no bin tells the truth about it.
BIN = """
    CASE WHEN status IS DISTINCT FROM 'ok' OR latency_ms IS NULL OR NOT isfinite(latency_ms) THEN NULL
        WHEN NOT latency_ms > $floor THEN 0
        WHEN latency_ms < 1e300 THEN CAST(floor(ln(latency_ms / $floor) / ln($ratio)) AS INTEGER)
    END
"""

REQUESTS = f"""
WITH {EVIDENCE},
binned AS (SELECT window_at, arm, {BIN} AS bin FROM placed)
SELECT window_at, arm, bin, count(*) AS n
FROM (SELECT window_at, arm, CASE WHEN bin < $bins THEN bin END AS bin FROM binned) AS usable
GROUP BY window_at, arm, bin
"""


def first_of(column: str, us: str, condition: str) -> str:
    """Aggregate: the column in the first row by time that fulfils a condition; of several of one time the least."""
    return f"arg_min({column}, struct_pack(us := {us}, least := {column})) FILTER ({condition})"


def joined(
    rows: str, columns: str, until: str = "{rows}.us + $maturity", outcomes: str = "{outcomes}", timed: bool = False
) -> str:
    """Rows with `first_label` and `first_value`: of the outcomes of the row's request, the first ones by time.

    Args:
        rows: Name of the common table.
        columns: Those of its columns that are wanted, separated by commas; `request_id` and `us` are there anyway. No
            two rows may be alike in all of them.
        until: An outcome counts up to this time, included.
        outcomes: What to read the outcomes from.
        timed: Whether `first_label_us` is wanted as well, when the first label came.
    """
    kept = ", ".join(f"{rows}.{column}" for column in (*columns.split(", "), "request_id", "us"))
    when = "min(known.us) FILTER (known.label IS NOT NULL) AS first_label_us," if timed else ""
    return f"""
    SELECT {kept}, {when}
        {first_of("known.label", "known.us", "known.label IS NOT NULL")} AS first_label,
        {first_of("known.value", "known.us", "isfinite(known.value)")} AS first_value
    FROM {rows} LEFT JOIN (SELECT request_id, epoch_us(ts) AS us, label, value FROM {outcomes}) AS known
        ON known.request_id = {rows}.request_id
        AND known.us >= {rows}.us - $slack AND known.us <= {until.format(rows=rows)}
    GROUP BY {kept}
"""


LABEL_COUNTS = f"""
WITH {EVIDENCE},
due AS (SELECT window_at, arm, request_id, us, prediction FROM placed WHERE status = 'ok'),
judged AS ({joined("due", "window_at, arm, prediction")})
SELECT window_at, arm, count(*) AS due, count(first_label) AS labelled,
    count(*) FILTER (first_label IS NOT NULL AND first_label IS DISTINCT FROM prediction) AS wrong
FROM judged GROUP BY window_at, arm
"""

LABELS = f"""
    SELECT request_id, {first_of("label", "epoch_us(ts)", "label IS NOT NULL")} AS label,
        {first_of("value", "epoch_us(ts)", "value IS NOT NULL")} AS value
    FROM {{outcomes}}
    WHERE epoch_us(ts) >= $outcomes_from
    GROUP BY request_id
"""

SAMPLE = f"""
WITH chosen AS (
    SELECT * FROM {{predictions}}
    WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND (%s)
    ORDER BY md5($seed || coalesce(request_id, '')), ts, arm, prediction, latency_ms LIMIT $limit
),
labels AS ({LABELS})
SELECT chosen.*, labels.label, labels.value
FROM chosen LEFT JOIN labels ON labels.request_id = chosen.request_id
ORDER BY chosen.ts, chosen.request_id, chosen.arm, chosen.prediction, chosen.latency_ms
"""

SCORE_MEANS = f"""
SELECT arm, count(*), avg(score) FROM (
    SELECT request_id, arm, {first_of("score", "epoch_us(ts)", "isfinite(score)")} AS score
    FROM {{predictions}}
    WHERE rollout_id = $rollout AND arm = cohort AND status = 'ok' AND isfinite(score)
        AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
    GROUP BY request_id, arm
) AS firsts GROUP BY arm
"""

ROW_COUNT = "SELECT count(*) FROM {predictions} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND (%s)"

OUTCOME_SAMPLE = """
SELECT * FROM (
    SELECT * FROM {outcomes} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high
    ORDER BY md5($seed || coalesce(request_id, '')), ts, label, value LIMIT $limit
) AS chosen ORDER BY ts, request_id, label, value
"""

OUTCOME_COUNT = "SELECT count(*) FROM {outcomes} WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high"

STAGE_ROWS = "rollout_id = $rollout AND stage = $stage"
ARM_ROWS = f"{STAGE_ROWS} AND arm = $arm AND cohort = $arm"
CHAMPION_ROWS = "arm = 'champion' AND version = $version AND coalesce(cohort, 'champion') = 'champion'"


def window_parameters(rollout_id: str, windows: Sequence[Window]) -> dict[str, Any]:
    """Parameters of the evidence of a rollout in windows; there must be at least one."""
    low, high = span(windows)
    return {
        "rollout": rollout_id,
        "low": microseconds(low),
        "high": microseconds(high),
        "repeat": REPEAT_SECONDS * 1_000_000,
        "indices": list(range(len(windows))),
        "lows": [microseconds(window.start) for window in windows],
        "highs": [microseconds(window.end) for window in windows],
    }


def span(windows: Sequence[Window]) -> tuple[datetime, datetime]:
    """The time to read for windows: earlier rows tell which of the windows' rows are repeats."""
    return min(window.start for window in windows) - REPEAT, max(window.end for window in windows)


def outcome_parameters(maturity: timedelta) -> dict[str, int]:
    """Parameters of `joined`.

    Raises:
        ValueError: The maturity is negative.
    """
    if maturity < timedelta(0):
        raise ValueError(f"maturity is {maturity}, must be at least 0")
    return {"slack": OUTCOME_SLACK // _MICROSECOND, "maturity": maturity // _MICROSECOND}


def outcome_span(start: datetime, end: datetime, maturity: timedelta) -> tuple[datetime, datetime]:
    """When outcomes of requests in [start, end) may have become known."""
    return start - OUTCOME_SLACK, FAR if maturity > FAR - end else end + maturity


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, without the rounding of a float."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
