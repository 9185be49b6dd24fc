# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""Queries about units and pairs of answers, in DuckDB's SQL. See `core/unit_evidence.py`."""

from model_rollouts.adapters.delta_cluster_queries import Metric, cluster_query
from model_rollouts.adapters.delta_queries import (
    BIN,
    EVIDENCE,
    LOOKS,
    USABLE_OUTCOMES,
    answers,
    first_of,
    first_rows,
    joined,
    placed,
    rows_asked,
)

# A request without a unit is a unit of its own; a unit named like a request stays apart from it.
UNIT = "coalesce('u' || unit_id, 'r' || request_id, '')"
# Rows of one HTTP call: the gateway gives row i the call's id with `:i` at its end.
_CALL = "coalesce(regexp_replace(request_id, ':[0-9]+$', ''), '')"
CALL_OF_ROW = "CASE WHEN request_id LIKE '%:%' THEN regexp_replace(request_id, ':[0-9]+$', '') END"
GOT = "CASE WHEN served AND status = 'ok' THEN 1 ELSE 0 END"
ANSWERED = "CASE WHEN status = 'ok' THEN 1 ELSE 0 END"
FAILED = f"coalesce({BIN} >= $bins, true)"
OF_ROLLOUT = "rollout_id = $rollout AND arm = cohort AND arm IN ('champion', 'challenger')"


def valued(rows: str, columns: str, until: str = "{rows}.us + $maturity", timed: bool = False) -> str:
    """`joined` where a value that is too large is missing, as one that is no finite number is."""
    return joined(rows, columns, until, USABLE_OUTCOMES, timed)


_RATES = (
    Metric("error_rate", "asked", "errors"),
    *(Metric(f"latency_p{q}", "answered", f"slow_{at}") for at, q in enumerate((50, 95, 99), start=1)),
)
_QUANTILES = "0.50, 0.95, 0.99"
# Of fewer than 100 answers the 99 % quantile is the largest, which nothing is slower than: hence "at least as slow".
_SLOW = [f"NOT failed AND latency_ms >= cuts[{at}]" for at in range(1, len(_RATES))]
_TALLIED = f"""count(*) AS asked, count(*) FILTER (failed) AS errors, count(*) FILTER (NOT failed) AS answered,
        {", ".join(f"count(*) FILTER ({slow}) AS slow_{at}" for at, slow in enumerate(_SLOW, start=1))}"""
_TALLIES = "asked, errors, answered, slow_1, slow_2, slow_3"

# From `judged`: a row for each request, with `us`, `latency_ms`, `failed` and `call`. Everything is added up by unit
# and by call; the metrics by call are those with a prefix. Most calls have one row, and calls that are alike stand for
# each other.
UNIT_TALLIES = f"""
limits AS (
    SELECT look, arm, quantile_disc(latency_ms, [{_QUANTILES}]) AS cuts
    FROM judged WHERE NOT failed GROUP BY look, arm
),
by_unit AS (
    SELECT arm, look, unit, min(us) AS since, {_TALLIED}
    FROM judged LEFT JOIN limits USING (look, arm) GROUP BY arm, look, unit
),
-- A call is of one moment: it has no pairs across looks, and earlier looks are not needed.
by_call AS (
    SELECT arm, look, {_TALLIED}
    FROM judged LEFT JOIN limits USING (look, arm) WHERE look >= $fresh AND call IS NOT NULL GROUP BY arm, look, call
    UNION ALL
    SELECT arm, look, 1 AS asked, CASE WHEN failed THEN 1 ELSE 0 END AS errors, CASE WHEN failed THEN 0 ELSE 1 END
        AS answered, {", ".join(f"CASE WHEN {slow} THEN 1 ELSE 0 END AS slow_{at}" for at, slow in enumerate(_SLOW, 1))}
    FROM judged LEFT JOIN limits USING (look, arm) WHERE look >= $fresh AND call IS NULL
),
tallies AS MATERIALIZED (
    SELECT '' AS prefix, arm, look, unit, 1 AS units, since, {_TALLIES} FROM by_unit
    UNION ALL
    SELECT 'call_' AS prefix, arm, look, NULL AS unit, count(*) AS units, 0 AS since, {_TALLIES}
    FROM by_call GROUP BY arm, look, {_TALLIES}
)"""

UNIT_COUNTS = cluster_query(
    f"""
{first_rows(OF_ROLLOUT)},
{LOOKS},
in_look AS ({placed("counted", f"arm, request_id, {UNIT} AS unit, us, status, latency_ms")}),
judged AS MATERIALIZED (
    SELECT look, arm, unit, us, latency_ms, {FAILED} AS failed, {CALL_OF_ROW} AS call FROM in_look
)""",
    UNIT_TALLIES,
    _RATES,
    new_units=True,
    asked=rows_asked(OF_ROLLOUT),
)


# From `judged`: a row for each request, with `answered` and, if its label is known, whether it was `wrong`.
LABEL_TALLIES = """
tallies AS MATERIALIZED (
    SELECT '' AS prefix, arm, look, unit, 1 AS units, 0 AS since, count(*) AS due, count(wrong) AS n,
        count(CASE WHEN wrong = 1 THEN 1 END) AS y
    FROM judged WHERE answered = 1 GROUP BY arm, look, unit
)"""
WRONG = """
    CASE WHEN first_label IS NULL THEN NULL WHEN first_label IS DISTINCT FROM prediction THEN 1 ELSE 0 END
"""


