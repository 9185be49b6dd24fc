# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""Queries about business values, in DuckDB's SQL. See `ValueSums` in `core/unit_evidence.py`."""

from model_rollouts.adapters.delta_cluster_queries import CARRIED, LookQuery, parts_of, whole
from model_rollouts.adapters.delta_queries import LOOKS, answers, placed, rows_asked
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

# Rows that a value is known of, with what their unit was worth before.
_VALUED = """
valued AS MATERIALIZED (
    SELECT look, arm, {rows}.unit, n, y, coalesce(x, (SELECT sum(x) // count(*) FROM worth), 0) AS x,
        CASE WHEN arm = 'challenger' THEN 1 ELSE 0 END AS treated
    FROM {rows} LEFT JOIN worth ON worth.unit = {rows}.unit WHERE n > 0
)"""
_AVERAGES = f"""
{_VALUED.format(rows="earned").replace("valued", "all_valued", 1)},
averages AS MATERIALIZED (
    SELECT look, CAST(sum(y) AS DOUBLE) / sum(n) AS mean_y, CAST(sum(n * x) AS DOUBLE) / sum(n) AS mean_x,
        CAST(sum(n * treated) AS DOUBLE) / sum(n) AS share
    FROM all_valued GROUP BY look
)"""
_SCORES = f"""
{_VALUED},
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
    asked=rows_asked(OF_ROLLOUT, ", served"),
    beside=WORTH,
    means=_AVERAGES,
    mean="averages",
    carry=f"""
{_AVERAGES},
{_SCORES.format(rows="earned")}
SELECT arm, unit, CAST(sum(score_y) AS DECIMAL(38, 0)) AS score_y, CAST(sum(score_x) AS DECIMAL(38, 0)) AS score_x
FROM scores WHERE look >= $first AND look < $end GROUP BY arm, unit
""",
    carried=(("arm", "VARCHAR"), ("unit", "VARCHAR"), ("score_y", "DECIMAL(38, 0)"), ("score_x", "DECIMAL(38, 0)")),
    keys=("arm", "unit"),
    sums=f"""
{_SCORES.format(rows="chosen")},
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
        sum(2 * earlier_y * score_y + score_y * score_y) AS yy,
        sum(earlier_x * score_y + earlier_y * score_x + score_x * score_y) AS xy,
        sum(2 * earlier_x * score_x + score_x * score_x) AS xx
    FROM growth WHERE look >= $fresh GROUP BY look
),
firsts AS (
    SELECT unit, arm, min(look) AS look FROM scores
    WHERE NOT EXISTS (SELECT 1 FROM known WHERE known.unit = scores.unit AND known.arm = scores.arm)
    GROUP BY unit, arm
),
fresh_units AS (SELECT arm, look, count(*) AS units FROM firsts GROUP BY arm, look),
per_arm AS (
    SELECT look, arm, sum(due) AS due, sum(n) AS n, sum(y) AS y FROM chosen WHERE look >= $fresh GROUP BY look, arm
),
worths AS (SELECT look, arm, sum(n * x) AS x FROM valued GROUP BY look, arm),
sums AS (
    SELECT look, arm, due, n, coalesce(y, 0) AS y, coalesce(x, 0) AS x, coalesce(units, 0) AS units,
        0 AS yy, 0 AS xy, 0 AS xx
    FROM per_arm LEFT JOIN worths USING (look, arm) LEFT JOIN fresh_units USING (look, arm)
    UNION ALL
    SELECT look, NULL AS arm, 0 AS due, 0 AS n, 0 AS y, 0 AS x, 0 AS units, yy, xy, xx FROM crosses
)""",
    result=f"""
SELECT look, arm, CAST(sum(due) AS BIGINT) AS due, CAST(sum(n) AS BIGINT) AS n,
    {parts_of("y", _PARTS)} AS y, {parts_of("x", _PARTS)} AS x, CAST(sum(units) AS BIGINT) AS units,
    {parts_of("yy", _PARTS**2)} AS yy, {parts_of("xy", _PARTS**2)} AS xy, {parts_of("xx", _PARTS**2)} AS xx
FROM sums GROUP BY look, arm
""",
)
