"""The log's word on a version that serves: what can be monitored of it, and how it does. Implements `MonitoringLog`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from model_rollouts.adapters.delta_files import LogReadError, columns_of, run
from model_rollouts.adapters.delta_monitoring_queries import feature_count, monitored
from model_rollouts.adapters.delta_queries import (
    REPEAT,
    REPEAT_SECONDS,
    microseconds,
    outcome_parameters,
    outcome_span,
)
from model_rollouts.adapters.log_places import LogRoot, log_table
from model_rollouts.core.evidence import LATENCY_BINS, LATENCY_FLOOR_MS, LATENCY_RATIO
from model_rollouts.core.intervals import Grouped, design_effect, mean_error
from model_rollouts.core.monitoring import MonitoredCounts


class DeltaMonitoringLog:
    """Counts a version's answers as champion. A model without a table has none; a broken table is an error.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
    """

    def __init__(self, root: LogRoot) -> None:
        self.root = root

    def monitored(
        self, model: str, version: str, start: datetime, end: datetime, maturity: timedelta
    ) -> MonitoredCounts:
        """One version's answers as champion in [start, end), in or out of rollouts.

        Requests with cohort `champion` count, and those outside of any rollout. Failed ones count though no caller got
        an answer, as do the control requests at a share of 100. A label or value is due when its request is `maturity`
        old at the end, and counts up to then.

        Args:
            model: Registered model name.
            version: Its number, as text.
            start: First time, UTC.
            end: Time after the last, UTC.
            maturity: Age at which a label is due.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The end is not after the start, or the maturity is negative.
        """
        if end <= start:
            raise ValueError(f"end is {end.isoformat()}, must be after the start ({start.isoformat()})")
        low = start - REPEAT
        predictions = (log_table(self.root, model, "predictions"), low, end)
        outcomes = (log_table(self.root, model, "outcomes"), *outcome_span(start, end, maturity))
        parameters = {
            "version": version,
            "start": microseconds(start),
            "low": microseconds(low),
            "high": microseconds(end),
            "repeat": REPEAT_SECONDS * 1_000_000,
            "floor": LATENCY_FLOOR_MS,
            "ratio": LATENCY_RATIO,
            "bins": LATENCY_BINS,
        } | outcome_parameters(maturity)
        columns = columns_of(*predictions)
        if columns is None:
            return MonitoredCounts()
        # A file that is written between the two queries can only add columns.
        result = run(monitored(columns), {"predictions": predictions, "outcomes": outcomes}, parameters)
        if result is None:
            return MonitoredCounts()
        try:
            return _counts(result.fetchall(), feature_count(columns))
        except ValueError as error:
            raise LogReadError(f"what the log tells of {model} version {version}: {error}") from error


def _counts(rows: Sequence[Sequence[Any]], features: int) -> MonitoredCounts:
    parts = {part: numbers for part, _, *numbers in rows if part != "bins"}
    latency = {at: int(n) for part, at, n, *_ in rows if part == "bins"}
    requests, errors, with_status, answered, timed, featured, units, seconds, days = parts["requests"]
    labelled, wrong, half, most, *_ = parts["labels"]
    due, value_due, valued, mean, *_ = parts["values"]
    sums = {part: _grouped(numbers[:6]) for part, numbers in parts.items() if part.endswith(("_unit", "_call"))}
    return MonitoredCounts(
        requests=int(requests),
        errors=int(errors),
        with_status=int(with_status),
        answered=int(answered),
        timed=int(timed),
        latency=latency,
        features=features,
        featured=int(featured),
        units=int(units),
        seconds=seconds,
        days=int(days),
        due=int(due),
        labelled=int(labelled),
        wrong=int(wrong),
        label_delay_p50=half,
        label_delay_p95=most,
        value_due=int(value_due),
        valued=int(valued),
        value_mean=mean,
        value_error=mean_error(sums["value_unit"]),
        error_effect=max(design_effect(sums["error_unit"]), design_effect(sums["error_call"])),
        slow_effect=max(design_effect(sums["slow_unit"]), design_effect(sums["slow_call"])),
        wrong_effect=design_effect(sums["wrong_unit"]),
    )


def _grouped(sums: Sequence[float | None]) -> Grouped:
    """Sums over no groups at all are null."""
    rows, hits, rows_rows, rows_hits, hits_hits, groups = (each or 0.0 for each in sums)
    return Grouped(rows, hits, rows_rows, rows_hits, hits_hits, int(groups))
