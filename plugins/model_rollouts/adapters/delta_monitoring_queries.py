# ruff: noqa: S608 - the texts are put together from constants of these modules and from quoted column names
"""What the log tells of a version that serves, in DuckDB's SQL. See `core/monitoring.py`."""

from collections.abc import Sequence

from model_rollouts.adapters.delta_queries import BIN, CHAMPION_ROWS, joined
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX

_LARGEST_VALUE = 10**9  # as for the evidence: a larger one is missing
# A request without a unit is a unit of its own; a unit named like a request stays apart from it.
_UNIT = "coalesce('u' || unit_id, 'r' || request_id, '')"
# Rows of one HTTP call fail and are slow together: the gateway gives row i the call's id with `:i` at its end.
_CALL = "coalesce(regexp_replace(request_id, ':[0-9]+$', ''), '')"
_DAY_US = 86_400_000_000

COLUMNS = "DESCRIBE SELECT * FROM {predictions}"


def monitored(columns: Sequence[tuple[str, str]]) -> str:
    """The query of one version's answers as champion, in or out of rollouts.

    Failed requests count whether or not a caller got an answer; values only come of answers that callers got. A request
    that is logged again within the time that `$repeat` gives counts once, as its first row.

    Args:
        columns: Name and DuckDB type of the table's columns.
    """
    features = [(name, kind) for name, kind in columns if name.startswith(FEATURE_PREFIX)]
    there = " OR ".join(_filled(name, kind) for name, kind in features) or "false"
    usable = f"CASE WHEN abs(value) <= {_LARGEST_VALUE} THEN value END"
    judged = joined("due").replace("{outcomes}", f"(SELECT request_id, ts, label, {usable} AS value FROM {{outcomes}})")
    return f"""
WITH seen AS (
    SELECT request_id, unit_id, status, latency_ms, prediction, coalesce(served, false) AS served,
        coalesce({there}, false) AS featured, epoch_us(ts) AS us
    FROM {{predictions}}
    WHERE {CHAMPION_ROWS} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
),
counted AS (
    SELECT * FROM seen
    -- Of rows with one time the failed and the slow come first: a tie never hides harm.
    QUALIFY coalesce(us - lag(us) OVER (
        PARTITION BY request_id ORDER BY us, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
    ) >= $repeat, true)
),
binned AS (SELECT *, {BIN} AS bin, {_UNIT} AS unit, {_CALL} AS call FROM counted WHERE us >= $start),
inside AS MATERIALIZED (
    SELECT *, coalesce(bin >= $bins, true) AS failed, coalesce(bin < $bins AND latency_ms > 0, false) AS timed
    FROM binned
),
due AS (
    SELECT request_id, unit, us, prediction, served FROM inside WHERE status = 'ok' AND us + $maturity <= $high
),
known AS MATERIALIZED ({judged}),
labelled AS (
    SELECT unit, first_label.text IS DISTINCT FROM prediction AS hit, greatest(first_label.us - us, 0) / 1e6 AS delay
    FROM known WHERE first_label IS NOT NULL
),
quantile AS (SELECT quantile_disc(latency_ms, 0.95) AS p95 FROM inside WHERE timed),
slow AS (SELECT unit, call, latency_ms >= p95 AS hit FROM inside, quantile WHERE timed),
requests AS (
    SELECT count(*), count(*) FILTER (failed), count(*) FILTER (status IN ('ok', 'error', 'timeout')),
        count(*) FILTER (status = 'ok'), count(*) FILTER (timed), histogram(bin) FILTER (timed),
        count(*) FILTER (featured), count(DISTINCT unit), coalesce((max(us) - min(us)) / 1e6, 0),
        count(DISTINCT us // {_DAY_US})
    FROM inside
),
labels AS (
    SELECT count(*), count(*) FILTER (hit), quantile_disc(delay, 0.5), quantile_disc(delay, 0.95) FROM labelled
),
worth AS (
    SELECT count(*) FILTER (served), count(first_value) FILTER (served), avg(first_value.number) FILTER (served)
    FROM known
),
valued AS (SELECT unit, first_value.number AS y FROM known WHERE served AND first_value IS NOT NULL)
SELECT requests.*, (SELECT count(*) FROM due), labels.*, worth.*,
    {_grouped("SELECT unit, 1 AS n, failed::INT AS y FROM inside", "unit")},
    {_grouped("SELECT call, 1 AS n, failed::INT AS y FROM inside", "call")},
    {_grouped("SELECT unit, 1 AS n, hit::INT AS y FROM slow", "unit")},
    {_grouped("SELECT call, 1 AS n, hit::INT AS y FROM slow", "call")},
    {_grouped("SELECT unit, 1 AS n, hit::INT AS y FROM labelled", "unit")},
    {_grouped("SELECT unit, 1 AS n, y FROM valued", "unit")}
FROM requests, labels, worth
"""


def feature_count(columns: Sequence[tuple[str, str]]) -> int:
    """How many of the table's columns are features."""
    return sum(name.startswith(FEATURE_PREFIX) for name, _ in columns)


def _filled(name: str, kind: str) -> str:
    """Whether a feature has a value. Braces are doubled, as the query is formatted once more."""
    column = '"' + name.replace('"', '""').replace("{", "{{").replace("}", "}}") + '"'
    return f"isfinite({column})" if kind == "DOUBLE" else f"{column} IS NOT NULL"


def _grouped(rows: str, group: str) -> str:
    """The sums of `core/intervals.Grouped` over groups of rows (group, n, y), as one list."""
    return f"""(
        SELECT [sum(n), sum(y), sum(n * n), sum(n * y), sum(y * y), count(*)]::DOUBLE[]
        FROM (SELECT sum(n)::DOUBLE AS n, sum(y)::DOUBLE AS y FROM ({rows}) GROUP BY {group})
    )"""
