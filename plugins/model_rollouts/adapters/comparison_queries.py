# ruff: noqa: S608 - the texts are put together from constants and quoted column names; every value is a parameter
"""The comparison's queries: all sums of all stages, arms and slices from one pass over the log.

Which rows count, and what their outcomes are, goes by the rules of the verdicts, `answers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model_rollouts.adapters.delta_pair_queries import quoted
from model_rollouts.adapters.delta_queries import BIN, answers
from model_rollouts.core.evidence import LATENCY_RATIO

_RATIO = f"ln({LATENCY_RATIO})"
DELAY_FLOOR = 0.001  # seconds
DELAY_BINS = 2000
_LOGIT_WIDTH = 0.005
_LARGEST_LOGIT = 20  # further out there is one bin a side for what is not 0 or 1
_EDGE_BIN = int(_LARGEST_LOGIT / _LOGIT_WIDTH)
_TAIL_WIDTH = 0.005  # of ln(1 + 1000 x) for scores that are no probabilities
NO_BIN = -999_999
_SMALLEST = "1e-75"  # its fourth power is a double still
_LARGEST = "1.79e308"
_LARGEST_OF = {2: "1e150", 4: "1e75"}  # power -> numbers whose power can be added up a hundred million times

_OF_ROLLOUT = "rollout_id = $rollout AND arm = cohort AND arm IN ('champion', 'challenger') AND stage <= $stage"

# Rows to cut the slices by; which they are does not depend on what came of them.
_SURVEYED = """
rollout_id = $rollout AND stage = $stage AND arm = cohort AND epoch_us(ts) >= $from AND epoch_us(ts) < $high
"""
ROWS_TO_SURVEY = f"SELECT count(*) FROM {{predictions}} WHERE {_SURVEYED}"
# Only rows that are likely to be among the first by their hash are put in order: `$most` is a hash too.
SURVEY = f"""
SELECT %s FROM (
    SELECT %s, ts, arm, md5($seed || coalesce(request_id, '')) AS drawn FROM {{predictions}} WHERE {_SURVEYED}
) AS all_rows WHERE drawn <= $most
ORDER BY drawn, ts, arm LIMIT $limit
"""

# What is added up, in the order of the columns. Everything that is counted is in the code of the rows.
SUMS: tuple[str, ...] = ("score", "score_2", "miss", "miss_2", "gap", "gap_size", "gap_2", "gap_4")
SUMS += ("value", "value_2", "log_latency", "log_latency_2")
# What the slices are judged by.
SLICE_SUMS = ("miss", "miss_2", "gap_size", "gap_2", "value", "value_2", "log_latency", "log_latency_2")
EXTREMES = {"score_least": min, "score_most": max}

# A row's code says all that is counted of it; a key of small whole numbers is much quicker to group by than many counts
# are to add up.
_CODE = {"challenger": 2, "now": 2, "failed": 2, "scored": 2, "measured": 2, "value_state": 3, "label_state": 6}
NOT_DUE, DUE, FOUND = range(3)
RIGHT, WRONG = 2, 3  # labelled, not 0 or 1
TRUE, FALSE = 4, 5  # labelled 0 or 1

KEYS = ("stage", "code", "challenger", "latency_bin", "delay_bin", "score_bin", "tenth", "truth_key")


def decoded(code: int) -> dict[str, int]:
    """What a code says."""
    parts = {}
    for name, size in _CODE.items():
        code, parts[name] = divmod(code, size)
    return parts


def _code() -> str:
    step, terms = 1, []
    for name, size in _CODE.items():
        terms.append(f"{step} * {name}")
        step *= size
    return " + ".join(terms)


@dataclass(frozen=True, slots=True)
class Cut:
    """What slices are cut by.

    Attributes:
        column: A column of the log.
        number: Whether it holds numbers; else texts.
        parts: How many edges (`$c<at>_<i>`, each part goes up to its edge), or how many texts have a part of their own.
    """

    column: str
    number: bool
    parts: int


MISSING, NOT_FINITE, OTHER = -1, -2, -3


def survey(columns: Sequence[str]) -> str:
    """A bounded sample of the stage's rows, the same each time; a hash of the request's id draws it."""
    named = ", ".join(f"{quoted(column)} AS c{at}" for at, column in enumerate(columns))
    return SURVEY % (", ".join(f"c{at}" for at in range(len(columns))), named)


def sums(cuts: Sequence[Cut], days: bool) -> str:
    """All sums, by stage and arm, by histogram bins, and for the stage `$stage` by slices.

    One row has `KEYS`, then `hour`, `day` and `b0`, `b1`, ... for the cuts, then the number of rows, `EXTREMES` and
    `SUMS`. A key is null in rows that are not grouped by it, and there alone. `hour` is of the day, `day` counts from
    1970, both in UTC. Sums that a grouping has no use for are null: those of slices but for `SLICE_SUMS`, say.

    Args:
        cuts: What to cut by.
        days: Whether to cut by day as well.
    """
    bands = [f"b{at}" for at in range(len(cuts))]
    parts = ["hour", *(["day"] if days else []), *bands]
    columns = [*KEYS, "hour", "day", *bands]
    groups = [
        (["stage, code"], SUMS, True),
        (["stage, challenger, latency_bin", "stage, challenger, delay_bin"], (), False),
        (["stage, challenger, score_bin, tenth, truth_key"], ("score", "miss"), False),
        ([f"code, {part}" for part in parts], SLICE_SUMS, False),
    ]
    return f"""
