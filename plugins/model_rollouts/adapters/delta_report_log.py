"""What reports ask the prediction log: the pairs of a shadow stage and the units of an A/B stage, over all rows.

A table is made of the rows once, and many small questions are asked of it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters import delta_ab_queries, delta_pair_queries
from model_rollouts.adapters.delta_files import LogReadError, columns_of, run_local
from model_rollouts.adapters.delta_queries import (
    REPEAT,
    REPEAT_SECONDS,
    microseconds,
    outcome_parameters,
    outcome_span,
)
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.log_places import LogPlace, LogRoot, log_table
from model_rollouts.adapters.report_facts import ArmUnits, Disagreement, Moments, Numbers, Pairs, Slice
from model_rollouts.core.evidence import LATENCY_BINS, LATENCY_FLOOR_MS, LATENCY_RATIO

if TYPE_CHECKING:
    import duckdb

MOST_COLUMNS = 60
MOST_VALUES = 12
MOST_DISAGREEMENTS = 20
_NUMBER = "DOUBLE"


class DeltaReportLog:
    """Reads what reports show. A model without a table has no rows; a broken table is an error.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
    """

    def __init__(self, root: LogRoot) -> None:
        self.root = root

    def pairs(
        self, model: str, rollout_id: str, stage: int, start: datetime, end: datetime, tolerance: float | None
    ) -> Pairs:
        """The pairs of a stage whose champion's answers are in [start, end), and what they have in common.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            start: UTC.
            end: UTC.
            tolerance: The most that two answers that agree may differ by, as numbers; None: they agree as texts.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The tolerance is no finite number or negative.
        """
        where = log_table(self.root, model, "predictions"), start - REPEAT, end + REPEAT
        of_stage = {"rollout": rollout_id, "stage": stage, "start": microseconds(start), "high": microseconds(end)}
        given = of_stage | {"low": microseconds(start - REPEAT), "repeat": REPEAT_SECONDS * 1_000_000}
        return self._pairs(
            model,
            where,
            tolerance,
            (delta_pair_queries.pairs_table, given),
            (delta_pair_queries.WITHOUT_CHAMPION, of_stage),
        )

    def offline_pairs(
        self,
        model: str,
        rollout_id: str,
        stage: int,
        champion: str,
        start: datetime,
        end: datetime,
        tolerance: float | None,
    ) -> Pairs:
        """The pairs of an offline stage: the champion's logged answers that the challenger was asked for too.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            champion: The version whose answers they are.
            start: When the first of them may have been given, UTC.
            end: Now, UTC: the challenger's answers are read up to it.
            tolerance: As for `pairs`.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The tolerance is no finite number or negative.
        """
        where = log_table(self.root, model, "predictions"), start, end + REPEAT  # a batch is a moment ahead at most
        given = {
            "rollout": rollout_id,
            "stage": stage,
            "version": champion,
            "low": microseconds(start),
            "high": microseconds(end),
        }
        return self._pairs(
            model,
            where,
            tolerance,
            (delta_pair_queries.offline_pairs_table, given),
            (delta_pair_queries.OFFLINE_WITHOUT_CHAMPION, given),
        )

    def arm_units(
        self,
        model: str,
        rollout_id: str,
        stage: int,
        start: datetime,
        end: datetime,
        maturity: timedelta,
        prior: tuple[datetime, datetime],
    ) -> ArmUnits:
        """The units of a stage that asked in [start, end), with what is known of them at its end.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            start: UTC.
            end: UTC. An answer is due a label and a value when it is `maturity` old by then.
            maturity: A label or value counts up to this long after its request.
            prior: Time before the rollout, [start, end), that tells what a unit was worth then.

        Raises:
            LogReadError: The log can't be read.
            ValueError: The maturity is negative, or the prior time ends after `start` or before it begins.
        """
        prior_start, prior_end = prior
        if not prior_start <= prior_end <= start:
            raise ValueError(
                f"prior time is {prior_start.isoformat()} to {prior_end.isoformat()}, must end at {start.isoformat()} "
                "or before, and not before it starts: values from within the stage would hide its effect"
            )
        read_from = min(start, prior_start) - REPEAT
        tables = {
            "predictions": (log_table(self.root, model, "predictions"), read_from, end),
            "outcomes": (log_table(self.root, model, "outcomes"), *outcome_span(read_from, end, maturity)),
        }
        given = {
            "rollout": rollout_id,
            "stage": stage,
            "start": microseconds(start),
            "low": microseconds(start - REPEAT),
            "high": microseconds(end),
            "repeat": REPEAT_SECONDS * 1_000_000,
            "prior_low": microseconds(prior_start),
            "prior_high": microseconds(prior_end),
            "floor": LATENCY_FLOOR_MS,
            "ratio": LATENCY_RATIO,
            "bins": LATENCY_BINS,
        }
        made = run_local(delta_ab_queries.UNITS_TABLE, tables, given | outcome_parameters(maturity))
        if made is None:
            return ArmUnits(0, 0, 0, 0, 0, {})
        table = _Table(made, model)
        moments = {
            at_least_one: {
                arm: _moments(units, with_prior, means, covariances)
                for arm, units, with_prior, means, covariances in table.rows(delta_ab_queries.MOMENTS % at_least_one)
            }
            for at_least_one in ("requests", "due", "valued", "labelled")
        }
        units, exposed, requests, requests_exposed, errors = table.rows(delta_ab_queries.EXPOSURE)[0]
        return ArmUnits(units, exposed, requests, requests_exposed, errors, moments)

    def _pairs(
        self,
        model: str,
        where: tuple[LogPlace, datetime, datetime],
        tolerance: float | None,
        pairs: tuple[Callable[[Sequence[str], float | None], str], Mapping[str, Any]],
        without_champion: tuple[str, Mapping[str, Any]],
    ) -> Pairs:
        if tolerance is not None and not (isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"tolerance is {tolerance}, must be a finite number of at least 0, or None")
        tables = {"predictions": where}
        described = columns_of(*where)
        if described is None:
            return Pairs(0, 0, 0, 0, 0, 0, 0, 0)
        columns = sorted(column for column in described if column[0].startswith(FEATURE_PREFIX))
        kept, left_out = columns[:MOST_COLUMNS], columns[MOST_COLUMNS:]
        make, given = pairs
        given = given if tolerance is None else {**given, "tolerance": tolerance}
        made = run_local(make([name for name, _ in kept], tolerance), tables, given)
        alone = run_local(without_champion[0], tables, without_champion[1])
        if made is None or alone is None:
            raise LogReadError(f"files of the log of {model} were there and are gone; read again")
        table = _Table(made, model)
        asked, failed, paired, agreed, timeouts, errors, units = table.rows(delta_pair_queries.COUNTS)[0]
        frequent = table.rows(delta_pair_queries.DISAGREEMENTS, {"most": MOST_DISAGREEMENTS})
        latencies = {
            "champion": _numbers(table.rows(delta_pair_queries.distribution("latency_ms"))[0]),
            "challenger": _numbers(table.rows(delta_pair_queries.distribution("their_latency_ms"))[0]),
            "difference": _numbers(table.rows(delta_pair_queries.differences("latency_ms", "their_latency_ms"))[0]),
        }
        return Pairs(
            asked,
            failed,
            paired,
            agreed,
            timeouts,
            errors,
            units,
            without_champion=alone.fetchall()[0][0],
            disagreements=tuple(Disagreement(*row[:4]) for row in frequent),
            disagreement_kinds=frequent[0][4] if frequent else 0,
            score=_numbers(table.rows(delta_pair_queries.differences("score", "their_score"))[0]),
            latency_ms={name: numbers for name, numbers in latencies.items() if numbers},
            slices=tuple(part for at, (name, kind) in enumerate(kept) for part in table.slices(f"c{at}", name, kind)),
            columns=len(kept),
            columns_left_out=tuple(name[len(FEATURE_PREFIX) :] for name, _ in left_out),
        )


class _Table:
    """A table that was made of the log, on the connection that made it."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", model: str) -> None:
        self._connection = connection
        self._model = model

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            return self._connection.execute(sql, dict(parameters or {})).fetchall()
        except duckdb.Error as error:
            raise LogReadError(f"query over the log of {self._model}: {error}") from error

    def slices(self, column: str, name: str, kind: str) -> list[Slice]:
        feature = name[len(FEATURE_PREFIX) :]
        if kind == _NUMBER:
            found = [
                Slice(feature, _range(low, high) if what == "range" else f"({what})", pairs, agreed)
                for what, low, high, pairs, agreed in self.rows(delta_pair_queries.quartiles(column))
            ]
        else:
            names = {"other": "(other values)", "null": "(null)"}
            found = [
                Slice(feature, names.get(what, label), pairs, agreed)
                for what, label, pairs, agreed in self.rows(
                    delta_pair_queries.categories(column), {"most": MOST_VALUES}
                )
            ]
        return found


def _range(low: float, high: float) -> str:
    return f"{low:,.6g}" if low == high else f"{low:,.6g} to {high:,.6g}"


def _numbers(row: Sequence[Any]) -> Numbers | None:
    count, mean, mean_size, largest, quantiles = row
    if not count or not all(isfinite(each) for each in (mean, mean_size, largest, *quantiles)):
        return None
    return Numbers(count, mean, mean_size, largest, dict(zip(delta_pair_queries.QUANTILES, quantiles, strict=True)))


def _moments(units: int, with_prior: int, means: Sequence[float], covariances: Sequence[float | None]) -> Moments:
    by_pair = zip(delta_ab_queries.PAIRS, covariances, strict=True)
    return Moments(
        units,
        with_prior,
        dict(zip(delta_ab_queries.COLUMNS, means, strict=True)),
        {pair: covariance for pair, covariance in by_pair if covariance is not None},
    )
