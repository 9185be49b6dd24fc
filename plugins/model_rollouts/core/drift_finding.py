"""Which columns drifted, by the plan's limits: two profiles side by side, and chance taken into account.

A distance is drift when it is above its limit by more than what chance adds on average, and when chance alone would
make it so large at most `level` times, shared out over all limits of the report (Bonferroni). The first keeps small
differences of large logs from being called drift, the second large differences of small ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any

from model_rollouts.core.drift import (
    divergence_of_chance,
    js_distance,
    missing_difference,
    pooled,
    psi,
    psi_of_chance,
    quantile_bins,
    same_missing,
    same_shares,
    standard_deviation,
    wasserstein,
    wasserstein_of_chance,
)
from model_rollouts.core.drift_plan import Comparison, DriftLimits, DriftPlan, DriftRole
from model_rollouts.core.profile import ColumnProfile

LEAST_VALUES = 30  # of a column, a side: fewer can't tell drift from chance
BINS = 10  # quantile bins of the reference; fewer where a side has less than 100 values
_VALUES_A_BIN = 10
TOO_MANY = "it has too many different values to be compared; give it the role ignore, or more rows"
TITLES = {
    Comparison.TRAINING: "challenger's inputs against its training data",
    Comparison.BEFORE: "challenger's predictions against the champion's before",
    Comparison.CHAMPION: "challenger against champion",
}


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column of one comparison.

    Attributes:
        column: The log's name of it.
        role: What its drift does.
        rows: Rows of the reference and of the current side.
        values: Rows with a value, of both.
        psi: Population stability index over the reference's quantile bins, or categories; see core/drift.py. None
            where it is not known, as for the others.
        js: Jensen-Shannon distance over the same.
        wasserstein: Distance in standard deviations of the reference; None for text.
        missing: Share of rows without a finite value now, minus the reference's.
        psi_of_chance: What PSI is on average without drift, for so many values and bins.
        limits: From where on each is drift.
        exceeded: Names of those that are.
        problem: Why not everything that has a limit is known; empty where it is.
    """

    column: str
    role: DriftRole
    rows: tuple[int, int]
    values: tuple[int, int]
    limits: DriftLimits
    psi: float | None = None
    js: float | None = None
    wasserstein: float | None = None
    missing: float | None = None
    psi_of_chance: float | None = None
    exceeded: tuple[str, ...] = ()
    problem: str = ""

    @property
    def drifted(self) -> bool:
        """Whether a distance is drift."""
        return bool(self.exceeded)

    def summary(self) -> str:
        """The column with what exceeded its limit, or with why it is not known."""
        told = [f"{name} {getattr(self, name):.3g}, limit {getattr(self.limits, name):g}" for name in self.exceeded]
        return f"{self.column} ({'; '.join([*told, *([self.problem] if self.problem else [])])})"


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared.

    Attributes:
        reference: Its columns in counts.
        current: The same, counted by the same bins.
        columns: Which are compared, by the log's names.
        described: What the reference is, for a person.
    """

    reference: Mapping[str, ColumnProfile]
    current: Mapping[str, ColumnProfile]
    columns: Sequence[str]
    described: str


@dataclass(frozen=True, slots=True)
class ComparisonDrift:
    """One comparison: its columns, the drifted ones first, and those that neither side has any value of."""

    described: str
    columns: tuple[ColumnDrift, ...]
    without_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """All comparisons of a stage.

    Attributes:
        comparisons: By what is compared; those that nothing is known of are not there.
        state: "ok", "failed" where a column that holds drifted, "missing" where one can't be told of.
        detail: What there is to know, in one sentence for a person.
    """

    comparisons: Mapping[Comparison, ComparisonDrift]
    state: str
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "state": self.state,
            "detail": self.detail,
            "comparisons": {
                kind.value: {
                    "described": found.described,
                    "without_values": list(found.without_values),
                    "columns": {each.column: _told(each) for each in found.columns},
                }
                for kind, found in self.comparisons.items()
            },
        }


def find_drift(plan: DriftPlan, sides: Mapping[Comparison, Sides]) -> DriftFinding:
    """Compare everything that there is, and judge it by the plan.

    Args:
        plan: Limits and roles.
        sides: What is compared; what has no reference is left out, and is missing where the plan holds by it.
    """
    limits = sum(
        sum(getattr(plan.limits_of(column), f.name) is not None for f in fields(DriftLimits))
        for each in sides.values()
        for column in each.columns
        if plan.role_of(column) is not DriftRole.IGNORE
    )
    found = {kind: _compared(plan, each, plan.level / max(limits, 1)) for kind, each in sides.items()}
    return DriftFinding(found, *_judged(plan, found))


def compare_column(
    column: str,
    reference: ColumnProfile | None,
    current: ColumnProfile | None,
    limits: DriftLimits,
    role: DriftRole = DriftRole.REPORT,
    level: float = 0.01,
) -> ColumnDrift:
    """One column's distances, and whether they are drift.

    Args:
        column: Its name.
        reference: None where there is no such column.
        current: The same.
        limits: From where on each distance is drift.
        role: What its drift does.
        level: Bound on calling one of them drift where nothing drifted.
    """
    rows = (reference.rows if reference else 0, current.rows if current else 0)
    values = (reference.values if reference else 0, current.values if current else 0)
    known: dict[str, Any] = {"column": column, "role": role, "rows": rows, "values": values, "limits": limits}
    if reference is None or current is None:
        side = "current rows have" if reference else "reference has"
        return ColumnDrift(**known, problem=f"the {side} no such column")
    exceeded: list[str] = []
    if min(rows) >= LEAST_VALUES:
        gone = (rows[0] - values[0], rows[1] - values[1])
        known["missing"] = missing_difference(gone[0], rows[0], gone[1], rows[1])
        if limits.missing is not None and abs(known["missing"]) >= limits.missing:
            exceeded += ["missing"] if same_missing(gone[0], rows[0], gone[1], rows[1]) <= level else []
    if problem := _not_comparable(reference, current):
        return ColumnDrift(**known, exceeded=tuple(exceeded), problem=problem)
    before, now = pooled(*_binned(reference, current))
    known |= {"psi": psi(before, now), "js": js_distance(before, now)}
    known["psi_of_chance"] = psi_of_chance(len(before), *values)
    other_shares = (same_shares(before, now) or 0.0) <= level
    if limits.psi is not None and known["psi"] - known["psi_of_chance"] >= limits.psi and other_shares:
        exceeded.append("psi")
    beyond_chance = known["js"] ** 2 - divergence_of_chance(len(before), *values)
    if limits.js is not None and sqrt(max(beyond_chance, 0.0)) >= limits.js and other_shares:
        exceeded.append("js")
    problem = ""
    if reference.kind == "number":
        known["wasserstein"], far = _moved(reference, current, limits.wasserstein, level)
        exceeded += ["wasserstein"] if far else []
        if known["wasserstein"] is None and limits.wasserstein is not None and not exceeded:
            problem = "the reference is one number alone, which has no standard deviation to measure wasserstein by"
    return ColumnDrift(**known, exceeded=tuple(exceeded), problem=problem)


def _not_comparable(reference: ColumnProfile, current: ColumnProfile) -> str:
    """Why two sides have no distance, or nothing."""
    for side, column in (("reference", reference), ("current rows", current)):
        if column.values < LEAST_VALUES:
            return f"{column.values} values in the {column.rows:,} rows of the {side}, needed {LEAST_VALUES}"
    if reference.kind != current.kind:
        return "numbers on one side, text on the other"
    if reference.grid != current.grid:
        return "the sides are counted by different bins"
    before, now = _binned(reference, current)
    if reference.kind == "text" and 2 * before[-1] > sum(before) and 2 * now[-1] > sum(now):
        return TOO_MANY  # most of both sides is no category, and may be anything
    alike = sum(bool(a + b) for a, b in zip(before, now, strict=True)) == 1
    if len(pooled(before, now)[0]) == 1 and not alike:
        return TOO_MANY
    return ""


def _binned(reference: ColumnProfile, current: ColumnProfile) -> tuple[list[int], list[int]]:
    """Counts of both sides: by quantile bins of the reference, with one below it all and one above; or by category."""
    if reference.kind == "text":
        both = [text for text in reference.categories if text in current.categories]
        sides = []
        for column in (reference, current):
            counts = [column.categories[text] for text in both]
            sides.append([*counts, column.values - sum(counts)])
        return sides[0], sides[1]
    found = sorted(index for index, count in reference.counts.items() if count)
    bins = max(2, min(BINS, min(reference.values, current.values) // _VALUES_A_BIN))
    cuts = [found[at] for at in quantile_bins([reference.counts[index] for index in found], bins)]
    edges = [found[0] - 1, *cuts, found[-1]]
    return _between(reference, edges), _between(current, edges)


def _between(column: ColumnProfile, edges: Sequence[int]) -> list[int]:
    """Counts up to each edge, and beyond the last one."""
    ordered = sorted(column.counts.items())
    counts = [0] * (len(edges) + 1)
    at = 0
    for index, count in ordered:
        while at < len(edges) and index > edges[at]:
            at += 1
        counts[at] += count
    return counts


def _moved(
    reference: ColumnProfile, current: ColumnProfile, limit: float | None, level: float
) -> tuple[float | None, bool]:
    """Wasserstein distance in standard deviations of the reference, and whether it is drift."""
    if reference.grid is None:
        return None, False
    indices = sorted(set(reference.counts) | set(current.counts))
    positions = [reference.grid.position(index) for index in indices]
    before, now = ([column.counts.get(index, 0) for index in indices] for column in (reference, current))
    distance, unit = wasserstein(positions, before, now), standard_deviation(positions, before)
    if distance is None or (distance and not unit):
        return None, False
    if not unit:
        return 0.0, False  # all of both sides is one number
    mean, bound = wasserstein_of_chance(positions, before, now, level)
    return distance / unit, limit is not None and (distance - mean) / unit >= limit and distance > bound


def _compared(plan: DriftPlan, sides: Sides, level: float) -> ComparisonDrift:
    told, empty = [], []
    for column in sides.columns:
        role = plan.role_of(column)
        if role is DriftRole.IGNORE:
            continue
        reference, current = sides.reference.get(column), sides.current.get(column)
        each = compare_column(column, reference, current, plan.limits_of(column), role, level)
        if column not in plan.columns and min(each.rows) >= LEAST_VALUES and not any(each.values):
            empty.append(column)  # such as a score that no version gives
        else:
            told.append(each)
    told.sort(key=lambda each: (not each.drifted, not each.problem, each.column))
    return ComparisonDrift(sides.described, tuple(told), tuple(empty))


def _judged(plan: DriftPlan, found: Mapping[Comparison, ComparisonDrift]) -> tuple[str, str]:
    """State and detail. Drift of what holds goes before what is not known of it."""
    holding = plan.role is DriftRole.HOLD or any(rule.role is DriftRole.HOLD for rule in plan.columns.values())
    failed = missing = False
    told = []
    awaited = {column for column, rule in plan.columns.items() if rule.role is DriftRole.HOLD} if plan.holds else set()
    for kind in Comparison:
        result, judged = found.get(kind), holding and kind in plan.holds
        if result is None or not result.columns:
            missing = missing or judged
            if judged:
                told.append(f"{TITLES[kind]}: nothing to compare")
            continue
        if judged:
            awaited -= {each.column for each in result.columns}
            held = [each for each in result.columns if each.role is DriftRole.HOLD]
            failed = failed or any(each.drifted for each in held)
            missing = missing or any(each.problem for each in held)
        told.append(f"{TITLES[kind]}: {_sentence(result)}")
    if awaited:
        missing = True
        told.append(f"not in the log, and to be held by: {', '.join(sorted(awaited))}")
    state = "failed" if failed else "missing" if missing else "ok"
    return state, "; ".join(told) or "nothing to compare"


def _sentence(result: ComparisonDrift) -> str:
    drifted = [each.summary() for each in result.columns if each.drifted]
    unknown = [each.summary() for each in result.columns if each.problem and not each.drifted]
    text = f"{len(drifted)} of {len(result.columns)} columns drifted" + (f": {', '.join(drifted)}" if drifted else "")
    return text + (f"; not fully computed: {', '.join(unknown)}" if unknown else "")


def _told(each: ColumnDrift) -> dict[str, Any]:
    names = ("psi", "psi_of_chance", "js", "wasserstein", "missing", "drifted", "problem")
    return {
        "role": each.role.value,
        "rows": {"reference": each.rows[0], "current": each.rows[1]},
        "values": {"reference": each.values[0], "current": each.values[1]},
        **{name: getattr(each, name) for name in names},
        "exceeded": list(each.exceeded),
        "limits": {f.name: getattr(each.limits, f.name) for f in fields(DriftLimits)},
    }
