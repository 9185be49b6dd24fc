# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""Sums over pairs of a unit's requests, in DuckDB's SQL: from what units did in each look to `ClusterSums`.

What a unit did before a look takes a few sums, which can be carried from look to look instead of being read again. See
docs/adr/0025-carried-sums.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# What is added up over rows and units is made whole first, in billionths. Sums of floats differ in their last digit
# with the order of the rows, and a look that is counted again has to come out the same to the last digit.
PARTS = 10**9
CARRIED = "{carried}"
HALF = 32  # bits: sums that go beyond 64 bits are handed over in two halves


def whole(expression: str, parts: int) -> str:
    """A number as a whole number of its `parts`."""
    return f"CAST(round(({expression}) * {parts}) AS HUGEINT)"


def parts_of(expression: str, parts: int) -> str:
    """The sum of what `whole` made."""
    return f"CAST(sum({expression}) AS DOUBLE) / {parts}"


@dataclass(frozen=True, slots=True)
class LookQuery:
    """A query over all looks of a rollout, in parts, so that what it keeps between them can be carried on.

    Attributes:
        kept: The common table that the second half reads: sums by unit and look.
        tallies: Common tables from `judged`, the rows that count, up to `kept`.
        head: Common tables from the log up to `kept`.
        means: Common tables, from `kept`: what is known of a look only when all of its units are.
        mean: The last one of `means`.
        carry: Common tables, from `kept` and `means`, and a query for the sums by unit over looks from `$first` up to
            `$end`.
        carried: The columns of `carry`, and their types.
        keys: Those of them that it is grouped by; the others are added up when two are merged.
        sums: Common tables, from `chosen`, which are rows of `kept`, all those of some units, `means` and `{carried}`:
            the last one is `sums`, whole numbers for looks from `$fresh` on, which may be added up over units.
        by_class: `sums` in other steps, for all looks and with nothing carried. None: there are none.
        result: A query over `sums`.
        beside: Common tables that the second half reads too, and that are the same for all looks.
        head_of_few: `head` for a few looks among many; empty: it is the same.
        asked: The predictions that the head reads, for a few looks among many: made a table of, which is read in the
            place of the log. Empty: the log is read.
    """

    kept: str
    tallies: str
    head: str
    means: str
    mean: str
    carry: str
    carried: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    sums: str
    result: str
    beside: str = ""
    head_of_few: str = ""
    asked: str = ""
    by_class: "ByClass | None" = None

    @property
    def whole(self) -> str:
        """One text, for all looks from the first one, with nothing carried."""
        tables = [self.head, self.beside] if self.beside else [self.head]
        return f"WITH {', '.join(tables)}, {self.rest(self.nothing())}"

    def rest(self, carried: str) -> str:
        """From `kept` to the result, without the `WITH` before it.

        Args:
            carried: What stands for `{carried}`.
        """
        return (
            f"{self.means}, chosen AS (SELECT * FROM {self.kept}),{self.sums.replace(CARRIED, carried)} {self.result}"
        )

    def nothing(self, **kinds: str) -> str:
        """What stands for `{carried}` where nothing is carried.

        Args:
            **kinds: Types of columns that are others than in `carried`.
        """
        columns = ", ".join(f"CAST(NULL AS {kinds.get(name, kind)}) AS {name}" for name, kind in self.carried)
        return f"(SELECT {columns} WHERE false)"


@dataclass(frozen=True, slots=True)
class ByClass:
    """`LookQuery.sums` for all looks, with what units did before added up by `EarlierSums` in the place of a window.

    Attributes:
        classes: Common tables from `kept` and `means`: the last one is `classes`, with an `id` from 0.
        alike: Columns of `kept` that tell the class of a row, with its prefix, arm and look.
        sums: Columns of `classes` that are added up over a unit's earlier looks.
        result: Common tables from `classes` and from `halves`, the two halves of those sums by `id`: the last one is
            `of_looks`, rows of `sums`.
        new_units: Common tables from `chosen` and `{carried}`: the last one is `new_units`, more rows of `sums`. Empty:
            there are none.
    """

    classes: str
    alike: tuple[str, ...]
    sums: tuple[str, ...]
    result: str
    new_units: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A 0/1 metric of `tallies`.

    Attributes:
        name: What it is called in the result.
        n: Column with the requests that are judged.
        y: Column with those of them that are 1.
    """

    name: str
    n: str
    y: str


def cluster_query(
    rows: str,
    tallies: str,
    metrics: Sequence[Metric],
    new_units: bool,
    totals: Sequence[str] = (),
    rows_of_few: str = "",
    asked: str = "",
) -> LookQuery:
    """From `tallies` to sums over the pairs within a look, and over those of a look with all earlier ones.

    The result has a row for each prefix, arm and look: `prefix`, `arm`, `look`, then for each metric `judged`,
    `squares`, `products`, `scale` and `noise`.

    Args:
        rows: Common tables from the log, the last one being `judged`: the rows that count.
        tallies: Common tables from `judged`, the last one being `tallies`: `prefix`, `arm`, `look`, `unit`, `units`
            (how many such units the row stands for; 1 where the prefix is ''), the metrics' columns, and `since`, when
            the unit asked first in the look. Rows with a prefix have no pairs across looks, and no unit.
        metrics: What is judged.
        totals: Columns of `tallies` that the result has the sums of, after the metrics.
        rows_of_few: `rows` for a few looks among many; empty: it is the same.
        asked: As in `LookQuery`.
        new_units: Whether rows with the prefix `new` have the number of new units in the place of the first `judged`.
    """
    at = range(1, len(metrics) + 1)
    counts = list(dict.fromkeys(metric.n for metric in metrics))
    ones = [metric.y for metric in metrics]
    sums = [f"{kind}_{i}" for kind in ("residual", "deviation", "variance") for i in at]
    spreads, parts = _spreads(metrics)
    plain = dict.fromkeys([*counts, *ones, *totals])
    history = ", ".join([*plain, *sums])
    earlier = ",\n        ".join(
        f"coalesce(sum({name}) OVER earlier, 0) AS earlier_{name}" for name in (*counts, *sums)
    )
    earlier_names = [f"earlier_{name}" for name in (*counts, *sums)]
    known = ", ".join([*(name if name in counts else "0" for name in plain), *sums])
    asked_by = f"""
