"""A challenger that a team's own table has no answer of: asked for the champion's requests, and compared with it."""

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from model_rollouts.adapters.batch_comparison import batch_plan, batch_rollout, judged
from model_rollouts.adapters.comparison import ComparisonResult
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.mapped_log import ROLLOUT, STAGE, MappedLog
from model_rollouts.adapters.offline_sample import RequestSample
from model_rollouts.adapters.paired_rows import PairedLog, PairedRows, input_types
from model_rollouts.core.decision import Decision
from model_rollouts.core.default_gates import default_gates
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.exhaustion import exhaust, used_up
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import LONGEST_SECONDS, Pattern
from model_rollouts.core.rollout import Rollout
from model_rollouts.offline import LoggedRequest, OfflineAnswer, OfflineScorer
from model_rollouts.ports import ModelVersion

_BATCH = 5_000  # requests that are scored and written at once
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class BatchShadow:
    """What came of it.

    Attributes:
        decision: The verdict.
        result: The comparison's files and numbers.
        asked: Requests that the challenger was asked.
        unfit: Those that it could not be asked.
        why: Why one of them could not be; empty where all could.
    """

    decision: Decision
    result: ComparisonResult
    asked: int
    unfit: int
    why: str


@dataclass(frozen=True, slots=True)
class ShadowTerms:
    """What is to be proven.

    Attributes:
        agreement: Share of equal answers, 0 to 1.
        tolerance: Answers are numbers, and equal when they differ by at most this much. None: equal text.
        maturity: Age at which a request's label is due.
        most: About how many requests to draw where the period has more.
    """

    agreement: float
    tolerance: float | None
    maturity: timedelta
    most: int


def shadow_batch(
    log: MappedLog,
    version: ModelVersion,
    scorer: OfflineScorer,
    champion: str,
    period: tuple[datetime, datetime],
    terms: ShadowTerms,
    now: datetime,
    out_dir: Path,
) -> BatchShadow:
    """Score the champion's requests of a period with the challenger, and judge by a shadow's gates.

    The challenger's answer stands beside the champion's, at its time and with its latency, so that labels are due to
    both at once and nothing is found in latencies that no caller met. A request that the challenger could not be asked
    counts as one that it gave no answer to. Nothing is written to the team's table.

    Args:
        log: The team's tables.
        version: The challenger, as the registry has it.
        scorer: Asks it.
        champion: Version whose requests they are.
        period: Requests of [start, end), UTC.
        terms: What is to be proven.
        now: UTC.
        out_dir: Gets `comparison.json`, `.html` and `.csv`.

    Raises:
        NotReadyError: There is no request, none can be asked, or the challenger can't be loaded.
        RolloutError: The period is empty or a bound is wrong.
        LogReadError: The table can't be read.
    """
    rollout = _rollout(log, version, champion, period, terms)
    with tempfile.TemporaryDirectory(prefix="model-rollouts-shadow-") as scratch:
        sample, pairs = Path(scratch, "sample.parquet"), Path(scratch, "pairs.parquet")
        if not RequestSample(log, rollout, version, *period, terms.most).draw(sample):
            raise NotReadyError(
                f"version {champion}, the champion, has no request from {period[0].isoformat()} to "
                f"{period[1].isoformat()}; give another period"
            )
        asked, unfit, why = _scored(sample, pairs, rollout, scorer)
        if not asked:
            raise NotReadyError(f"none of the {unfit:,} requests could be asked, such as one that was {why}")
        decision, result = judged(
            PairedLog(pairs, log),
            rollout,
            period,
            now,
            out_dir,
            lambda found: exhaust(found, used_up(found, rollout.plan, asked, unfit), rollout.plan),
        )
    return BatchShadow(decision, result, asked, unfit, why)


def _rollout(
    log: MappedLog, version: ModelVersion, champion: str, period: tuple[datetime, datetime], terms: ShadowTerms
) -> Rollout:
    """A shadow stage in which every request went to both."""
    labels = log.mapping.outcomes is not None and "label" in log.mapping.outcomes.columns
    gates = [
        replace(gate, floor=terms.agreement, tolerance=terms.tolerance) if gate.metric is Metric.AGREEMENT else gate
        for gate in default_gates(Pattern.SHADOW, 0.0, labels=labels, offline=True)
        if gate.metric.quantile is None
    ]
    if labels:
        gates.append(Gate(Metric.WRONG_RATE, Role.SIGNAL, coverage=0.8))
    plan = batch_plan(Pattern.SHADOW, 0.0, tuple(gates), period, terms.maturity, LONGEST_SECONDS)
    return batch_rollout(log.mapping, (champion, version.version), period, plan)


def _scored(sample: Path, pairs: Path, rollout: Rollout, scorer: OfflineScorer) -> tuple[int, int, str]:
    """Write both answers to every request; how many could be asked and could not, and why."""
    import pyarrow.parquet as pq

    asked = unfit = 0
    why = ""
    fixed = {"model": rollout.model, "rollout_id": ROLLOUT, "stage": STAGE, "gateway_id": "offline"}
    with pq.ParquetFile(sample) as parquet, PairedRows(pairs, input_types(parquet.schema_arrow), fixed) as out:
        for batch in parquet.iter_batches(_BATCH):
            rows = batch.to_pylist()
            answers = scorer.score([_request(row) for row in rows])
            made = []
            for row, answer in zip(rows, answers, strict=True):
                made.append(_champion(row, rollout))
                if answer.asked:
                    asked += 1
                    made.append(_challenger(row, answer, rollout))
                else:
                    unfit += 1
                    why = why or str(answer.error)
            out.write(made)
    return asked, unfit, why


def _request(row: dict[str, Any]) -> LoggedRequest:
    features = {name: value for name, value in row.items() if name.startswith(FEATURE_PREFIX)}
    return LoggedRequest(row["request_id"], row["unit_id"], row["traffic_revision"] or 0, features)


def _champion(row: dict[str, Any], rollout: Rollout) -> dict[str, Any]:
    own = {"ts": _EPOCH + timedelta(microseconds=row["us"]), "version": rollout.champion, "served": True}
    return {**row, **own, "arm": "champion", "cohort": "champion"}


def _challenger(row: dict[str, Any], answer: OfflineAnswer, rollout: Rollout) -> dict[str, Any]:
    return _champion(row, rollout) | {
        "version": rollout.challenger,
        "served": False,
        "arm": "challenger",
        "cohort": "challenger",
        "status": answer.status,
        "error": answer.error,
        "prediction": answer.prediction,
        "score": answer.score,
    }
