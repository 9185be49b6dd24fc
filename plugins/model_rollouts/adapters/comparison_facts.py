"""What the log says for the comparison: sums of every stage, arm and slice of a rollout, over all rows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from model_rollouts.adapters import comparison_queries as queries
from model_rollouts.adapters.comparison_queries import Cut
from model_rollouts.adapters.delta_files import columns_of, run
from model_rollouts.adapters.delta_queries import (
    REPEAT,
    REPEAT_SECONDS,
    microseconds,
    outcome_parameters,
    outcome_span,
)
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.log_places import LogRoot, log_table
from model_rollouts.core.evidence import LATENCY_BINS, LATENCY_FLOOR_MS, LATENCY_RATIO

MOST_COLUMNS = 60
MOST_DAYS = 62
SURVEY_ROWS = 20_000
_ARMS = ("champion", "challenger")
_SEED = "20130101"
_MORE = 1.1  # 10 % more than are wanted, so that there are as many: by chance 20,000 differ by less than 1 %
_BANDS = 5
_MOST_TEXTS = 10
_LEAST_SHARE = 0.005  # of the surveyed rows, for a text to be a slice of its own
_NUMBER = "DOUBLE"
_TEXT_CHARS = 60  # longer texts are cut in what is shown, never in what is compared

Sums = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scores:
    """Labelled answers of one class in one bin of scores."""

    bin: int
    tenth: int
    truth: int
    n: int
    score: float
    miss: float


@dataclass(slots=True)
class ArmFacts:
    """One arm in one stage.

    Attributes:
        sums: By `NAMES`; empty where it has no request.
        latency: Bin -> count; see `core/evidence.py`.
        delay: Bin -> count of the labels' delays; see `delay_edge`.
        scores: Histogram of the scores by class.
    """

    sums: Sums = field(default_factory=dict)
    latency: Counter[int] = field(default_factory=Counter)
    delay: Counter[int] = field(default_factory=Counter)
    scores: list[Scores] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """One slice of the stage: sums by arm."""

    dimension: str
    label: str
    order: int
    arms: Mapping[str, Sums]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the log says.

    Attributes:
        arms: By stage and arm.
        parts: Slices of the stage.
        columns: Features that it was cut by.
        left_out: Features that it was not, as there are too many.
        surveyed: Rows that the cuts were chosen by.
    """

    arms: Mapping[tuple[int, str], ArmFacts]
    parts: tuple[Part, ...]
    columns: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    surveyed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared.

    Attributes:
        model: Registered model name.
        rollout_id: The rollout.
        stage: Position of the stage whose slices are wanted; earlier ones are counted without.
        start: First time, UTC.
        end: Time after the last, UTC.
        as_of: Labels and values are due whose request is `maturity` old by then.
        maturity: A label or value counts up to this long after its request.
    """

    model: str
    rollout_id: str
    stage: int
    start: datetime
    end: datetime
    as_of: datetime
    maturity: timedelta


def delay_edge(index: int) -> float:
    """Lower edge of a bin of delays, in seconds."""
    return queries.DELAY_FLOOR * LATENCY_RATIO**index


def read_facts(root: LogRoot, asked: Asked) -> Facts:
    """Read the log: once for a survey that chooses the cuts, and once for all sums.

    Raises:
        LogReadError: The log can't be read.
        ValueError: The maturity is negative, or the end is not after the start.
    """
    if asked.end <= asked.start:
        raise ValueError(f"end is {asked.end.isoformat()}, must be after the start ({asked.start.isoformat()})")
    low = asked.start - REPEAT
    where = (log_table(root, asked.model, "predictions"), low, asked.end)
    of_rollout = {"rollout": asked.rollout_id, "stage": asked.stage, "high": microseconds(asked.end)}
    of_rollout["from"] = microseconds(asked.start)
    described = columns_of(*where)
    if described is None:
        return Facts({}, ())
    found = sorted(column for column in described if column[0].startswith(FEATURE_PREFIX))
    kept, left_out = found[:MOST_COLUMNS], found[MOST_COLUMNS:]
    cuts, values, surveyed = _survey(where, of_rollout, kept)
    days = asked.end - asked.start <= timedelta(days=MOST_DAYS)
    tables = {
        "predictions": where,
        "outcomes": (log_table(root, asked.model, "outcomes"), *outcome_span(low, asked.end, asked.maturity)),
    }
    given = of_rollout | {
        "low": microseconds(low),
        "as_of": microseconds(asked.as_of),
        "repeat": REPEAT_SECONDS * 1_000_000,
        "floor": LATENCY_FLOOR_MS,
        "ratio": LATENCY_RATIO,
        "bins": LATENCY_BINS,
    }
    given |= {f"c{at}_{part}": value for at, parts in enumerate(values) for part, value in enumerate(parts)}
    result = run(queries.sums(cuts, days), tables, given | outcome_parameters(asked.maturity))
    rows = result.fetchall() if result else []
    arms, parts = _sorted_rows(rows, cuts, values)
    names = tuple(cut.column[len(FEATURE_PREFIX) :] for cut in cuts)
    return Facts(arms, parts, names, tuple(name[len(FEATURE_PREFIX) :] for name, _ in left_out), surveyed)


def _survey(
    where: tuple[Any, datetime, datetime], given: Mapping[str, Any], columns: Sequence[tuple[str, str]]
) -> tuple[list[Cut], list[list[Any]], int]:
    """Cuts with the edges or texts of their parts, and how many rows they are by."""
    if not columns:
        return [], [], 0
    tables = {"predictions": where}
    counted = run(queries.ROWS_TO_SURVEY, tables, given)
    of = int(counted.fetchall()[0][0]) if counted else 0
    sql = queries.survey([name for name, _ in columns])
    most = _hash_of(SURVEY_ROWS / max(of, 1))
    result = run(sql, tables, {**given, "seed": _SEED, "limit": SURVEY_ROWS, "most": most})
    rows = result.fetchall() if result else []
    cuts, values = [], []
    for (name, kind), column in zip(columns, zip(*rows, strict=True) if rows else [() for _ in columns], strict=True):
        parts = _edges(column) if kind == _NUMBER else _texts(column)
        cuts.append(Cut(name, kind == _NUMBER, len(parts)))
        values.append(parts)
    return cuts, values, len(rows)


def _hash_of(share: float) -> str:
    """The MD5 hash that somewhat more than this share of all texts are not above."""
    of = int(min(1.0, share * _MORE) * (16**8 - 1))
    return f"{of:08x}" + "f" * 24


def _edges(column: Sequence[float | None]) -> list[float]:
    """Upper edges of bands with about as many rows each; none where there is nothing to cut."""
    numbers = sorted(value for value in column if value is not None and isfinite(value))
    if not numbers:
        return []
    at = [numbers[len(numbers) * band // _BANDS] for band in range(1, _BANDS)]
    return sorted({edge for edge in at if edge < numbers[-1]})


def _texts(column: Sequence[str | None]) -> list[str]:
    """The most frequent texts, as many as are worth a slice."""
    counts = Counter(value for value in column if value is not None)
    frequent = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:_MOST_TEXTS]
    return [text for text, n in frequent if n >= _LEAST_SHARE * len(column)]


COUNTS: tuple[str, ...] = ("requests", "errors", "due", "labelled", "wrong", "binary", "scored", "judged", "measured")
COUNTS += ("value_due", "valued")
NAMES = (*COUNTS, *queries.EXTREMES, *queries.SUMS)


def added(parts: Iterable[Sums]) -> Sums:
    """Sums of several parts of the rows; empty of none."""
    total: dict[str, Any] = {}
    for part in parts:
        for name in NAMES:
            values = [value for value in (total.get(name), part[name]) if value is not None]
            total[name] = queries.EXTREMES.get(name, sum)(values) if values else None
    return total


def _counts(code: int, n: int) -> dict[str, int]:
    """What `n` rows of a code count as."""
    says = queries.decoded(code)
    label, value = says["label_state"], says["value_state"]
    binary = label in (queries.TRUE, queries.FALSE)
    counted = {
        "requests": True,
        "errors": says["failed"],
        "due": label != queries.NOT_DUE,
        "labelled": label > queries.DUE,
        "wrong": label in (queries.WRONG, queries.FALSE),
        "binary": binary,
        "scored": says["scored"],
        "judged": binary and says["scored"],
        "measured": says["measured"],
        "value_due": value != queries.NOT_DUE,
        "valued": value == queries.FOUND,
    }
    return {name: n if counts else 0 for name, counts in counted.items()}


def _sorted_rows(
    rows: Sequence[Sequence[Any]], cuts: Sequence[Cut], values: Sequence[Sequence[Any]]
) -> tuple[dict[tuple[int, str], ArmFacts], tuple[Part, ...]]:
    arms: dict[tuple[int, str], ArmFacts] = defaultdict(ArmFacts)
    slices: dict[tuple[int, int], dict[str, list[Sums]]] = defaultdict(lambda: defaultdict(list))
    keys = len(queries.KEYS) + 2 + len(cuts)
    for row in rows:
        stage, code, challenger, latency, delay, score, tenth, truth, *parts = row[:keys]
        n, rest = row[keys], dict(zip((*queries.EXTREMES, *queries.SUMS), row[keys + 1 :], strict=True))
        if code is None:
            facts = arms[stage, _ARMS[challenger]]
            if latency is not None and latency != queries.NO_BIN:
                facts.latency[latency] += n
            elif delay is not None and delay != queries.NO_BIN:
                facts.delay[min(delay, queries.DELAY_BINS)] += n
            elif truth is not None and truth >= 0:
                facts.scores.append(Scores(score, tenth, truth, n, rest["score"], rest["miss"]))
            continue
        says, sums = queries.decoded(code), _counts(code, n) | rest
        if stage is not None:
            facts = arms[stage, _ARMS[says["challenger"]]]
            facts.sums = added([facts.sums, sums] if facts.sums else [sums])
        elif says["now"]:
            dimension = next(at for at, part in enumerate(parts) if part is not None)
            slices[dimension, parts[dimension]][_ARMS[says["challenger"]]].append(sums)
    for facts in arms.values():
        facts.scores.sort(key=lambda each: (each.bin, each.tenth, each.truth))
    made = [
        Part(
            *_named(dimension, part, cuts, values),
            order=part,
            arms={arm: added(sums) for arm, sums in by_arm.items()},
        )
        for (dimension, part), by_arm in sorted(slices.items(), key=lambda each: each[0])
    ]
    return dict(arms), tuple(made)


def _named(dimension: int, part: int, cuts: Sequence[Cut], values: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """What the slice is cut by, and which part it is."""
    if dimension == 0:
        return "hour of the day (UTC)", f"{part:02d}:00"
    if dimension == 1:
        return "day (UTC)", (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=part)).date().isoformat()
    cut, parts = cuts[dimension - 2], values[dimension - 2]
    special = {queries.MISSING: "(null)", queries.NOT_FINITE: "(not finite)", queries.OTHER: "(other values)"}
    name = cut.column[len(FEATURE_PREFIX) :]
    if part in special:
        return name, special[part]
    if not cut.number:
        text = str(parts[part])
        return name, text if len(text) <= _TEXT_CHARS else f"{text[: _TEXT_CHARS - 1]}…"
    if not parts:
        return name, "(any number)"
    if part == 0:
        return name, f"up to {parts[0]:,.6g}"
    if part == len(parts):
        return name, f"above {parts[-1]:,.6g}"
    return name, f"above {parts[part - 1]:,.6g} up to {parts[part]:,.6g}"