asked_by AS MATERIALIZED (
    SELECT arm, unit, count(*) AS looks, min(since) AS since, min(look) AS look, max(look) AS latest
    FROM chosen WHERE prefix = '' GROUP BY arm, unit
),
known AS MATERIALIZED (
    SELECT before.* FROM {CARRIED} AS before
    WHERE EXISTS (SELECT 1 FROM asked_by WHERE asked_by.unit = before.unit)
)"""
    zeros = ", 0" * (5 * len(metrics) + len(totals) - 1)
    of_looks = f"""
of_looks AS (
    SELECT every.prefix, every.arm, every.look,
        {_sums(metrics, totals)}
    FROM every JOIN spreads ON spreads.prefix = every.prefix AND spreads.arm = every.arm AND spreads.look = every.look
    GROUP BY every.prefix, every.arm, every.look
)"""
    over_looks = f"""
{parts.format(rows="chosen")},
{asked_by},
-- A unit that asks for nothing in the looks that are wanted has no new pairs.
come_back AS MATERIALIZED (
    SELECT arm, unit FROM asked_by WHERE looks > 1 AND latest >= $fresh
    UNION
    SELECT arm, unit FROM known
),
history AS (
    SELECT arm, look, unit, {history} FROM parts
    WHERE prefix = ''
        AND EXISTS (SELECT 1 FROM come_back WHERE come_back.arm = parts.arm AND come_back.unit = parts.unit)
    UNION ALL
    SELECT arm, -1 AS look, unit, {known} FROM known
),
grown AS (
    SELECT *,
        {earlier}
    FROM history
    WINDOW earlier AS (PARTITION BY arm, unit ORDER BY look ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
every AS (
    SELECT '' AS prefix, arm, look, 1 AS units, {history}, {", ".join(earlier_names)} FROM grown WHERE look >= $fresh
    UNION ALL
    SELECT prefix, arm, look, units, {history}, {", ".join("0" for _ in earlier_names)} FROM parts
    WHERE look >= $fresh AND (prefix <> ''
        OR NOT EXISTS (SELECT 1 FROM come_back WHERE come_back.arm = parts.arm AND come_back.unit = parts.unit))
),{of_looks}{_NEW.format(zeros=zeros) if new_units else ""},
sums AS (SELECT * FROM of_looks{" UNION ALL SELECT * FROM new_units" if new_units else ""})"""
    by_class = ByClass(
        sums=(*counts, *sums),
        alike=tuple(plain),
        classes=f"""
-- Units that did the same in a look are of one class, and there are few.
alike AS (
    SELECT prefix, arm, look, {", ".join(plain)}, CAST(sum(units) AS BIGINT) AS units,
        CAST(row_number() OVER () - 1 AS BIGINT) AS id
    FROM tallies GROUP BY prefix, arm, look, {", ".join(plain)}
),
{parts.format(rows="alike").replace("parts AS (", "classes AS (")}""",
        result=f"""
every AS (
    SELECT prefix, arm, look, units, {history},
        {", ".join(f"{_of_halves(name)} AS earlier_{name}" for name in (*counts, *sums))}
    FROM classes JOIN halves USING (id)
),{of_looks}""",
        new_units=f"{asked_by}{_NEW.format(zeros=zeros)}" if new_units else "",
    )
    carry = f"""
{spreads},
{parts.format(rows="tallies")}
SELECT arm, unit, {", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in (*counts, *sums))}
FROM parts WHERE prefix = '' AND look >= $first AND look < $end GROUP BY arm, unit
"""
    columns = (("arm", "VARCHAR"), ("unit", "VARCHAR"), *((name, "BIGINT") for name in (*counts, *sums)))
    few = f"{rows_of_few},{tallies}" if rows_of_few else ""
    return LookQuery(
        kept="tallies",
        tallies=tallies,
        head=f"{rows},{tallies}",
        means=spreads,
        mean="spreads",
        carry=carry,
        carried=columns,
        keys=("arm", "unit"),
        sums=over_looks,
        by_class=by_class,
        result=f"SELECT prefix, arm, look,\n        {_result(metrics, totals)}\nFROM sums GROUP BY prefix, arm, look",
        head_of_few=few,
        asked=asked,
    )


# Of first rows of one time the challenger's is the first, so that the count is the same each time.
_NEW = """,
firsts AS (
    SELECT unit, arg_min(arm, struct_pack(since, arm, look)) AS arm,
        arg_min(look, struct_pack(since, arm, look)) AS look
    FROM asked_by WHERE NOT EXISTS (SELECT 1 FROM known WHERE known.unit = asked_by.unit)
    GROUP BY unit
),
new_units AS (SELECT 'new', arm, look, count(*){zeros} FROM firsts WHERE look >= $fresh GROUP BY arm, look)"""


def _spreads(metrics: Sequence[Metric]) -> tuple[str, str]:
    """Common tables `spreads` (of each look: total, mean and variance) and `parts` (of units of `{rows}`, less it)."""
    each = list(enumerate(metrics, start=1))
    totals = ",\n        ".join(
        f"sum(units * {m.n}) AS total_{i}, sum(units * {m.y}) / nullif(sum(units * {m.n}), 0) AS mean_{i}"
        for i, m in each
    )
    spreads = ",\n        ".join(
        f"CASE WHEN total_{i} > 1 THEN mean_{i} * (1 - mean_{i}) * total_{i} / (total_{i} - 1) ELSE 0 END AS spread_{i}"
        for i, _ in each
    )
    parts = ",\n        ".join(
        f"{_bigint(f'{m.y} - {m.n} * mean_{i}')} AS residual_{i}, {_bigint(f'{m.n} * sqrt(spread_{i})')} "
        f"AS deviation_{i}, {_bigint(f'{m.n} * spread_{i}')} AS variance_{i}"
        for i, m in each
    )
    return (
        f"""
totals AS (
    SELECT prefix, arm, look,
        {totals}
    FROM tallies GROUP BY prefix, arm, look
),
spreads AS MATERIALIZED (
    SELECT *,
        {spreads}
    FROM totals
)""",
        f"""
parts AS (
    SELECT {{rows}}.*,
        {parts}
    FROM {{rows}} JOIN spreads
        ON spreads.prefix = {{rows}}.prefix AND spreads.arm = {{rows}}.arm AND spreads.look = {{rows}}.look
)""",
    )


def _bigint(expression: str) -> str:
    return f"CAST(coalesce({whole(expression, PARTS)}, 0) AS BIGINT)"


def _sums(metrics: Sequence[Metric], totals: Sequence[str]) -> str:
    """From `every`: its `earlier_` columns are sums over all the units that a row stands for, the others are alike."""
    lines = []
    for i, metric in enumerate(metrics, start=1):
        n, y, mean, spread = metric.n, metric.y, f"mean_{i}", f"spread_{i}"
        # The square of a residual sum holds each request with itself, which is no pair.
        alone = f"{y} * (1 - {mean}) * (1 - {mean}) + ({n} - {y}) * {mean} * {mean}"
        no_pairs = whole(f"{n} * ({n} - 1) * {spread} / nullif(total_{i}, 0) - ({alone})", PARTS**2)
        within = {
            "residual": f"{_wide(f'residual_{i}')} * residual_{i} + coalesce({no_pairs}, 0)",
            "deviation": whole(f"{n} * ({n} - 1) * {spread}", PARTS**2),
            "variance": whole(f"{n} * ({n} - 1) * {spread} * {spread}", PARTS**2),
        }
        lines += [
            f"sum(units * {n}) AS judged_{i}",
            f"sum(2 * {_wide(f'earlier_{n}')} * {n} + units * ({_wide(n)} * {n})) AS squares_{i}",
        ]
        for kind, name in (("residual", "products"), ("deviation", "scale"), ("variance", "noise")):
            across = f"2 * {_wide(f'earlier_{kind}_{i}')} * {kind}_{i}"
            lines.append(f"sum({across} + units * ({within[kind]})) AS {name}_{i}")
    lines += [f"sum(units * {name}) AS all_{name}" for name in totals]
    return ",\n        ".join(lines)


def _result(metrics: Sequence[Metric], totals: Sequence[str]) -> str:
    lines = []
    for i in range(1, len(metrics) + 1):
        lines += [f"sum({name}_{i}) AS {name}_{i}" for name in ("judged", "squares")]
        lines += [f"{parts_of(f'{name}_{i}', PARTS**2)} AS {name}_{i}" for name in ("products", "scale", "noise")]
    lines += [f"sum(all_{name}) AS all_{name}" for name in totals]
    return ",\n        ".join(lines)


def _wide(column: str) -> str:
    """A column whose products may be too large for 64 bits."""
    return f"CAST({column} AS HUGEINT)"


def _of_halves(name: str) -> str:
    """A sum that was handed over in two halves, as one whole number."""
    return f"{_wide(f'{name}_high')} * {2**HALF} + {name}_low"
