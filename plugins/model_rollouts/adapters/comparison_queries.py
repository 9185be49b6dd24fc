# ruff: noqa: S608 - the texts are put together from constants and quoted column names; every value is a parameter
"""The comparison's queries: all sums of all stages, arms and slices from one pass over the log.

Nearly every request was asked once and has one label and one value: those rows are joined to their outcome and added up
as they come. The others, the careful ones, go by the rules of the verdicts, `first_rows` and `joined`. Both give what
the verdicts' rules give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model_rollouts.adapters.delta_pair_queries import quoted
from model_rollouts.adapters.delta_queries import BIN, first_rows, joined
from model_rollouts.core.evidence import LATENCY_RATIO

_RATIO = f"ln({LATENCY_RATIO})"
DELAY_FLOOR = 0.001  # seconds
DELAY_BINS = 2000
_LOGIT_WIDTH = 0.005
_LARGEST_LOGIT = 20  # further out there is one bin a side for what is not 0 or 1
_EDGE_BIN = int(_LARGEST_LOGIT / _LOGIT_WIDTH)
_TAIL_WIDTH = 0.005  # of ln(1 + 1000 x) for scores that are no probabilities
_LARGEST_VALUE = 10**9  # as in the verdicts
NO_BIN = -999_999

_OF_ROLLOUT = "rollout_id = $rollout AND arm = cohort AND arm IN ('champion', 'challenger') AND stage <= $stage"
_USABLE = f"abs(value) <= {_LARGEST_VALUE}"
_LABEL_US = "CASE WHEN label IS NOT NULL THEN epoch_us(ts) END"
_VALUE_US = f"CASE WHEN {_USABLE} THEN epoch_us(ts) END"
_USABLE_OUTCOMES = f"""(
        SELECT request_id, ts, label, CASE WHEN {_USABLE} THEN value END AS value FROM {{outcomes}}
    )"""

# Rows to cut the slices by; which they are does not depend on what came of them.
SURVEY = """
SELECT %s FROM {predictions}
WHERE rollout_id = $rollout AND stage = $stage AND arm = cohort AND epoch_us(ts) >= $from AND epoch_us(ts) < $high
ORDER BY md5($seed || coalesce(request_id, '')), ts, arm LIMIT $limit
"""

# The sums, in the order of the columns. `n` of each is a column of its own where rows can lack it.
SUMS = {
    "requests": "count(*)",
    "errors": "count(CASE WHEN bin IS NULL THEN 1 END)",
    "due": "count(CASE WHEN due THEN 1 END)",
    "labelled": "count(label)",
    "wrong": "count(CASE WHEN label IS NOT NULL AND label IS DISTINCT FROM prediction THEN 1 END)",
    "binary": "count(truth)",
    "scored": "count(usable_score)",
    "score": "sum(usable_score)",
    "score_2": "sum(usable_score * usable_score)",
    "score_least": "min(usable_score)",
    "score_most": "max(usable_score)",
    "judged": "count(miss)",  # labelled 0 or 1 and scored
    "miss": "sum(miss)",
    "miss_2": "sum(miss * miss)",
    "measured": "count(gap)",  # numbers on both sides
    "gap": "sum(gap)",
    "gap_size": "sum(abs(gap))",
    "gap_2": "sum(gap * gap)",
    "gap_4": "sum(gap * gap * gap * gap)",
    "value_due": "count(CASE WHEN due AND served THEN 1 END)",
    "valued": "count(value)",
    "value": "sum(value)",
    "value_2": "sum(value * value)",
    "log_latency": "sum(log_latency)",
    "log_latency_2": "sum(log_latency * log_latency)",
}

KEYS = ("stage", "arm", "latency_bin", "delay_bin", "score_bin", "tenth", "truth_key")


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
    return SURVEY % ", ".join(f"{quoted(column)} AS c{at}" for at, column in enumerate(columns))


def sums(cuts: Sequence[Cut], days: bool) -> str:
    """All sums, by stage and arm, by histogram bins, and for the stage `$stage` by slices.

    One row has `KEYS`, then `hour`, `day` and `b0`, `b1`, ... for the cuts, then `SUMS`. A key is null in rows that are
    not grouped by it, and there alone. `hour` is of the day, `day` counts from 1970, both in UTC.

    Args:
        cuts: What to cut by.
        days: Whether to cut by day as well.
    """
    bands = [f"b{at}" for at in range(len(cuts))]
    parts = ["hour", *(["day"] if days else []), *bands]
    sets = [
        "(stage, arm)",
        "(stage, arm, latency_bin)",
        "(stage, arm, delay_bin)",
        "(stage, arm, score_bin, tenth, truth_key)",
        *(f"(stage, arm, {part})" for part in parts),
    ]
    keys = ", ".join([*KEYS, "hour", "day" if days else "NULL AS day", *bands])
    sums_of = ", ".join(f"{what} AS sum_{name}" for name, what in SUMS.items())
    return f"""
WITH {_facts(cuts)}
SELECT {keys}, {sums_of}
FROM facts GROUP BY GROUPING SETS ({", ".join(sets)})
"""


def _facts(cuts: Sequence[Cut]) -> str:
    features = "".join(f", {quoted(cut.column)} AS c{at}" for at, cut in enumerate(cuts))
    named = "".join(f", c{at}" for at in range(len(cuts)))
    first = first_rows(f"{_OF_ROLLOUT} AND (request_id IS NULL OR request_id IN (SELECT request_id FROM careful))")
    first = first.replace("epoch_us(ts) AS us", f"epoch_us(ts) AS us, served, score{features}")
    columns = f"stage, arm, served, status, latency_ms, prediction, score{named}"
    return f"""
