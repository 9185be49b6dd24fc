"""What the prediction log says about units, pairs of answers and business values, and about the time before a rollout.

Queries that add up over the looks of a rollout take all of its looks, from the first one. What a unit did before is
read again each time, or carried from look to look by a log that has a `UnitCarry`: the numbers are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, TypeVar

from model_rollouts.adapters.carried_looks import LooksAsked, Tables, carried_rows
from model_rollouts.adapters.delta_cluster_queries import LookQuery
from model_rollouts.adapters.delta_files import LogReadError, run
from model_rollouts.adapters.delta_queries import (
    REPEAT,
    REPEAT_SECONDS,
    look_parameters,
    microseconds,
    outcome_parameters,
    outcome_span,
    span,
)
from model_rollouts.adapters.delta_unit_queries import (
    BASELINE,
    LABEL_EVIDENCE,
    PAIR_CLUSTERS,
    PAIR_COUNTS,
    SAME_NUMBER,
    SAME_TEXT,
    UNIT_COUNTS,
)
from model_rollouts.adapters.delta_value_queries import VALUE_SUMS
from model_rollouts.adapters.log_places import EngineLog, LogPlace, LogRoot, QueryResult, log_table
from model_rollouts.adapters.unit_carry import UnitCarry
from model_rollouts.core.baseline import Baseline
from model_rollouts.core.evidence import LATENCY_BINS, LATENCY_FLOOR_MS, LATENCY_RATIO, ArmLabels, LabelCounts
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, UnitCounts, ValueSums
from model_rollouts.ports import StageWindow, Window

_RATES = ("error_rate", "latency_p50", "latency_p95", "latency_p99")
UNIT_METRICS = (*_RATES, *(f"call_{metric}" for metric in _RATES))
_LATENCY = {"floor": LATENCY_FLOOR_MS, "ratio": LATENCY_RATIO, "bins": LATENCY_BINS}
_NOTHING = ClusterSums()

Numbers = TypeVar("Numbers")


class DeltaUnitLog:
    """Evidence of units. A model without a table has no rows; a broken table is an error.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
        carry: Where what units did in looks that are closed is kept; none: it is read again for each look. Logs that
            are asked by another engine don't use it.
    """

    def __init__(self, root: LogRoot, carry: UnitCarry | None = None) -> None:
        self.root = root
        # A log whose rows are seen in another light has none: what is carried is read as it is logged.
        seen_as_it_is = type(self)._run is DeltaUnitLog._run and not isinstance(root, EngineLog)
        self._carry = carry if seen_as_it_is else None

    def unit_counts(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int
    ) -> list[tuple[UnitCounts, UnitCounts]]:
        """(champion, challenger) for each of `windows[fresh:]`, in order; zeros where there are no rows.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All closed looks of the rollout in order of time, from its first one.
            fresh: The first position to give results for.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The windows are not in order, overlap within a stage, or `fresh` is outside of them.
        """
        rows = self._looks(UNIT_COUNTS, model, rollout_id, windows, fresh, dict(_LATENCY))
        new = {(at, arm): int(n) for prefix, arm, at, n, *_ in rows if prefix == "new"}
        sums = _cluster_sums([row for row in rows if row[0] != "new"], _RATES)

        def counts(at: int, arm: str) -> UnitCounts:
            clusters = {metric: sums.get((metric, arm, at), _NOTHING) for metric in UNIT_METRICS}
            return UnitCounts(new.get((at, arm), 0), clusters)

        return _by_arm(counts, windows, fresh)

    def label_evidence(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int, maturity: timedelta
    ) -> list[tuple[ArmLabels, ArmLabels]]:
        """(champion, challenger) for each of `windows[fresh:]`, in order: labels as known now; zeros without rows.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All matured looks of the rollout in order of time, from its first one.
            fresh: The first position to give results for.
            maturity: A label counts up to this long after its request, that time included.

        Raises:
            LogReadError: The log can't be read.
            ValueError: As for `unit_counts`, or the maturity is negative.
        """
        rows = self._looks(LABEL_EVIDENCE, model, rollout_id, windows, fresh, {}, maturity)
        sums = _cluster_sums(rows, ("label",))
        found = {
            (arm, at): ArmLabels(LabelCounts(int(due), int(labelled), int(wrong)), sums["label", arm, at])
            for _, arm, at, labelled, *_, due, wrong in rows
        }
        return _by_arm(lambda at, arm: found.get((arm, at), ArmLabels()), windows, fresh)

    def pair_counts(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window], tolerance: float | None
    ) -> list[PairCounts]:
        """Requests that both versions answered, for each window of the champion's answers, in order.

        The challenger's answer is its first one less than `REPEAT_SECONDS` away from the champion's.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            windows: The looks.
            tolerance: The most that two answers that agree may differ by, as numbers; None: they agree as texts.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The tolerance is no finite number or negative.
        """
        _check_tolerance(tolerance)
        if not windows:
            return []
        start, end = span(windows)
        parameters = look_parameters(rollout_id, [StageWindow(stage, window) for window in windows]) | {"stage": stage}
        if tolerance is not None:
            parameters["tolerance"] = tolerance
        tables = {"predictions": (log_table(self.root, model, "predictions"), start, end + REPEAT)}
        result = self._run(PAIR_COUNTS % (SAME_TEXT if tolerance is None else SAME_NUMBER), tables, parameters)
        found = {at: PairCounts(*counts) for at, *counts in (result.fetchall() if result else [])}
        return [found.get(at, PairCounts()) for at in range(len(windows))]

    def pair_clusters(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int, tolerance: float | None
    ) -> list[ClusterSums]:
        """Repeat requests of units among the pairs of `pair_counts`, for each of `windows[fresh:]`, in order.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All closed looks of the rollout in order of time, from its first one.
            fresh: The first position to give results for.
            tolerance: As for `pair_counts`.

        Raises:
            LogReadError: The log can't be read.
            ValueError: As for `unit_counts` and `pair_counts`.
        """
        _check_tolerance(tolerance)
        given = {} if tolerance is None else {"tolerance": tolerance}
        same = SAME_TEXT if tolerance is None else SAME_NUMBER
        query = replace(PAIR_CLUSTERS, head=PAIR_CLUSTERS.head % same)
        # As `pair_counts`: an answer a moment after the last look may be the other one of a pair.
        rows = self._looks(query, model, rollout_id, windows, fresh, given, beyond=REPEAT)
        sums = _cluster_sums(rows, ("pair",))
        return [sums.get(("pair", "challenger", at), _NOTHING) for at in range(fresh, len(windows))]

    def value_sums(
        self,
        model: str,
        rollout_id: str,
        windows: Sequence[StageWindow],
        fresh: int,
        maturity: timedelta,
        prior: tuple[datetime, datetime],
    ) -> list[ValueSums]:
        """Business values for each of `windows[fresh:]`, in order; zeros where there are no rows.

        Only answers that the caller got are due. A value that is no finite number, or beyond +-1e9, is missing.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All matured looks of the rollout in order of time, from its first one.
            fresh: The first position to give results for.
            maturity: A value counts up to this long after its request.
            prior: Time before the rollout, [start, end), that tells what a unit was worth then.

        Raises:
            LogReadError: The log can't be read.
            ValueError: As for `label_evidence`, or the prior time ends before it starts or within the looks.
        """
        start, end = prior
        if start > end or (windows and end > windows[0].window.start):
            first = windows[0].window.start.isoformat() if windows else "any look"
            raise ValueError(
                f"prior time is {start.isoformat()} to {end.isoformat()}, must end at {first} or before, and not "
                "before it starts: values from within the rollout would hide its effect"
            )
        given = {"prior_low": microseconds(start), "prior_high": microseconds(end)}
        rows = self._looks(VALUE_SUMS, model, rollout_id, windows, fresh, given, maturity, prior)
        found = {(at, arm): numbers for at, arm, *numbers in rows}
        looks: list[ValueSums] = []
        for at in range(fresh, len(windows)):
            parts: dict[str, Any] = {}
            for arm in ("champion", "challenger"):
                if (at, arm) in found:
                    due, n, y, x, units, *_ = found[at, arm]
                    parts |= {f"{arm}_due": due, f"{arm}_n": n, f"{arm}_y": y, f"{arm}_x": x, f"{arm}_units": units}
            if (at, None) in found:  # what goes over both arms
                parts |= dict(zip(("yy", "xy", "xx"), found[at, None][-3:], strict=True))
            try:
                looks.append(ValueSums(**parts))
            except ValueError as error:
                raise LogReadError(f"values of {model} in look {at} of {rollout_id}: {error}") from error
        return looks

    def baseline(self, model: str, version: str, start: datetime, end: datetime, maturity: timedelta) -> Baseline:
        """What a version did as champion in [start, end), in or out of rollouts. Values are as in `value_sums`.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The end is not after the start, or the maturity is negative.
        """
        if end <= start:
            raise ValueError(f"end is {end.isoformat()}, must be after the start ({start.isoformat()})")
        low = start - REPEAT
        tables = {
            "predictions": (log_table(self.root, model, "predictions"), low, end),
            "outcomes": (log_table(self.root, model, "outcomes"), *outcome_span(start, end, maturity)),
        }
        parameters = {
            "version": version,
            "start": microseconds(start),
            "low": microseconds(low),
            "high": microseconds(end),
            "repeat": REPEAT_SECONDS * 1_000_000,
        }
        result = run(BASELINE, tables, parameters | _LATENCY | outcome_parameters(maturity))
        numbers = result.fetchall()[0] if result else (0, 0, 0, None, 0, 0, 0, 0, None, None)
        requests, errors, units, first, due, labelled, wrong, valued, mean, sd = numbers
        # A log that began within the span tells the traffic from then on. A moment is no span: at least a second.
        since = microseconds(start) if first is None else max(first, microseconds(start))
        seconds = max((microseconds(end) - since) / 1e6, 1.0)
        try:
            return Baseline(requests, errors, seconds, due, labelled, wrong, units, valued, mean, sd)
        except ValueError as error:
            raise LogReadError(f"baseline of {model} version {version}: {error}") from error

    # --- inside

    def _looks(
        self,
        query: LookQuery,
        model: str,
        rollout_id: str,
        windows: Sequence[StageWindow],
        fresh: int,
        given: dict[str, Any],
        maturity: timedelta | None = None,
        prior: tuple[datetime, datetime] | None = None,
        beyond: timedelta = timedelta(0),
    ) -> list[tuple[Any, ...]]:
        """Run a query over all looks; with outcomes if there is a maturity, and with a time before them if given."""
        _check_order(windows, fresh)
        matured = {} if maturity is None else outcome_parameters(maturity)
        if fresh == len(windows):
            return []

        def tables(start: datetime, end: datetime) -> Tables:
            found: dict[str, tuple[LogPlace, datetime, datetime]] = {
                "predictions": (log_table(self.root, model, "predictions"), start, end + beyond)
            }
            if maturity is not None:
                found["outcomes"] = (log_table(self.root, model, "outcomes"), *outcome_span(start, end, maturity))
            return found

        def source(first: int) -> tuple[Tables, dict[str, Any]]:
            looks = windows[first:]
            parameters = look_parameters(rollout_id, looks, first) | given | matured
            return tables(*span([look.window for look in looks])), parameters | {"fresh": fresh}

        if self._carry is not None and fresh > 0:
            looks = [
                (w.stage, w.window.index, microseconds(w.window.start), microseconds(w.window.end)) for w in windows
            ]
            about = (model, rollout_id, sorted((given | matured).items()))
            beside = None if prior is None else (tables(prior[0] - REPEAT, prior[1]), source(0)[1])
            rows = carried_rows(self._carry, LooksAsked(query, about, looks, fresh, source, beside))
            if rows is not None:
                return rows
        start, end = span([look.window for look in windows])
        read_from = start if prior is None else min(start, prior[0] - REPEAT)
        result = self._run(query.whole, tables(read_from, end), source(0)[1])
        return result.fetchall() if result else []

    def _run(
        self, sql: str, tables: Mapping[str, tuple[LogPlace, datetime, datetime]], parameters: Mapping[str, Any]
    ) -> QueryResult | None:
        """Run a query about looks; a log whose rows are to be seen in another light has its own."""
        return run(sql, tables, parameters)


def _check_tolerance(tolerance: float | None) -> None:
    if tolerance is not None and not (isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}, must be a finite number of at least 0, or None")


def _check_order(windows: Sequence[StageWindow], fresh: int) -> None:
    if not 0 <= fresh <= len(windows):
        raise ValueError(f"fresh is {fresh}, must be between 0 and {len(windows)} (the number of looks)")
    ends: dict[int, datetime] = {}
    latest: datetime | None = None
    for at, (stage, window) in enumerate((w.stage, w.window) for w in windows):
        before = max(filter(None, (latest, ends.get(stage))), default=window.start)
        if window.start < before:
            raise ValueError(
                f"look {at} (stage {stage}) begins at {window.start.isoformat()}, must not begin before "
                f"{before.isoformat()}: looks are in order of time and those of one stage do not overlap"
            )
        ends[stage], latest = window.end, window.start


def _by_arm(
    make: Callable[[int, str], Numbers], windows: Sequence[StageWindow], fresh: int
) -> list[tuple[Numbers, Numbers]]:
    return [(make(at, "champion"), make(at, "challenger")) for at in range(fresh, len(windows))]


def _cluster_sums(rows: Sequence[tuple[Any, ...]], metrics: Sequence[str]) -> dict[tuple[str, str, int], ClusterSums]:
    """By metric, arm and look."""
    found = {}
    for prefix, arm, at, *numbers in rows:
        for i, metric in enumerate(metrics):
            judged, squares, *sums = numbers[5 * i : 5 * i + 5]
            found[f"{prefix}{metric}", arm, at] = ClusterSums(int(judged), int(squares), *map(float, sums))
    return found
