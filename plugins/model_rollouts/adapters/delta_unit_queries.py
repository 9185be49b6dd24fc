# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""Queries about units, pairs of answers and business values, in DuckDB's SQL. See `core/unit_evidence.py`."""

from model_rollouts.adapters.delta_queries import BIN, EVIDENCE, first_of, first_rows, joined

# A request without a unit is a unit of its own; a unit named like a request stays apart from it.
_UNIT = "coalesce('u' || unit_id, 'r' || request_id, '')"
# Rows of one HTTP call: the gateway gives row i the call's id with `:i` at its end.
_CALL = "coalesce(regexp_replace(request_id, ':[0-9]+$', ''), '')"

# The evidence of a whole rollout, each row in its look. Looks of one stage follow each other, so that a row's look can
# only be the last one that began before it. Materialized, so that the files are read once.
_LOOKS = f"""
{first_rows("rollout_id = $rollout AND arm = cohort AND arm IN ('champion', 'challenger')")},
looks AS (
    SELECT unnest($indices) AS look, unnest($stages) AS stage, unnest($lows) AS low, unnest($highs) AS high
),
placed AS MATERIALIZED (
    SELECT look, counted.stage, arm, request_id, {_UNIT} AS unit, us, status, latency_ms, prediction
    FROM counted ASOF JOIN looks ON counted.stage = looks.stage AND us >= low
    WHERE us < high
)
"""

# What is added up over rows and units is made whole first, in billionths (values in millionths: they may be large).
# Sums of floats differ in their last digit with the order of the rows, and a look that is counted again has to come out
# the same to the last digit.
_PARTS, _VALUE_PARTS = 10**9, 10**6
_LARGEST_VALUE = 10**9  # the products of larger ones would not fit into the sums


def _whole(expression: str, parts: int) -> str:
    return f"CAST(round(({expression}) * {parts}) AS HUGEINT)"


def _parts(expression: str, parts: int) -> str:
    """The sum of what `_whole` made."""
    return f"CAST(sum({expression}) AS DOUBLE) / {parts}"


def valued(rows: str, columns: str, until: str = "{rows}.us + $maturity", timed: bool = False) -> str:
    """`joined` where a value that is too large is missing, as one that is no finite number is."""
    usable = f"CASE WHEN abs(value) <= {_LARGEST_VALUE} THEN value END"
    outcomes = f"(SELECT request_id, ts, label, {usable} AS value FROM {{outcomes}}) AS usable"
    return joined(rows, columns, until, outcomes, timed)


# From `tallies` (metric, arm, look, unit, n requests, y of them 1, how many such units it stands for) to the sums over
# pairs of a unit's requests: the pairs within a look, and those of a look with all earlier ones.
_CLUSTERS = f"""
averages AS (
    SELECT metric, arm, look, sum(units * n) AS total, sum(units * y) / sum(units * n) AS mean
    FROM tallies GROUP BY metric, arm, look
),
-- A unit that asks for nothing in the looks that are wanted has no new pairs.
wanted AS (SELECT DISTINCT arm, unit FROM tallies WHERE look >= $fresh),
spreads AS (
    SELECT *, CASE WHEN total > 1 THEN mean * (1 - mean) * total / (total - 1) ELSE 0 END AS spread FROM averages
),
clusters AS (
    SELECT metric, arm, look, unit, n, y, units, total, mean, spread,
        {_whole("y - n * mean", _PARTS)} AS residual,
        {_whole("n * sqrt(spread)", _PARTS)} AS deviation,
        {_whole("n * spread", _PARTS)} AS variance,
        -- The square of a residual sum holds each request with itself, which is no pair.
        {_whole("n * (n - 1) * spread / total - (y * (1 - mean) * (1 - mean) + (n - y) * mean * mean)", _PARTS**2)}
            AS no_pairs,
        {_whole("n * (n - 1) * spread", _PARTS**2)} AS scale_within,
        {_whole("n * (n - 1) * spread * spread", _PARTS**2)} AS noise_within
    FROM tallies JOIN spreads USING (metric, arm, look) JOIN wanted USING (arm, unit)
),
growth AS (
    SELECT *,
        coalesce(sum(n) OVER earlier, 0) AS earlier_n,
        coalesce(sum(residual) OVER earlier, 0) AS earlier_residual,
        coalesce(sum(deviation) OVER earlier, 0) AS earlier_deviation,
        coalesce(sum(variance) OVER earlier, 0) AS earlier_variance
    FROM clusters
    WINDOW earlier AS (
        PARTITION BY metric, arm, unit ORDER BY look ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),
sums AS (
    SELECT metric, arm, look,
        sum(units * n) AS judged,
        sum(units * (2 * earlier_n * n + n * n)) AS squares,
        {_parts("units * (2 * earlier_residual * residual + residual * residual + no_pairs)", _PARTS**2)} AS products,
        {_parts("units * (2 * earlier_deviation * deviation + scale_within)", _PARTS**2)} AS scale,
        {_parts("units * (2 * earlier_variance * variance + noise_within)", _PARTS**2)} AS noise
    FROM growth WHERE look >= $fresh GROUP BY metric, arm, look
)
"""

