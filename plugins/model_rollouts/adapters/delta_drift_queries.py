# ruff: noqa: S608 - the texts are put together from constants and quoted column names; every value is a parameter
"""Queries that count columns for drift, in DuckDB's SQL: all columns of all rows in one pass, by given bins."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from model_rollouts.adapters.delta_pair_queries import quoted
from model_rollouts.core.profile import LARGEST, STEP, Grid

MISSING, NOT_FINITE, REST = 2_000_000_000, 2_000_000_001, 2_000_000_002  # no bin of a grid is so far away
SLICES, _SPREAD = 4096, 1597  # neighbouring slices are far from each other in the order in which they are taken
PARTS = 16  # of the time of a large log
STAGE_EVIDENCE = "rollout_id = $rollout AND stage = $stage AND arm = cohort"
_NUMBERS = ("DOUBLE", "FLOAT", "REAL", "DECIMAL", "HUGEINT", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UINTEGER")

Bins = Grid | tuple[str, ...]  # of numbers, or the categories of text


def is_number(kind: str) -> bool:
    """Whether a column of a DuckDB type holds numbers."""
    return kind.upper().startswith(_NUMBERS) and not kind.endswith("[]")


def counts_query(
    columns: Sequence[tuple[str, str, Bins]], condition: str, absent: Collection[str] = ()
) -> tuple[str, dict[str, Any]]:
    """The query that counts columns by arm and bin, and its parameters but those of the condition.

    It gives `arm`, `col` (position in `columns`), `bin` and `n`. Each row of the log is looked at once.

    Args:
        columns: Name, DuckDB type and bins of each column; at least one.
        condition: Which rows count.
        absent: Columns that no row has: all values of them are missing.
    """
    given: dict[str, Any] = {}
    binned = []
    for at, (name, kind, bins) in enumerate(columns):
        found = _absent(kind) if name in absent else quoted(name)
        if isinstance(bins, Grid):
            given |= {f"center_{at}": bins.center, f"scale_{at}": bins.scale}
            binned.append(f"{_number_bin(_as_number(found, kind), at)} AS c{at}")
        else:
            given |= {f"text_{at}_{i}": text for i, text in enumerate(bins)}
            binned.append(f"{_text_bin(_as_text(found, kind), at, len(bins))} AS c{at}")
    places = " UNION ALL ".join(f"SELECT {at} AS col" for at in range(len(columns)))
    chosen = " ".join(f"WHEN {at} THEN c{at}" for at in range(len(columns)))
    return (
        f"""
WITH binned AS (
    SELECT arm, {", ".join(binned)} FROM {{predictions}}
    WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND ({condition})
),
places AS ({places})
SELECT arm, col, bin, count(*) AS n FROM (
    SELECT arm, col, CASE col {chosen} END AS bin FROM binned CROSS JOIN places
) AS placed GROUP BY arm, col, bin
""",
        given,
    )


def sample_query(columns: Sequence[tuple[str, str]], condition: str, absent: Collection[str] = ()) -> str:
    """The query for a sample of some columns: rows of chosen slices of time, drawn by a hash of request id and seed.

    Of `SLICES` equally long slices between `$low` and `$high`, `$slices` are looked into, spread over the whole time:
    a hash of every row of a large log would take longer than all its scores.
    """
    named = "".join(
        f", {_absent(kind) if name in absent else quoted(name)} AS c{at}" for at, (name, kind) in enumerate(columns)
    )
    kept = ", ".join(f"c{at}" for at in range(len(columns)))
    return f"""
SELECT {kept} FROM (
    SELECT request_id, ts{named} FROM {{predictions}}
    WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND ({condition})
        AND mod(CAST(floor((epoch_us(ts) - $low) / $slice_us) AS BIGINT) * {_SPREAD} + $first, {SLICES}) < $slices
    ORDER BY md5($seed || coalesce(request_id, '')), ts LIMIT $limit
) AS chosen ORDER BY ts, request_id
"""


def in_parts(low: int, high: int, share: float, seed: int) -> tuple[str, dict[str, Any]]:
    """The condition, and its parameters, for rows of parts of a time that are spread over it; for DuckDB alone.

    It compares `ts` itself, so that files and their groups of rows are left out by what is known of their times.

    Args:
        low: Microseconds since 1970.
        high: Likewise.
        share: How much of the time the parts are, together; more than 0, at most 1.
        seed: Another seed takes other parts.
    """
    each = (high - low) / PARTS
    length = each * share
    offset = (each - length) * (seed * _SPREAD % SLICES) / SLICES
    given: dict[str, Any] = {}
    for at in range(PARTS):
        given[f"part_{at}_low"] = low + int(at * each + offset)
        given[f"part_{at}_high"] = low + int(at * each + offset + length) + 1
    compared = (
        f"ts >= make_timestamptz($part_{at}_low) AND ts < make_timestamptz($part_{at}_high)" for at in range(PARTS)
    )
    return " OR ".join(f"({each})" for each in compared), given


def slice_parameters(low: int, high: int, slices: int, seed: int) -> dict[str, Any]:
    """Parameters of `sample_query`.

    Args:
        low: Microseconds since 1970.
        high: Likewise.
        slices: How many are looked into, 1 to SLICES.
        seed: Another seed looks into others.
    """
    return {"slice_us": (high - low + 1) / SLICES, "slices": slices, "first": seed % SLICES}


def counted(rows: Sequence[tuple[Any, ...]]) -> Mapping[str, Mapping[int, Mapping[int, int]]]:
    """Count by arm, column and bin, of what `counts_query` gave."""
    found: dict[str, dict[int, dict[int, int]]] = {}
    for arm, column, index, count in rows:
        found.setdefault(str(arm), {}).setdefault(int(column), {})[int(index)] = int(count)
    return found


def _absent(kind: str) -> str:
    return "CAST(NULL AS DOUBLE)" if is_number(kind) else "CAST(NULL AS VARCHAR)"


def _as_number(column: str, kind: str) -> str:
    if kind == "DOUBLE":
        return column
    return f"CAST({column} AS DOUBLE)" if is_number(kind) else f"TRY_CAST({column} AS DOUBLE)"


def _as_text(column: str, kind: str) -> str:
    return column if kind == "VARCHAR" else f"CAST({column} AS VARCHAR)"


def _number_bin(value: str, at: int) -> str:
    """`Grid.index` of a number."""
    steps = f"floor(ln(1e0 + abs({value} - $center_{at}) / $scale_{at}) / {STEP:e} + 5e-1)"
    return (
        f"CASE WHEN {value} IS NULL THEN {MISSING} WHEN abs({value}) <= {LARGEST:e} "
        f"THEN CAST(CASE WHEN {value} >= $center_{at} THEN 1 ELSE -1 END * {steps} AS INTEGER) ELSE {NOT_FINITE} END"
    )


def _text_bin(value: str, at: int, categories: int) -> str:
    named = "".join(f" WHEN {value} = $text_{at}_{i} THEN {i}" for i in range(categories))
    return f"CASE WHEN {value} IS NULL THEN {MISSING}{named} ELSE {REST} END"
