# ruff: noqa: S608 - the texts are put together from constants of this module; every value is a parameter
"""The log's queries, in DuckDB's SQL, and the parameters that they share.

`{predictions}` and `{outcomes}` stand for the tables. The texts keep to what `sql_dialects.py` can say in the other
engines' words too.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from model_rollouts.ports import StageWindow, Window

REPEAT_SECONDS = 900
REPEAT = timedelta(seconds=REPEAT_SECONDS)
OUTCOME_SLACK = timedelta(days=1)  # a label's clock may be behind; one older than this is of another request
FAR = datetime(2199, 12, 31, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Requests are told apart by a hash where nothing but time and memory depends on it: two that have the same one are both
# taken for requests that came back, which goes by the rules as well.
ID_HASH = "hash(coalesce(request_id, ''))"


def first_rows(
    condition: str, within: str = "stage, request_id, arm", more: str = "", name: str = "counted", since: str = "$low"
) -> str:
    """Common table `counted`: rows of `condition` from `$low` to `$high`, repeats `within` the same left out.

    A request that comes back in another stage counts there too, so that each stage can be counted by itself. Rows of
    ids that were logged once are no repeats: only the others are put in order, which takes time and memory.

    Args:
        condition: Which rows.
        within: Rows that are alike in these columns are of one request.
        more: Columns of the log that are wanted beside those of every evidence, each with a comma before it.
        name: What the table is called.
        since: In the place of `$low`.
    """
    seen = f"""(
        SELECT request_id, arm, stage, unit_id, status, latency_ms, prediction, epoch_us(ts) AS us{more}
        FROM {{predictions}}
        WHERE {condition} AND epoch_us(ts) >= {since} AND epoch_us(ts) < $high
    ) AS seen"""
    return f"""
{name}_repeated AS (
    SELECT {ID_HASH} AS id FROM {{predictions}}
    WHERE {condition} AND epoch_us(ts) >= {since} AND epoch_us(ts) < $high
    GROUP BY id HAVING {_twice(within)}
),
{name} AS (
    SELECT seen.*, CAST(NULL AS BIGINT) AS earlier_us
    FROM {seen} LEFT JOIN {name}_repeated AS again ON again.id = {ID_HASH}
    WHERE again.id IS NULL
    UNION ALL
    SELECT * FROM (
        -- Of rows with one time the failed and the slow come first: a tie never hides harm.
        SELECT seen.*, lag(us) OVER (
            PARTITION BY {within}
            ORDER BY us, (status = 'ok') NULLS FIRST, latency_ms DESC NULLS LAST, prediction
        ) AS earlier_us
        FROM {seen}
        WHERE {ID_HASH} IN (SELECT id FROM {name}_repeated)
    ) AS in_order
    WHERE earlier_us IS NULL OR us - earlier_us >= $repeat
)
"""


def _twice(within: str) -> str:
    """Whether a request may have come back, of all of its rows; those of the two arms are apart where `within` says."""
    by_arm = [f"count(CASE WHEN arm = '{arm}' THEN 1 END) > 1" for arm in ("champion", "challenger")]
    return " OR ".join(by_arm) if "arm" in within else "count(*) > 1"


# Windows, looks that is, in runs: those of one stage that follow each other and are of one length.
LOOKS = """
looks AS (
    SELECT unnest($stages) AS stage, unnest($lows) AS low, unnest($highs) AS high, unnest($lengths) AS length,
        unnest($firsts) AS first
)
"""


def placed(rows: str, columns: str) -> str:
    """Rows, each with the position of the look that it is in."""
    return f"""
    SELECT first + CAST(floor(CAST(us - low AS DOUBLE) / length) AS BIGINT) AS look, {columns}
    FROM {rows} JOIN looks ON looks.stage = {rows}.stage WHERE us >= low AND us < high
