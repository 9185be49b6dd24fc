# ruff: noqa: S608 - the texts are put together from constants of this module; every value is a parameter
"""The log's queries, in DuckDB's SQL, and the parameters that they share.

`{predictions}` and `{outcomes}` stand for the tables' current files.
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

    A request that comes back in another stage counts there too, so that each stage can be counted by itself.
    """
    return f"""
seen AS (
    SELECT request_id, arm, stage, unit_id, status, latency_ms, prediction, epoch_us(ts) AS us
    FROM {{predictions}}
    WHERE {condition} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
),
counted AS (
    SELECT * FROM seen
    -- Of rows with one time the failed and the slow come first: a tie never hides harm.
    QUALIFY coalesce(us - lag(us) OVER (
        PARTITION BY {within}
        ORDER BY us, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
    ) >= $repeat, true)
)
"""


EVIDENCE = f"""
{first_rows("rollout_id = $rollout AND stage = $stage AND arm = cohort")},
windows AS (SELECT unnest($indices) AS window_at, unnest($lows) AS low, unnest($highs) AS high),
placed AS (SELECT counted.*, window_at FROM counted JOIN windows ON us >= low AND us < high)
"""

# An answer whose latency is no number, or beyond the last bin, counts as an error: no bin tells the truth about it.
BIN = """
    CASE WHEN status IS DISTINCT FROM 'ok' OR latency_ms IS NULL OR NOT isfinite(latency_ms) THEN NULL
        WHEN NOT latency_ms > $floor THEN 0
        WHEN isfinite(latency_ms / $floor) THEN CAST(floor(ln(latency_ms / $floor) / ln($ratio)) AS INTEGER)
    END
"""

REQUESTS = f"""
WITH {EVIDENCE},
binned AS (SELECT window_at, arm, {BIN} AS bin FROM placed)
SELECT window_at, arm, CASE WHEN bin < $bins THEN bin END AS bin, count(*) AS n FROM binned GROUP BY ALL
"""


def joined(rows: str, until: str = "{rows}.us + $maturity") -> str:
    """Rows with `first_label` and `first_value`: of the outcomes of the row's request, the first ones by time.

    An outcome counts up to `until`, that time included. The rows need `request_id` and `us`, and must differ.
    """
    return f"""
    SELECT {rows}.*,
        min(struct_pack(us := known.us, text := known.label)) FILTER (known.label IS NOT NULL) AS first_label,
        min(struct_pack(us := known.us, number := known.value)) FILTER (isfinite(known.value)) AS first_value
    FROM {rows} LEFT JOIN (SELECT request_id, epoch_us(ts) AS us, label, value FROM {{outcomes}}) AS known
        ON known.request_id = {rows}.request_id
        AND known.us >= {rows}.us - $slack AND known.us <= {until.format(rows=rows)}
    GROUP BY ALL
"""


LABEL_COUNTS = f"""
WITH {EVIDENCE},
due AS (SELECT window_at, arm, request_id, us, prediction FROM placed WHERE status = 'ok'),
judged AS ({joined("due")})
SELECT window_at, arm, count(*), count(first_label),
    count(*) FILTER (first_label IS NOT NULL AND first_label.text IS DISTINCT FROM prediction)
FROM judged GROUP BY ALL
"""

_LABELS = """
    SELECT request_id, min(struct_pack(us := epoch_us(ts), text := label)) FILTER (label IS NOT NULL) AS first_label,
        min(struct_pack(us := epoch_us(ts), number := value)) FILTER (value IS NOT NULL) AS first_value
    FROM {outcomes}
    WHERE epoch_us(ts) >= $outcomes_from
    GROUP BY request_id
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