careful AS (
    SELECT request_id FROM {{predictions}}
    WHERE {_OF_ROLLOUT} AND epoch_us(ts) >= $low AND epoch_us(ts) < $high AND request_id IS NOT NULL
    GROUP BY request_id
    HAVING count(CASE WHEN arm = 'champion' THEN 1 END) > 1 OR count(CASE WHEN arm = 'challenger' THEN 1 END) > 1
    UNION
    SELECT request_id FROM {{outcomes}} WHERE request_id IS NOT NULL GROUP BY request_id
    HAVING max({_LABEL_US}) > min({_LABEL_US})
        OR max({_VALUE_US}) > min({_VALUE_US})
),
known AS (
    SELECT request_id, min({_LABEL_US}) AS label_us, min(label) AS label,
        min({_VALUE_US}) AS value_us,
        min(CASE WHEN {_USABLE} THEN value END) AS value
    FROM {{outcomes}} WHERE request_id IS NOT NULL GROUP BY request_id
),
{first},
again AS ({joined("counted", columns, outcomes=_USABLE_OUTCOMES, timed=True)}),
plain AS (
    SELECT request_id, arm, stage, served, status, latency_ms, prediction, score, epoch_us(ts) AS us{features}
    FROM {{predictions}}
    WHERE {_OF_ROLLOUT} AND epoch_us(ts) >= $from AND epoch_us(ts) < $high AND request_id IS NOT NULL
),
answers AS (
    SELECT stage, arm, served, status, latency_ms, prediction, score, us{named},
        CASE WHEN label_us >= us - $slack AND label_us <= us + $maturity THEN label_us END AS label_us,
        CASE WHEN label_us >= us - $slack AND label_us <= us + $maturity THEN label END AS label,
        CASE WHEN value_us >= us - $slack AND value_us <= us + $maturity THEN value END AS value
    FROM (
        SELECT plain.*, known.label_us, known.label, known.value_us, known.value
        FROM plain LEFT JOIN known ON known.request_id = plain.request_id
        WHERE NOT EXISTS (SELECT 1 FROM careful WHERE careful.request_id = plain.request_id)
    ) AS once
    UNION ALL
    SELECT stage, arm, served, status, latency_ms, prediction, score, us{named},
        first_label_us AS label_us, first_label AS label, first_value AS value
    FROM again WHERE us >= $from
),
dated AS (
    SELECT answers.*, status = 'ok' AND us + $maturity <= $as_of AS due, {BIN} AS any_bin,
        CASE WHEN status = 'ok' AND isfinite(score) THEN score END AS usable_score
    FROM answers
),
matured AS (
    SELECT stage, arm, served, us, latency_ms, prediction, usable_score, due{named},
        CASE WHEN any_bin < $bins THEN any_bin END AS bin,
        CASE WHEN due THEN label END AS label,
        CASE WHEN due THEN label_us END AS label_us,
        CASE WHEN due AND served THEN value END AS value,
        CASE WHEN due AND label = '1' THEN 1 WHEN due AND label = '0' THEN 0 END AS truth
    FROM dated
),
measured AS (
    SELECT matured.*, usable_score - truth AS score_gap,
        TRY_CAST(prediction AS DOUBLE) - TRY_CAST(label AS DOUBLE) AS any_gap
    FROM matured
),
facts AS (
    SELECT stage, arm, served, prediction, usable_score, due, bin, label, value, truth,
        score_gap * score_gap AS miss,
        CASE WHEN isfinite(any_gap) THEN any_gap END AS gap,
        CASE WHEN bin IS NOT NULL AND latency_ms > $floor THEN ln(latency_ms) WHEN bin IS NOT NULL THEN ln($floor) END
            AS log_latency,
        coalesce(bin, {NO_BIN}) AS latency_bin,
        {_delay_bin()} AS delay_bin,
        {_score_bin()} AS score_bin,
        {_tenth()} AS tenth,
        CASE WHEN usable_score IS NULL OR truth IS NULL THEN -1 ELSE truth END AS truth_key,
        {_hour()} AS hour,
        {_day()} AS day{"".join(f", {_band(at, cut)} AS b{at}" for at, cut in enumerate(cuts))}
    FROM measured
)"""


def _delay_bin() -> str:
    seconds = "(CAST(label_us - us AS DOUBLE) / 1000000)"
    return f"""CASE WHEN label_us IS NULL THEN {NO_BIN} WHEN NOT {seconds} > {DELAY_FLOOR} THEN 0
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
    return f"CASE WHEN stage = $stage THEN CAST({hours} - 24 * floor({hours} / 24) AS INTEGER) ELSE {NO_BIN} END"


def _day() -> str:
    return f"CASE WHEN stage = $stage THEN CAST(floor(CAST(us AS DOUBLE) / 86400000000) AS INTEGER) ELSE {NO_BIN} END"


def _band(at: int, cut: Cut) -> str:
    value = f"c{at}"
    compare = "<=" if cut.number else "="
    parts = " ".join(f"WHEN {value} {compare} $c{at}_{part} THEN {part}" for part in range(cut.parts))
    odd = f"WHEN NOT isfinite({value}) THEN {NOT_FINITE} " if cut.number else ""
    rest = cut.parts if cut.number else OTHER
    return f"CASE WHEN stage <> $stage THEN {NO_BIN} WHEN {value} IS NULL THEN {MISSING} {odd}{parts} ELSE {rest} END"
