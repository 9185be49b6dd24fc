"""Two versions compared on a team's own table over a period, as a stage of a rollout that never was."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from model_rollouts.adapters.batch_mapping import BatchMapping
from model_rollouts.adapters.comparison import ComparisonResult, write_comparison
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.adapters.mapped_log import ROLLOUT, STAGE, MappedLog
from model_rollouts.core.decision import Decision, decide
from model_rollouts.core.default_gates import default_gates
from model_rollouts.core.errors import RolloutError
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.rollout import Rollout, State
from model_rollouts.looks import due_looks

_LOOKS = 48  # of a period; at least
_LONGEST_LOOK, _SHORTEST_LOOK = 86_400.0, 0.5
_EVEN, _BOTH = 50.0, 0.0


def compare_batch(
    log: MappedLog,
    versions: tuple[str, str],
    period: tuple[datetime, datetime],
    maturity: timedelta,
    now: datetime,
    out_dir: Path,
) -> tuple[Decision, ComparisonResult]:
    """Count, judge and write down how a challenger did beside a champion.

    The gates are a canary's, but for what the table does not tell: without labels accuracy is not judged, without
    latencies neither are they. How requests were dealt is not judged.

    Args:
        log: The team's tables.
        versions: Champion and challenger.
        period: Requests of [start, end), UTC.
        maturity: A label counts up to this long after its request, and is due then.
        now: UTC.
        out_dir: Gets `comparison.json`, `.html` and `.csv`.

    Raises:
        RolloutError: The period is empty, or has no request of one of the versions.
        LogReadError: The table can't be read.
    """
    plan = _plan(log.mapping, period, maturity)
    return judged(log, batch_rollout(log.mapping, versions, period, plan), period, now, out_dir)


def judged(
    log: LogRoot,
    rollout: Rollout,
    period: tuple[datetime, datetime],
    now: datetime,
    out_dir: Path,
    ended: Callable[[Decision], Decision] = lambda decision: decision,
) -> tuple[Decision, ComparisonResult]:
    """Count and judge the only stage of a rollout that never was, and write the comparison.

    Args:
        log: Its rows.
        rollout: See `batch_rollout`.
        period: [start, end), UTC.
        now: UTC.
        out_dir: Gets the files.
        ended: What the decision becomes as nothing more will come.

    Raises:
        RolloutError: The period has no request of one of the versions.
        LogReadError: The log can't be read.
    """
    start, end = period
    reader = DeltaPredictionLog(log)
    due = due_looks(reader, rollout, {STAGE: (start, end)}, [], max(now, end))
    if due.failure:
        raise RolloutError(f"the table can't be counted: {due.failure}")
    looks: Sequence[Look] = due.looks
    for arm, version in (("champion", rollout.champion), ("challenger", rollout.challenger)):
        if not sum(getattr(look, arm).requests for look in looks):
            raise RolloutError(
                f"version {version}, the {arm}, has no request from {start.isoformat()} to {end.isoformat()}; "
                "give another period"
            )
    decision = ended(decide(rollout.plan, STAGE, looks, (max(now, end) - start).total_seconds()))
    return decision, write_comparison(rollout, decision, looks, reader, out_dir, now)


def batch_rollout(
    mapping: BatchMapping, versions: tuple[str, str], period: tuple[datetime, datetime], plan: Plan
) -> Rollout:
    """The rollout that the rows of a mapped log are of."""
    start = period[0]
    made = (ROLLOUT, mapping.model, *versions, plan, State.BAKING, STAGE, ROLLOUT, 1, start, "batch")
    return Rollout(*made, opened_at=start, judged_from=start, reason="rows of a mapped table")


def batch_plan(
    pattern: Pattern,
    share: float,
    gates: tuple[Gate, ...],
    period: tuple[datetime, datetime],
    maturity: timedelta,
    deadline_seconds: float | None = None,
) -> Plan:
    """A plan with one stage that lasts a period.

    Args:
        pattern: Whose stage it is.
        share: Of the challenger, in percent; 0: both versions answered every request.
        gates: What is judged.
        period: [start, end), UTC.
        maturity: Age at which a request's label is due.
        deadline_seconds: When nothing more is waited for; None: when the last label is due.

    Raises:
        RolloutError: The period is empty.
    """
    start, end = period
    if not start < end:
        raise RolloutError(f"the period is from {start.isoformat()} to {end.isoformat()}, must begin before it ends")
    length = (end - start).total_seconds()
    look = min(_LONGEST_LOOK, max(_SHORTEST_LOOK, length / _LOOKS))
    whole = int(length // look) or 1
    stage = Stage(
        share=share,
        gates=gates,
        bake_seconds=0.0,
        deadline_seconds=deadline_seconds or length + look + maturity.total_seconds(),
        mirror_percent=0.0 if share else 100.0,
    )
    return Plan(
        pattern=pattern,
        stages=(stage,),
        look_seconds=min(look, length / whole),
        grace_seconds=0.0,
        label_maturity_seconds=maturity.total_seconds(),
    )


def _plan(mapping: BatchMapping, period: tuple[datetime, datetime], maturity: timedelta) -> Plan:
    share = _BOTH if mapping.answered_by_both else _EVEN
    pattern = Pattern.SHADOW if mapping.answered_by_both else Pattern.CANARY
    return batch_plan(pattern, share, _gates(mapping, share), period, maturity)


def _gates(mapping: BatchMapping, share: float) -> tuple[Gate, ...]:
    outcomes = mapping.outcomes
    labels = outcomes is not None and "label" in outcomes.columns
    gates = [gate for gate in default_gates(Pattern.CANARY, _EVEN, labels=labels) if gate.metric.is_rate]
    if "latency_ms" not in mapping.predictions.columns:
        gates = [gate for gate in gates if gate.metric.quantile is None]
    if share == _BOTH:
        gates.append(Gate(Metric.AGREEMENT, Role.MUTED))
    return tuple(gates)