_QUANTILES = {"latency_p50": "0.50", "latency_p95": "0.95", "latency_p99": "0.99"}
_SLOW_TALLIES = "\n".join(
    f"    UNION ALL SELECT prefix || '{metric}', arm, look, unit, answered, slow_{at}, units FROM wide"
    " WHERE answered > 0"
    for at, metric in enumerate(_QUANTILES, start=1)
)
# Of fewer than 100 answers the 99 % quantile is the largest, which nothing is slower than: hence "at least as slow".
_SLOW_COUNTS = ",\n".join(
    f"        count(*) FILTER (NOT failed AND latency_ms >= cuts[{at}]) AS slow_{at}"
    for at in range(1, len(_QUANTILES) + 1)
)
_TALLIED = f"""count(*) AS asked, count(*) FILTER (failed) AS errors, count(*) FILTER (NOT failed) AS answered,
{_SLOW_COUNTS}"""
_TALLIES = "asked, errors, answered, slow_1, slow_2, slow_3"

# Everything is added up by unit and by call; the metrics by call are those with a prefix. Row `new` of an arm and a
# look has its new units in the place of `judged`.
UNIT_COUNTS = f"""
WITH {_LOOKS},
judged AS MATERIALIZED (
    SELECT look, arm, unit, {_CALL} AS call, us, latency_ms, coalesce({BIN} >= $bins, true) AS failed FROM placed
),
limits AS (
    SELECT look, arm, quantile_disc(latency_ms, [{", ".join(_QUANTILES.values())}]) AS cuts
    FROM judged WHERE NOT failed GROUP BY look, arm
),
by_unit AS MATERIALIZED (
    SELECT arm, look, unit, min(us) AS since, {_TALLIED}
    FROM judged LEFT JOIN limits USING (look, arm) GROUP BY arm, look, unit
),
-- A call is of one moment: it has no pairs across looks, and earlier looks are not needed.
by_call AS (
    SELECT arm, look, call, {_TALLIED}
    FROM judged LEFT JOIN limits USING (look, arm) WHERE look >= $fresh GROUP BY arm, look, call
),
come_back AS (SELECT arm, unit FROM by_unit GROUP BY arm, unit HAVING count(*) > 1),
-- What has no pairs across looks adds the same as all that is alike, and stands for it: most calls, in a few rows.
alike AS (
    SELECT '' AS prefix, arm, look, {_TALLIES} FROM by_unit
    WHERE NOT EXISTS (SELECT 1 FROM come_back WHERE come_back.arm = by_unit.arm AND come_back.unit = by_unit.unit)
    UNION ALL
    SELECT 'call_' AS prefix, arm, look, {_TALLIES} FROM by_call
),
wide AS MATERIALIZED (
    SELECT '' AS prefix, arm, look, unit, {_TALLIES}, 1 AS units FROM by_unit
    WHERE EXISTS (SELECT 1 FROM come_back WHERE come_back.arm = by_unit.arm AND come_back.unit = by_unit.unit)
    UNION ALL
    SELECT prefix, arm, look, 'alike' || ':' || look || ':' || {_TALLIES.replace(", ", " || ':' || ")} AS unit,
        {_TALLIES}, count(*) AS units
    FROM alike GROUP BY prefix, arm, look, {_TALLIES}
),
tallies(metric, arm, look, unit, n, y, units) AS MATERIALIZED (
    SELECT prefix || 'error_rate', arm, look, unit, asked, errors, units FROM wide
{_SLOW_TALLIES}
),
{_CLUSTERS},
-- Of first rows of one time the challenger's is the first, so that the count is the same each time.
firsts AS (
    SELECT unit, arg_min(arm, struct_pack(since, arm, look)) AS arm,
        arg_min(look, struct_pack(since, arm, look)) AS look
    FROM by_unit GROUP BY unit
)
SELECT metric, arm, look, judged, squares, products, scale, noise FROM sums
UNION ALL
SELECT 'new', arm, look, count(*), 0, 0, 0, 0 FROM firsts WHERE look >= $fresh GROUP BY arm, look
"""

