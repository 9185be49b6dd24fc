# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""Queries about the units of an A/B stage, in DuckDB's SQL. Values and what was known before are as in `VALUE_SUMS`."""

from itertools import combinations_with_replacement

from model_rollouts.adapters.delta_queries import BIN, first_rows
from model_rollouts.adapters.delta_unit_queries import UNIT, valued
from model_rollouts.adapters.delta_value_queries import PRIOR_VALUES

# Columns of a unit that are summed up, in this order.
COLUMNS = (
    "requests",
    "errors",
    "due",
    "valued",
    "value",
    "labelled",
    "correct",
    "prior_valued",
    "prior_value",
)
PAIRS = tuple(combinations_with_replacement(COLUMNS, 2))

# One row for each unit and arm that it was in; `arms` is how many arms the unit was in. Whether an answer has a value
# is up to whether its caller got it (`served`), which is looked up for the row that counts.
UNITS_TABLE = f"""
CREATE TEMP TABLE units AS
WITH {first_rows("rollout_id = $rollout AND stage = $stage AND arm = cohort AND arm IN ('champion', 'challenger')")},
inside AS MATERIALIZED (
    SELECT arm, request_id, {UNIT} AS unit, us, status, prediction, coalesce({BIN} >= $bins, true) AS failed
    FROM counted WHERE us >= $start
),
served AS (
    SELECT DISTINCT request_id, arm, epoch_us(ts) AS us, true AS served FROM {{predictions}}
    WHERE rollout_id = $rollout AND stage = $stage AND arm = cohort AND served AND status = 'ok'
        AND epoch_us(ts) >= $start AND epoch_us(ts) < $high
),
due AS (
    SELECT arm, request_id, unit, us, prediction, coalesce(served, false) AS served
    FROM inside LEFT JOIN served USING (request_id, arm, us)
    WHERE status = 'ok' AND us + $maturity <= $high
),
judged AS ({valued("due", "arm, unit, prediction, served")}),
{PRIOR_VALUES},
worth AS (
    SELECT unit, count(*) AS prior_valued, sum(first_value) AS prior_value
    FROM prior_values WHERE first_value IS NOT NULL GROUP BY unit
),
asked AS (SELECT unit, arm, count(*) AS requests, count(*) FILTER (failed) AS errors FROM inside GROUP BY unit, arm),
known AS (
    SELECT unit, arm, count(*) FILTER (served) AS due, count(first_value) FILTER (served) AS valued,
        sum(first_value) FILTER (served) AS value, count(first_label) AS labelled,
        count(*) FILTER (first_label IS NOT NULL AND first_label IS NOT DISTINCT FROM prediction) AS correct
    FROM judged GROUP BY unit, arm
)
SELECT unit, arm, count(*) OVER (PARTITION BY unit) AS arms,
    {", ".join(f"coalesce({column}, 0)::DOUBLE AS {column}" for column in COLUMNS)}
FROM asked LEFT JOIN known USING (unit, arm) LEFT JOIN worth USING (unit)
"""

EXPOSURE = """
SELECT count(DISTINCT unit), count(DISTINCT unit) FILTER (arms > 1), CAST(coalesce(sum(requests), 0) AS BIGINT),
    CAST(coalesce(sum(requests) FILTER (arms > 1), 0) AS BIGINT),
    CAST(coalesce(sum(errors), 0) AS BIGINT)
FROM units
"""

MOMENTS = f"""
SELECT arm, count(*), count(*) FILTER (prior_valued > 0),
    [{", ".join(f"avg({column})" for column in COLUMNS)}],
    [{", ".join(f"covar_samp({one}, {other})" for one, other in PAIRS)}]
FROM units WHERE arms = 1 AND %s > 0 GROUP BY arm
"""
