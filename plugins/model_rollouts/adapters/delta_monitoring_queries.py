# ruff: noqa: S608 - the texts are put together from constants of these modules and from quoted column names
"""What the log tells of a version that serves, in DuckDB's SQL. See `core/monitoring.py`."""

from collections.abc import Sequence

from model_rollouts.adapters.delta_queries import BIN, CHAMPION_ROWS
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.delta_unit_queries import _CALL, UNIT, valued

_DAY_US = 86_400_000_000
_MOST_NUMBERS = 9


def monitored(columns: Sequence[tuple[str, str]]) -> str:
    """The query of one version's answers as champion, in or out of rollouts.

    Failed requests count whether or not a caller got an answer; values only come of answers that callers got. A request
    that is logged again within the time that `$repeat` gives counts once, as its first row.

    Args:
        columns: Name and DuckDB type of the table's columns.

    Returns:
        A query for rows (part, key, numbers): the parts are those that `_counts` in `delta_monitoring.py` reads.
    """
    features = [(name, kind) for name, kind in columns if name.startswith(FEATURE_PREFIX)]
    there = " OR ".join(_filled(name, kind) for name, kind in features) or "false"
    return f"""
WITH seen AS (
    SELECT request_id, unit_id, status, latency_ms, prediction, coalesce(served, false) AS served,
        coalesce({there}, false) AS featured, epoch_us(ts) AS us
    FROM {{predictions}}
    WHERE {CHAMPION_ROWS} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
),
counted AS (
    SELECT * FROM (
        -- Of rows with one time the failed and the slow come first: a tie never hides harm.
        SELECT *, lag(us) OVER (
            PARTITION BY request_id ORDER BY us, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
        ) AS earlier_us
        FROM seen
    ) AS in_order
    WHERE earlier_us IS NULL OR us - earlier_us >= $repeat
),
binned AS (SELECT *, {BIN} AS bin, {UNIT} AS unit, {_CALL} AS call FROM counted WHERE us >= $start),
inside AS MATERIALIZED (
    SELECT *, coalesce(bin >= $bins, true) AS failed, coalesce(bin < $bins AND latency_ms > 0, false) AS timed
    FROM binned
),
due AS (
    SELECT request_id, unit, us, prediction, served FROM inside WHERE status = 'ok' AND us + $maturity <= $high
),
known AS MATERIALIZED ({valued("due", "unit, prediction, served", timed=True)}),
labelled AS MATERIALIZED (
    SELECT unit, first_label IS DISTINCT FROM prediction AS hit, greatest(first_label_us - us, 0) / 1e6 AS delay
    FROM known WHERE first_label IS NOT NULL
),
quantile AS (SELECT quantile_disc(latency_ms, 0.95) AS p95 FROM inside WHERE timed),
slow AS MATERIALIZED (
    SELECT unit, call, latency_ms >= p95 AS hit FROM inside CROSS JOIN quantile WHERE timed
)
{_row("bins", "bin", "count(*)", start="")} FROM inside WHERE timed GROUP BY bin
{
        _row(
            "requests",
            "0",
            "count(*)",
            "count(*) FILTER (failed)",
            "count(*) FILTER (status IN ('ok', 'error', 'timeout'))",
            "count(*) FILTER (status = 'ok')",
            "count(*) FILTER (timed)",
            "count(*) FILTER (featured)",
            "count(DISTINCT unit)",
            "coalesce((max(us) - min(us)) / 1e6, 0)",
            f"count(DISTINCT us // {_DAY_US})",
        )
    } FROM inside
{
        _row(
            "labels",
            "0",
            "count(*)",
            "count(*) FILTER (hit)",
            "quantile_disc(delay, 0.5)",
            "quantile_disc(delay, 0.95)",
        )
    } FROM labelled
{
        _row(
            "values",
            "0",
            "count(*)",
            "count(*) FILTER (served)",
            "count(first_value) FILTER (served)",
            "avg(first_value) FILTER (served)",
        )
    } FROM known
{_grouped("error_unit", "SELECT unit, 1 AS n, CAST(failed AS INTEGER) AS y FROM inside", "unit")}
{_grouped("error_call", "SELECT call, 1 AS n, CAST(failed AS INTEGER) AS y FROM inside", "call")}
{_grouped("slow_unit", "SELECT unit, 1 AS n, CAST(hit AS INTEGER) AS y FROM slow", "unit")}
{_grouped("slow_call", "SELECT call, 1 AS n, CAST(hit AS INTEGER) AS y FROM slow", "call")}
{_grouped("wrong_unit", "SELECT unit, 1 AS n, CAST(hit AS INTEGER) AS y FROM labelled", "unit")}
{
        _grouped(
            "value_unit",
            "SELECT unit, 1 AS n, first_value AS y FROM known WHERE served AND first_value IS NOT NULL",
            "unit",
        )
    }
"""


def feature_count(columns: Sequence[tuple[str, str]]) -> int:
    """How many of the table's columns are features."""
    return sum(name.startswith(FEATURE_PREFIX) for name, _ in columns)


def _filled(name: str, kind: str) -> str:
    """Whether a feature has a value. Braces are doubled, as the query is formatted once more."""
    column = '"' + name.replace('"', '""').replace("{", "{{").replace("}", "}}") + '"'
    return f"isfinite({column})" if kind == "DOUBLE" else f"{column} IS NOT NULL"


def _row(what: str, key: str, *numbers: str, start: str = "UNION ALL ") -> str:
    """The beginning of one part of the result: its name, a key, and as many numbers as the longest part has."""
    filled = [f"CAST({number} AS DOUBLE)" for number in (*numbers, *["NULL"] * (_MOST_NUMBERS - len(numbers)))]
    return f"{start}SELECT '{what}' AS part, CAST({key} AS INTEGER) AS at, {', '.join(filled)}"


def _grouped(what: str, rows: str, group: str) -> str:
    """The sums of `core/intervals.Grouped` over groups of rows (group, n, y)."""
    sums = _row(what, "0", "sum(n)", "sum(y)", "sum(n * n)", "sum(n * y)", "sum(y * y)", "count(*)")
    totals = "CAST(sum(n) AS DOUBLE) AS n, CAST(sum(y) AS DOUBLE) AS y"
    return f"{sums} FROM (SELECT {group}, {totals} FROM ({rows}) AS each_row GROUP BY {group}) AS groups"
