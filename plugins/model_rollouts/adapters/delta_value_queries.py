# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""Queries about business values, in DuckDB's SQL. See `ValueSums` in `core/unit_evidence.py`."""

from model_rollouts.adapters.delta_cluster_queries import CARRIED, LookQuery, parts_of, whole
from model_rollouts.adapters.delta_queries import LOOKS, answers, placed
from model_rollouts.adapters.delta_unit_queries import GOT, OF_ROLLOUT, UNIT

_PARTS = 10**6  # values are made whole in millionths: they may be large

# What the champion's answers of an earlier time were worth, those that callers got.
PRIOR_VALUES = f"""
{
    answers(
        "arm = 'champion' AND served AND epoch_us(ts) < $prior_high",
        ["unit"],
        f"{UNIT} AS unit",
        until="$prior_high - 1",
        within="request_id",
        name="before",
        since="$prior_low - $repeat",
    )
},
prior_values AS (SELECT unit, first_value FROM before WHERE us >= $prior_low)
"""

WORTH = f"""
{PRIOR_VALUES},
worth AS MATERIALIZED (
    SELECT unit, sum({whole("first_value", _PARTS)}) // count(*) AS x
    FROM prior_values WHERE first_value IS NOT NULL GROUP BY unit
)
"""

_SCORES = f"""
valued AS MATERIALIZED (
    SELECT look, arm, earned.unit, n, y, coalesce(x, (SELECT sum(x) // count(*) FROM worth), 0) AS x,
        CASE WHEN arm = 'challenger' THEN 1 ELSE 0 END AS treated
    FROM earned LEFT JOIN worth ON worth.unit = earned.unit WHERE n > 0
),
averages AS (
    SELECT look, CAST(sum(y) AS DOUBLE) / sum(n) AS mean_y, CAST(sum(n * x) AS DOUBLE) / sum(n) AS mean_x,
        CAST(sum(n * treated) AS DOUBLE) / sum(n) AS share
    FROM valued GROUP BY look
),
scores AS MATERIALIZED (
    SELECT unit, arm, look,
        {whole("(CAST(y AS DOUBLE) - n * mean_y) * (treated - share)", 1)} AS score_y,
        {whole("(CAST(n * x AS DOUBLE) - n * mean_x) * (treated - share)", 1)} AS score_x
    FROM valued JOIN averages USING (look)
)"""


# From `judged`: a row for each answer that is due, with `got` and `first_value`. An answer that nobody got, such as the
# champion's to a control request at a share of 100, has no value of its own: what came of the request came of the other
# version's answer.
VALUE_TALLIES = f"""
earned AS MATERIALIZED (
    SELECT look, arm, unit, count(*) AS due, count(first_value) AS n, sum({whole("first_value", _PARTS)}) AS y
    FROM judged WHERE got = 1 GROUP BY look, arm, unit
)"""


# Whether a request counts is up to its first row alone.
def _earned(few: bool) -> str:
    rows = answers(
        OF_ROLLOUT,
        ["stage", "arm", "unit", "got"],
        f"stage, arm, {UNIT} AS unit, {GOT} AS got",
        ", served",
        few=few,
    )
    return f"""
{rows},
{LOOKS},
judged AS ({placed("answers", "arm, unit, got, first_value")}),
{VALUE_TALLIES}"""


VALUE_SUMS = LookQuery(
    kept="earned",
    tallies=VALUE_TALLIES,
    head=_earned(few=False),
    head_of_few=_earned(few=True),
    beside=WORTH,
    carry=f"""
{_SCORES}
SELECT arm, unit, CAST(sum(score_y) AS DECIMAL(38, 0)) AS score_y, CAST(sum(score_x) AS DECIMAL(38, 0)) AS score_x
FROM scores WHERE look >= $first AND look < $end GROUP BY arm, unit
""",
    carried=(("arm", "VARCHAR"), ("unit", "VARCHAR"), ("score_y", "DECIMAL(38, 0)"), ("score_x", "DECIMAL(38, 0)")),
    keys=("arm", "unit"),
    rest=f"""
{_SCORES},
known AS MATERIALIZED (
    SELECT arm, unit, CAST(score_y AS HUGEINT) AS score_y, CAST(score_x AS HUGEINT) AS score_x FROM {CARRIED} AS before
    WHERE EXISTS (SELECT 1 FROM scores WHERE scores.unit = before.unit)
),
-- A unit's score goes over both arms.
history AS (
    SELECT unit, look, sum(score_y) AS score_y, sum(score_x) AS score_x FROM (
        SELECT unit, look, score_y, score_x FROM scores
        UNION ALL
        SELECT unit, -1 AS look, score_y, score_x FROM known
    ) AS both_arms GROUP BY unit, look
),
growth AS (
    SELECT *, coalesce(sum(score_y) OVER earlier, 0) AS earlier_y, coalesce(sum(score_x) OVER earlier, 0) AS earlier_x
    FROM history
    WINDOW earlier AS (PARTITION BY unit ORDER BY look ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
crosses AS (
    SELECT look,
        {parts_of("2 * earlier_y * score_y + score_y * score_y", _PARTS**2)} AS yy,
        {parts_of("earlier_x * score_y + earlier_y * score_x + score_x * score_y", _PARTS**2)} AS xy,
        {parts_of("2 * earlier_x * score_x + score_x * score_x", _PARTS**2)} AS xx
    FROM growth WHERE look >= $fresh GROUP BY look
),
firsts AS (
    SELECT unit, arm, min(look) AS look FROM scores
    WHERE NOT EXISTS (SELECT 1 FROM known WHERE known.unit = scores.unit AND known.arm = scores.arm)
    GROUP BY unit, arm
),
fresh_units AS (SELECT arm, look, count(*) AS units FROM firsts GROUP BY arm, look),
per_arm AS (
    SELECT look, arm, CAST(sum(due) AS BIGINT) AS due, CAST(sum(n) AS BIGINT) AS n, {parts_of("y", _PARTS)} AS y
    FROM earned GROUP BY look, arm
),
worths AS (SELECT look, arm, {parts_of("n * x", _PARTS)} AS x FROM valued GROUP BY look, arm)
SELECT look, arm, due, n, coalesce(y, 0) AS y, coalesce(x, 0) AS x, coalesce(units, 0) AS units,
    coalesce(yy, 0) AS yy, coalesce(xy, 0) AS xy, coalesce(xx, 0) AS xx
FROM per_arm LEFT JOIN worths USING (look, arm) LEFT JOIN fresh_units USING (look, arm) LEFT JOIN crosses USING (look)
WHERE look >= $fresh
""",
)