"""


EVIDENCE = f"""
{first_rows("rollout_id = $rollout AND stage = $stage AND arm = cohort")},
{LOOKS},
placed AS ({placed("counted", "arm, request_id, us, status, latency_ms, prediction")})
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
binned AS (SELECT look, arm, {BIN} AS bin FROM placed)
SELECT look, arm, bin, count(*) AS n
FROM (SELECT look, arm, CASE WHEN bin < $bins THEN bin END AS bin FROM binned) AS usable
GROUP BY look, arm, bin
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
    FROM {rows} LEFT JOIN (SELECT request_id, epoch_us(ts) AS us, label, value FROM {outcomes} AS logged) AS known
        ON known.request_id = {rows}.request_id
        AND known.us >= {rows}.us - $slack AND known.us <= {until.format(rows=rows)}
    GROUP BY {kept}
"""


LARGEST_VALUE = 10**9  # the products of larger ones would not fit into the sums
# A file's statistics leave NaN out, and DuckDB drops a comparison that is true by them: NaN has a question of its own.
USABLE_VALUE = f"(isfinite(value) AND abs(value) <= {LARGEST_VALUE})"
# A value that is too large is missing, as one that is no finite number is.
USABLE_OUTCOMES = f"(SELECT request_id, ts, label, CASE WHEN {USABLE_VALUE} THEN value END AS value FROM {{outcomes}})"
_LABEL_US = "CASE WHEN label IS NOT NULL THEN epoch_us(ts) END"
_VALUE_US = "CASE WHEN value IS NOT NULL THEN epoch_us(ts) END"


def answers(
    condition: str,
    columns: Sequence[str],
    narrow: str,
    more: str = "",
    until: str = "us + $maturity",
    within: str = "stage, request_id, arm",
    name: str = "answers",
    since: str = "$low",
    few: bool = False,
) -> str:
    """Common table `answers`: the rows of `first_rows` with `first_label`, `first_label_us` and `first_value`.

    Nearly every request was asked once and has one label and one value: those rows are joined to their outcome as they
    come. The others, the careful ones, go by the rules, `first_rows` and `joined`. Both give what the rules give.

    Args:
        condition: Which rows. They are of the two arms.
        columns: What a row has beside `us` and what is known of its outcome.
        narrow: Select list that makes these columns of the rows' own: rows are made narrow before they meet their
            outcomes, which takes the memory.
        more: As for `first_rows`; `narrow` can use them.
        until: An outcome counts up to this time, included.
        within: As for `first_rows`.
        name: What the table is called.
        since: As for `first_rows`.
        few: Whether most outcomes are of other rows, as for a look or two: theirs are picked out first then.
    """
    kept = ", ".join(columns)
    between = f"epoch_us(ts) >= {since} AND epoch_us(ts) < $high"
    of_few = f"epoch_us(ts) >= {since} + $repeat AND epoch_us(ts) < $high"  # those before tell repeats, and no more
    are_careful = f"{condition} AND {ID_HASH} IN (SELECT id FROM {name}_careful)"
    first = first_rows(are_careful, within, more, f"{name}_counted", since)
    in_time = f"%s >= us - $slack AND %s <= {until}"
    label_in_time, value_in_time = in_time.replace("%s", "label_us"), in_time.replace("%s", "value_us")
    outcomes = f"{name}_outcomes" if few else USABLE_OUTCOMES
    picked = f"""
{name}_outcomes AS MATERIALIZED (
    SELECT * FROM {USABLE_OUTCOMES} AS usable
    WHERE request_id IN (SELECT request_id FROM {{predictions}} WHERE {condition} AND {of_few})
),"""
    of_careful = joined(f"{name}_again", kept, until.replace("us +", "{rows}.us +"), outcomes, timed=True)
    return f"""{picked if few else ""}
{name}_several AS (
    SELECT {ID_HASH} AS id FROM {outcomes} AS of_request WHERE request_id IS NOT NULL GROUP BY id HAVING count(*) > 1
),
{name}_careful AS (
    SELECT {ID_HASH} AS id FROM {{predictions}}
    WHERE {condition} AND {between}
    GROUP BY id HAVING {_twice(within)}
    UNION
    SELECT {ID_HASH} AS id FROM {outcomes} AS of_request WHERE {ID_HASH} IN (SELECT id FROM {name}_several)
    GROUP BY id HAVING count(label) > 1 OR count(value) > 1
),
-- A request whose label and value came apart has two outcomes.
{name}_known AS (
    SELECT request_id, {_LABEL_US} AS label_us, label, {_VALUE_US} AS value_us, value
    FROM {outcomes} AS of_request LEFT JOIN {name}_several AS several ON several.id = {ID_HASH}
    WHERE several.id IS NULL AND request_id IS NOT NULL
    UNION ALL
    SELECT request_id, min({_LABEL_US}) AS label_us, min(label) AS label,
        min({_VALUE_US}) AS value_us, min(value) AS value
    FROM {outcomes} AS of_request WHERE {ID_HASH} IN (SELECT id FROM {name}_several) AND request_id IS NOT NULL
    GROUP BY request_id
),
{first},
{name}_again AS (SELECT request_id, us, {narrow} FROM {name}_counted),
{name}_plain AS (
    SELECT request_id, us, {ID_HASH} AS id, {narrow}
    FROM (
        SELECT request_id, arm, stage, unit_id, status, latency_ms, prediction, epoch_us(ts) AS us{more}
        FROM {{predictions}}
        WHERE {condition} AND {between}
    ) AS asked
),
{name} AS (
    SELECT {kept}, us,
        CASE WHEN {label_in_time} THEN label_us END AS first_label_us,
        CASE WHEN {label_in_time} THEN label END AS first_label,
        CASE WHEN {value_in_time} THEN value END AS first_value
    FROM (
        SELECT {name}_plain.*, {name}_known.label_us, {name}_known.label, {name}_known.value_us, {name}_known.value
        FROM {name}_plain LEFT JOIN {name}_careful ON {name}_careful.id = {name}_plain.id
            LEFT JOIN {name}_known ON {name}_known.request_id = {name}_plain.request_id
        WHERE {name}_careful.id IS NULL
    ) AS once
    UNION ALL
    SELECT {kept}, us, first_label_us, first_label, first_value FROM ({of_careful}) AS judged
)
"""


def rows_asked(condition: str, more: str = "") -> str:
    """The predictions that `first_rows` and `answers` read, with the columns of conditions on rollout and arm."""
    return f"""
    SELECT request_id, ts, rollout_id, arm, cohort, stage, unit_id, status, latency_ms, prediction{more}
    FROM {{predictions}} WHERE {condition} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high
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


def look_parameters(rollout_id: str, windows: Sequence[StageWindow], first: int = 0) -> dict[str, Any]:
    """Parameters of the evidence of a rollout in looks, which are in order; there must be at least one.

    Args:
        rollout_id: The rollout.
        windows: The looks.
        first: Position of the first of them.
    """
    low, high = span([each.window for each in windows])
    runs: list[list[int]] = []  # stage, low, high, length, first
    for at, each in enumerate(windows, first):
        start, end = microseconds(each.window.start), microseconds(each.window.end)
        if runs and runs[-1][0] == each.stage and runs[-1][2] == start and runs[-1][3] == end - start:
            runs[-1][2] = end
        else:
            runs.append([each.stage, start, end, end - start, at])
    stages, lows, highs, lengths, firsts = (list(column) for column in zip(*runs, strict=True))
    return {
        "rollout": rollout_id,
        "low": microseconds(low),
        "high": microseconds(high),
        "repeat": REPEAT_SECONDS * 1_000_000,
        "stages": stages,
        "lows": lows,
        "highs": highs,
        "lengths": lengths,
        "firsts": firsts,
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