def _labelled(few: bool) -> str:
    rows = answers(
        OF_ROLLOUT,
        ["stage", "arm", "unit", "prediction", "answered"],
        f"stage, arm, {UNIT} AS unit, prediction, {ANSWERED} AS answered",
        few=few,
    )
    return f"""
{rows},
{LOOKS},
judged AS ({placed("answers", f"arm, unit, answered, {WRONG} AS wrong")})"""


LABEL_EVIDENCE = cluster_query(
    _labelled(few=False),
    LABEL_TALLIES,
    [Metric("label", "n", "y")],
    new_units=False,
    totals=("due", "y"),
    rows_of_few=_labelled(few=True),
    asked=rows_asked(OF_ROLLOUT),
)

SAME_TEXT = "theirs.prediction = asked.prediction"
# NaN is greater than any number, so that it disagrees. The difference of what is larger than this may be no number.
_LARGEST_DIFFERENCE = "8e307"
_THEIRS, _ASKED = (f"TRY_CAST({side}.prediction AS DOUBLE)" for side in ("theirs", "asked"))
SAME_NUMBER = f"""
    CASE WHEN abs({_THEIRS}) < {_LARGEST_DIFFERENCE} AND abs({_ASKED}) < {_LARGEST_DIFFERENCE}
        THEN abs({_THEIRS} - {_ASKED}) <= $tolerance
        ELSE {_THEIRS} = {_ASKED} AND isfinite({_ASKED})
    END
"""

# `%s` is when two answers are the same. Of several answers of one time one that disagrees comes first.
PAIR_COUNTS = f"""
WITH {EVIDENCE},
asked AS (
    SELECT look, request_id, us, prediction FROM placed WHERE arm = 'champion' AND status = 'ok'
),
theirs AS (
    SELECT request_id, epoch_us(ts) AS us, status, prediction FROM {{predictions}}
    WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger'
),
answered AS (
    SELECT look, asked.request_id, asked.us, theirs.us AS their_us,
        coalesce(theirs.status = 'ok' AND (%s), false) AS agreed
    FROM asked LEFT JOIN theirs
        ON theirs.request_id = asked.request_id AND abs(theirs.us - asked.us) < $repeat
),
pairs AS (
    SELECT look, request_id, us, {first_of("agreed", "their_us", "their_us IS NOT NULL")} AS agreed
    FROM answered GROUP BY look, request_id, us
)
SELECT look, count(*) AS asked, count(agreed) AS paired, count(*) FILTER (agreed) AS agreed
FROM pairs GROUP BY look
"""

# The same pairs by unit: the outcome is that they do not agree.
PAIR_CLUSTERS = cluster_query(
    f"""
{first_rows(OF_ROLLOUT)},
{LOOKS},
in_look AS ({placed("counted", f"counted.stage, arm, request_id, {UNIT} AS unit, us, status, prediction")}),
asked AS (SELECT * FROM in_look WHERE arm = 'champion' AND status = 'ok'),
theirs AS (
    SELECT request_id, stage, epoch_us(ts) AS us, status, prediction FROM {{predictions}}
    WHERE rollout_id = $rollout AND arm = 'challenger'
),
answered AS (
    SELECT look, unit, asked.request_id, asked.us, theirs.us AS their_us,
        coalesce(theirs.status = 'ok' AND (%s), false) AS agreed
    FROM asked JOIN theirs
        ON theirs.request_id = asked.request_id AND theirs.stage = asked.stage AND abs(theirs.us - asked.us) < $repeat
),
pairs AS (
    SELECT look, unit, request_id, us, {first_of("agreed", "their_us", "their_us IS NOT NULL")} AS agreed
    FROM answered GROUP BY look, unit, request_id, us
)""",
    """
tallies AS MATERIALIZED (
    SELECT '' AS prefix, 'challenger' AS arm, look, unit, 1 AS units, 0 AS since, count(*) AS n,
        count(CASE WHEN NOT agreed THEN 1 END) AS y
    FROM pairs GROUP BY look, unit
)""",
    [Metric("pair", "n", "y")],
    new_units=False,
)

# A call that the champion failed has no answer that anybody got, and counts all the same.
_CHAMPIONS = (
    "arm = 'champion' AND version = $version AND (served OR status IS DISTINCT FROM 'ok') "
    "AND coalesce(cohort, 'champion') = 'champion'"
)

# In or out of rollouts, so a request that comes back in another stage is no second one here.
BASELINE = f"""
WITH {first_rows(_CHAMPIONS, within="request_id")},
inside AS MATERIALIZED (
    SELECT request_id, us, status, prediction, {UNIT} AS unit, {FAILED} AS failed
    FROM counted WHERE us >= $start
),
due AS (SELECT request_id, us, prediction FROM inside WHERE status = 'ok' AND us + $maturity <= $high),
judged AS ({valued("due", "prediction")}),
requests AS (
    SELECT count(*) AS requests, count(*) FILTER (failed) AS errors, count(DISTINCT unit) AS units, min(us) AS since
    FROM inside
),
answers AS (
    SELECT count(*) AS due, count(first_label) AS labelled,
        count(*) FILTER (first_label IS NOT NULL AND first_label IS DISTINCT FROM prediction) AS wrong,
        count(first_value) AS valued, avg(first_value) AS mean, stddev_samp(first_value) AS deviation
    FROM judged
)
SELECT * FROM requests CROSS JOIN answers
"""