LABEL_CLUSTERS = f"""
WITH {_LOOKS},
due AS (SELECT look, arm, request_id, unit, us, prediction FROM placed WHERE status = 'ok'),
labelled AS ({joined("due", "look, arm, unit, prediction")}),
tallies AS MATERIALIZED (
    SELECT 'label' AS metric, arm, look, unit, count(*) AS n,
        count(*) FILTER (first_label IS DISTINCT FROM prediction) AS y, 1 AS units
    FROM labelled WHERE first_label IS NOT NULL GROUP BY arm, look, unit
),
{_CLUSTERS}
SELECT metric, arm, look, judged, squares, products, scale, noise FROM sums
"""

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
    SELECT window_at, request_id, us, prediction FROM placed WHERE arm = 'champion' AND status = 'ok'
),
theirs AS (
    SELECT request_id, epoch_us(ts) AS us, status, prediction FROM {{predictions}}
    WHERE rollout_id = $rollout AND stage = $stage AND arm = 'challenger'
),
answered AS (
    SELECT window_at, asked.request_id, asked.us, theirs.us AS their_us,
        coalesce(theirs.status = 'ok' AND (%s), false) AS agreed
    FROM asked LEFT JOIN theirs
        ON theirs.request_id = asked.request_id AND abs(theirs.us - asked.us) < $repeat
),
pairs AS (
    SELECT window_at, request_id, us, {first_of("agreed", "their_us", "their_us IS NOT NULL")} AS agreed
    FROM answered GROUP BY window_at, request_id, us
)
SELECT window_at, count(*) AS asked, count(agreed) AS paired, count(*) FILTER (agreed) AS agreed
FROM pairs GROUP BY window_at
"""

# The same pairs by unit: the outcome is that they do not agree.
PAIR_CLUSTERS = f"""
WITH {_LOOKS},
asked AS (
    SELECT look, stage, request_id, unit, us, prediction FROM placed
    WHERE arm = 'champion' AND status = 'ok'
),
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
),
tallies AS MATERIALIZED (
    SELECT 'pair' AS metric, 'challenger' AS arm, look, unit, count(*) AS n, count(*) FILTER (NOT agreed) AS y,
        1 AS units
    FROM pairs GROUP BY look, unit
),
{_CLUSTERS}
SELECT metric, arm, look, judged, squares, products, scale, noise FROM sums
"""

# What the champion's answers of an earlier time were worth, those that callers got.
PRIOR_VALUES = f"""
earlier AS (
    SELECT request_id, unit, us FROM (
        SELECT request_id, unit, us, lag(us) OVER (PARTITION BY request_id ORDER BY us, unit) AS earlier_us FROM (
            SELECT request_id, {_UNIT} AS unit, epoch_us(ts) AS us FROM {{predictions}}
            WHERE arm = 'champion' AND served AND epoch_us(ts) >= $prior_low - $repeat AND epoch_us(ts) < $prior_high
        ) AS seen_earlier
    ) AS in_order
    WHERE earlier_us IS NULL OR us - earlier_us >= $repeat
),
before AS (SELECT * FROM earlier WHERE us >= $prior_low),
prior_values AS ({valued("before", "unit", until="$prior_high - 1")})
"""

# An answer that nobody got, such as the champion's to a control request at a share of 100, has no value of its own:
# what came of the request came of the other version's answer. Whether a request counts is up to its first row alone, so
# `served` is looked up for that row, and is no condition on which row is the first.
VALUE_SUMS = f"""
WITH {_LOOKS},
served_rows AS (
    SELECT DISTINCT stage, coalesce(request_id, '') AS id, arm, epoch_us(ts) AS us FROM {{predictions}}
    WHERE rollout_id = $rollout AND arm = cohort AND served AND status = 'ok' AND epoch_us(ts) >= $low
),
due AS (
    SELECT placed.look, placed.arm, placed.request_id, placed.unit, placed.us
    FROM placed JOIN served_rows ON served_rows.stage = placed.stage AND served_rows.arm = placed.arm
        AND served_rows.us = placed.us AND served_rows.id = coalesce(placed.request_id, '')
    WHERE placed.status = 'ok'
),
awaited AS MATERIALIZED (
    SELECT look, arm, unit, us, {_whole("first_value", _VALUE_PARTS)} AS y
    FROM ({valued("due", "look, arm, unit")}) AS known
),
{PRIOR_VALUES},
worth AS MATERIALIZED (
    SELECT unit, sum({_whole("first_value", _VALUE_PARTS)}) // count(*) AS x
    FROM prior_values WHERE first_value IS NOT NULL GROUP BY unit
),
valued AS MATERIALIZED (
    SELECT look, arm, unit, us, y, coalesce(x, (SELECT sum(x) // count(*) FROM worth), 0) AS x,
        CASE WHEN arm = 'challenger' THEN 1 ELSE 0 END AS treated
    FROM awaited LEFT JOIN worth USING (unit) WHERE y IS NOT NULL
),
averages AS (
    SELECT look, CAST(sum(y) AS DOUBLE) / count(*) AS mean_y, CAST(sum(x) AS DOUBLE) / count(*) AS mean_x,
        sum(treated) / count(*) AS share
    FROM valued GROUP BY look
),
scores AS (
    SELECT unit, look,
        sum({_whole("(CAST(y AS DOUBLE) - mean_y) * (treated - share)", 1)}) AS score_y,
        sum({_whole("(CAST(x AS DOUBLE) - mean_x) * (treated - share)", 1)}) AS score_x
    FROM valued JOIN averages USING (look) GROUP BY unit, look
),
growth AS (
    SELECT *, coalesce(sum(score_y) OVER earlier, 0) AS earlier_y, coalesce(sum(score_x) OVER earlier, 0) AS earlier_x
    FROM scores
    WINDOW earlier AS (PARTITION BY unit ORDER BY look ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
crosses AS (
    SELECT look,
        {_parts("2 * earlier_y * score_y + score_y * score_y", _VALUE_PARTS**2)} AS yy,
        {_parts("earlier_x * score_y + earlier_y * score_x + score_x * score_y", _VALUE_PARTS**2)} AS xy,
        {_parts("2 * earlier_x * score_x + score_x * score_x", _VALUE_PARTS**2)} AS xx
    FROM growth GROUP BY look
),
firsts AS (
    SELECT unit, arm, arg_min(look, struct_pack(us, look)) AS look FROM valued GROUP BY unit, arm
),
fresh_units AS (SELECT arm, look, count(*) AS units FROM firsts GROUP BY arm, look),
per_arm AS (
    SELECT look, arm, count(*) AS due, count(y) AS n, {_parts("y", _VALUE_PARTS)} AS y FROM awaited GROUP BY look, arm
),
known AS (SELECT look, arm, {_parts("x", _VALUE_PARTS)} AS x FROM valued GROUP BY look, arm)
SELECT look, arm, due, n, coalesce(y, 0) AS y, coalesce(x, 0) AS x, coalesce(units, 0) AS units,
    coalesce(yy, 0) AS yy, coalesce(xy, 0) AS xy, coalesce(xx, 0) AS xx
FROM per_arm LEFT JOIN known USING (look, arm) LEFT JOIN fresh_units USING (look, arm) LEFT JOIN crosses USING (look)
WHERE look >= $fresh
"""

# A call that the champion failed has no answer that anybody got, and counts all the same.
_CHAMPIONS = (
    "arm = 'champion' AND version = $version AND (served OR status IS DISTINCT FROM 'ok') "
    "AND coalesce(cohort, 'champion') = 'champion'"
)

# In or out of rollouts, so a request that comes back in another stage is no second one here.
BASELINE = f"""
WITH {first_rows(_CHAMPIONS, within="request_id")},
inside AS MATERIALIZED (
    SELECT request_id, us, status, prediction, {_UNIT} AS unit, coalesce({BIN} >= $bins, true) AS failed
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