WITH {_facts(cuts)}
{" UNION ALL ".join(_added(columns, *group) for group in groups)}
"""


def _added(columns: Sequence[str], sets: Sequence[str], wanted: Sequence[str], extremes: bool) -> str:
    """One grouping; what it does not have is null."""
    there = {column for each in sets for column in each.split(", ")}
    keys = [column if column in there else f"CAST(NULL AS INTEGER) AS {column}" for column in columns]
    most = [f"{name}(usable_score)" if extremes else "CAST(NULL AS DOUBLE)" for name in ("min", "max")]
    sums = [f"sum({name})" if name in wanted else "CAST(NULL AS DOUBLE)" for name in SUMS]
    by = ", ".join(f"({each})" for each in sets)
    return f"SELECT {', '.join([*keys, 'count(*)', *most, *sums])} FROM facts GROUP BY GROUPING SETS ({by})"


def _facts(cuts: Sequence[Cut]) -> str:
    features = "".join(f", {quoted(cut.column)} AS c{at}" for at, cut in enumerate(cuts))
    bands = "".join(f", {_band(at, cut)} AS b{at}" for at, cut in enumerate(cuts))
    names = "".join(f", b{at}" for at in range(len(cuts)))
    narrow = f"""stage, CASE WHEN arm = 'challenger' THEN 1 ELSE 0 END AS challenger, prediction,
        CASE WHEN status = 'ok' THEN 1 ELSE 0 END AS answered, CASE WHEN served THEN 1 ELSE 0 END AS got,
        CASE WHEN status = 'ok' AND isfinite(score) THEN score END AS usable_score,
        {BIN} AS any_bin,
        CASE WHEN latency_ms > $floor AND isfinite(latency_ms) THEN ln(latency_ms) ELSE ln($floor) END AS any_log,
        {_hour()} AS hour, {_day()} AS day{bands}"""
    kept = ["stage", "challenger", "prediction", "answered", "got", "usable_score", "any_bin", "any_log", "hour", "day"]
    kept += [f"b{at}" for at in range(len(cuts))]
    return f"""
{answers(_OF_ROLLOUT, kept, narrow, f", served, score{features}")},
due AS (
    SELECT answers.*, answered = 1 AND us + $maturity <= $as_of AS is_due,
        CASE WHEN any_bin < $bins THEN any_bin END AS bin,
        CASE WHEN answered = 1 AND us + $maturity <= $as_of THEN first_label END AS label,
        CASE WHEN answered = 1 AND got = 1 AND us + $maturity <= $as_of THEN first_value END AS known_value
    FROM answers WHERE us >= $from
),
measured AS (
    SELECT numbers.*,
        CASE WHEN label = '1' THEN 1 WHEN label = '0' THEN 0 END AS truth,
        CASE WHEN (told > 0) <> (known_label > 0) AND abs(told) > {_LARGEST} - abs(known_label) THEN NULL
            ELSE told - known_label END AS any_gap
    FROM (
        SELECT due.*, TRY_CAST(prediction AS DOUBLE) AS told, TRY_CAST(label AS DOUBLE) AS known_label FROM due
    ) AS numbers
),
scaled AS (
    SELECT measured.*, coalesce(usable_score - truth, 0) AS score_gap,
        CASE WHEN isfinite(any_gap) THEN any_gap ELSE 0 END AS gap,
        CASE WHEN isfinite(any_gap) THEN 1 ELSE 0 END AS measured,
        CASE WHEN bin IS NULL THEN 1 ELSE 0 END AS failed,
        CASE WHEN stage = $stage THEN 1 ELSE 0 END AS now,
        CASE WHEN usable_score IS NULL THEN 0 ELSE 1 END AS scored,
        CASE WHEN known_value IS NOT NULL THEN {FOUND} WHEN is_due AND got = 1 THEN {DUE} ELSE {NOT_DUE} END
            AS value_state,
        CASE WHEN label IS NULL THEN CASE WHEN is_due THEN {DUE} ELSE {NOT_DUE} END
            WHEN truth IS NULL THEN CASE WHEN label IS DISTINCT FROM prediction THEN {WRONG} ELSE {RIGHT} END
            ELSE CASE WHEN label IS DISTINCT FROM prediction THEN {FALSE} ELSE {TRUE} END END AS label_state
    FROM measured
),
facts AS MATERIALIZED (
    SELECT stage, challenger, {_code()} AS code, usable_score, hour, day{names},
        coalesce(usable_score, 0) AS score, coalesce({_power("usable_score", 2)}, 0) AS score_2,
        {_power("score_gap", 2)} AS miss, {_power("score_gap", 4)} AS miss_2,
        gap, abs(gap) AS gap_size, {_power("gap", 2)} AS gap_2, {_power("gap", 4)} AS gap_4,
        coalesce(known_value, 0) AS value, coalesce({_power("known_value", 2)}, 0) AS value_2,
        CASE WHEN failed = 0 THEN any_log ELSE 0 END AS log_latency,
        CASE WHEN failed = 0 THEN any_log * any_log ELSE 0 END AS log_latency_2,
        coalesce(bin, {NO_BIN}) AS latency_bin,
        {_delay_bin()} AS delay_bin,
        {_score_bin()} AS score_bin,
        {_tenth()} AS tenth,
        CASE WHEN usable_score IS NULL OR truth IS NULL THEN -1 ELSE truth END AS truth_key
    FROM scaled
)"""


def _power(number: str, to: int) -> str:
    """A power of a double, as DuckDB has it: PostgreSQL makes an error of what becomes 0 or infinite."""
    return f"""CASE WHEN abs({number}) < {_SMALLEST} THEN 0
            WHEN abs({number}) > {_LARGEST_OF[to]} THEN CAST('Infinity' AS DOUBLE)
            ELSE {" * ".join([number] * to)} END"""


def _delay_bin() -> str:
    seconds = "(CAST(first_label_us - us AS DOUBLE) / 1000000)"
    return f"""CASE WHEN label IS NULL THEN {NO_BIN} WHEN NOT {seconds} > {DELAY_FLOOR} THEN 0
            ELSE CAST(floor(ln({seconds} / {DELAY_FLOOR}) / {_RATIO}) AS INTEGER) END"""


def _score_bin() -> str:
    """Bins that grow with the score on any scale: of one width in logits between 0 and 1, on a log scale beyond.

    All scores are in one order, so that the area under the ROC curve is that of the scores.
    """
    logit = f"least(greatest(ln(usable_score / (1 - usable_score)) / {_LOGIT_WIDTH}, -{_EDGE_BIN}), {_EDGE_BIN})"
    beyond = f"CAST(floor(ln(1 + 1000 * %s) / {_TAIL_WIDTH}) AS INTEGER)"
    return f"""CASE WHEN usable_score IS NULL OR truth IS NULL THEN {NO_BIN}
            WHEN usable_score <= 0 THEN -{_EDGE_BIN + 2} - {beyond % "least(-usable_score, 1e300)"}
            WHEN usable_score >= 1 THEN {_EDGE_BIN + 2} + {beyond % "(least(usable_score, 1e300) - 1)"}
            ELSE CAST(floor({logit}) AS INTEGER) END"""


def _tenth() -> str:
    return """CASE WHEN usable_score IS NULL OR truth IS NULL OR usable_score < 0 OR usable_score > 1 THEN -1
            WHEN usable_score >= 1 THEN 9 ELSE CAST(floor(usable_score * 10) AS INTEGER) END"""


def _hour() -> str:
    hours = "floor(CAST(us AS DOUBLE) / 3600000000)"
    return f"CAST({hours} - 24 * floor({hours} / 24) AS SMALLINT)"


def _day() -> str:
    return "CAST(floor(CAST(us AS DOUBLE) / 86400000000) AS INTEGER)"


def _band(at: int, cut: Cut) -> str:
    value = f"c{at}"
    compare = "<=" if cut.number else "="
    parts = " ".join(f"WHEN {value} {compare} $c{at}_{part} THEN {part}" for part in range(cut.parts))
    odd = f"WHEN NOT isfinite({value}) THEN {NOT_FINITE} " if cut.number else ""
    rest = cut.parts if cut.number else OTHER
    return f"CAST(CASE WHEN {value} IS NULL THEN {MISSING} {odd}{parts} ELSE {rest} END AS SMALLINT)"
