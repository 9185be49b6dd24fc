"""The prediction log of an offline stage: the champion's requests to score, and the challenger's answers to them."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from model_rollouts.adapters import offline_queries as queries
from model_rollouts.adapters.delta_files import run_local as run
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.delta_queries import FAR, OUTCOME_SLACK
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX
from model_rollouts.adapters.log_places import LogPlace, LogRoot, log_appender, log_table
from model_rollouts.adapters.offline_sample import MOST_REQUESTS, RequestSample
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.evidence import ArmLabels, RequestCounts
from model_rollouts.core.rollout import Rollout
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, UnitCounts, ValueSums
from model_rollouts.offline import Batch, LoggedRequest, OfflineAnswer
from model_rollouts.ports import ModelVersion, StageWindow, Window

if TYPE_CHECKING:
    import duckdb

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)
_CLOCKS = timedelta(days=1)  # the clock of who opened the stage may be ahead of that of who scores

Where = tuple[LogPlace, datetime, datetime]


class DeltaOfflineLog(DeltaPredictionLog):
    """Implements `offline.OfflineLog` on the Delta log. Close it: it keeps a sample of the requests in a scratch file.

    Requests are those of the champion from `days`, and the labels' maturity, before the stage was opened until it was
    opened or resumed. See `RequestSample`.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
        rollout: The rollout; its open stage is the offline one.
        challenger: Its challenger, as the registry has it.
        days: Length of the time to take requests from.
        most_requests: About how many requests to draw where there are more.

    Raises:
        NotReadyError: No stage is open, or the challenger's inputs can't be made from any log.
    """

    def __init__(
        self,
        root: LogRoot,
        rollout: Rollout,
        challenger: ModelVersion,
        days: float = 7.0,
        most_requests: int = MOST_REQUESTS,
    ) -> None:
        super().__init__(root)
        if rollout.opened_at is None or rollout.judged_from is None:
            raise NotReadyError(f"{rollout.id} has no open stage to score requests for; it is {rollout.state}")
        if not days > 0:
            raise ValueError(f"days is {days}, must be above 0")
        age = timedelta(seconds=rollout.plan.label_maturity_seconds)
        since = rollout.opened_at - timedelta(days=days) - age
        self._rollout, self._challenger = rollout, challenger
        self._requests = RequestSample(self.root, rollout, challenger, since, rollout.judged_from, most_requests)
        self._answers: Where = (
            log_table(self.root, rollout.model, "predictions"),
            rollout.opened_at - _CLOCKS,
            FAR,
        )
        self._given = {"rollout": rollout.id, "offline_stage": rollout.stage}
        self._writer = log_appender(self.root, f"{queries.OFFLINE}/{rollout.id}/{rollout.stage}")
        self._scratch = tempfile.TemporaryDirectory(prefix="model-rollouts-offline-")
        self._file = Path(self._scratch.name) / "sample.parquet"
        self._drawn = False
        self._from: datetime | None = None
        aged = self._given | {"age": age // _MICROSECOND}
        self._pairs = _SeenAsLive(self.root, self.sample, since, queries.EVERY_REQUEST, self._given)
        self._asked = _SeenAsLive(self.root, self.sample, since, queries.ASKED, self._given)
        self._labelled = _SeenAsLive(self.root, self.sample, since, queries.MATURED, aged)

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._scratch.cleanup()

    # --- requests and answers

    def batches(self) -> list[Batch]:
        """What has been scored so far, in order."""
        result = run(queries.BATCHES, {"predictions": self._answers}, self._given)
        return [Batch(_EPOCH + us * _MICROSECOND, *counts) for us, *counts in (result.fetchall() if result else [])]

    def requests(self, n: int) -> list[LoggedRequest]:
        """The next n requests that have not been scored, in an order that is random and always the same.

        Raises:
            NotReadyError: The log does not hold what the challenger has to be asked with; names it.
            LogReadError: The log can't be read.
        """
        file = self.sample()
        if file is None:
            return []
        import pyarrow as pa
        import pyarrow.parquet as pq

        sample = pq.read_table(file)
        result = run(queries.SCORED_IDS, {"predictions": self._answers}, self._given)
        scored = {request_id for (request_id,) in (result.fetchall() if result else [])}
        left = [at for at, request_id in enumerate(sample["request_id"].to_pylist()) if request_id not in scored]
        return [_request(row) for row in sample.take(pa.array(left[:n], pa.int64())).to_pylist()]

    def append(
        self, number: int, at: datetime, requests: Sequence[LoggedRequest], answers: Sequence[OfflineAnswer]
    ) -> bool:
        """Write a batch in one commit; False when one of this number is there already."""
        rows = [self._row(at, request, answer) for request, answer in zip(requests, answers, strict=True)]
        return self._writer.append(self._rollout.model, "predictions", rows, number)

    def sample(self) -> Path | None:
        """The file with the requests, drawn when first asked for; None where there are none."""
        return None if self.requests_from() is None else self._file

    def requests_from(self) -> datetime | None:
        """From when on requests are taken, UTC: as far back as the challenger's inputs were logged; None: of none.

        Raises:
            NotReadyError: The log does not hold what the challenger has to be asked with; names it.
            LogReadError: The log can't be read.
        """
        if not self._drawn:
            self._from = self._requests.draw(self._file)
            self._drawn = True
        return self._from

    # --- evidence, as of a live stage

    def request_counts(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window]
    ) -> list[tuple[RequestCounts, RequestCounts]]:
        """See `PredictionLog`: of the requests that the challenger could be asked."""
        return self._asked.request_counts(model, rollout_id, stage, windows)

    def unit_counts(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int
    ) -> list[tuple[UnitCounts, UnitCounts]]:
        """See `PredictionLog`: of the same requests."""
        return self._asked.unit_counts(model, rollout_id, windows, fresh)

    def pair_counts(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window], tolerance: float | None
    ) -> list[PairCounts]:
        """See `PredictionLog`: those that the challenger could not be asked have no pair."""
        return self._pairs.pair_counts(model, rollout_id, stage, windows, tolerance)

    def pair_clusters(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int, tolerance: float | None
    ) -> list[ClusterSums]:
        """See `PredictionLog`."""
        return self._pairs.pair_clusters(model, rollout_id, windows, fresh, tolerance)

    def label_evidence(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int, maturity: timedelta
    ) -> list[tuple[ArmLabels, ArmLabels]]:
        """See `PredictionLog`: of requests that had matured when they were scored."""
        return self._labelled.label_evidence(model, rollout_id, windows, fresh, maturity)

    def value_sums(
        self,
        model: str,
        rollout_id: str,
        windows: Sequence[StageWindow],
        fresh: int,
        maturity: timedelta,
        prior: tuple[datetime, datetime],
    ) -> list[ValueSums]:
        """None: no caller got the challenger's answers, so no value came of them."""
        return [ValueSums()] * (len(windows) - fresh)

    # --- inside

    def _row(self, at: datetime, request: LoggedRequest, answer: OfflineAnswer) -> dict[str, Any]:
        return {
            "request_id": request.request_id,
            "ts": at,
            "model": self._rollout.model,
            "version": self._rollout.challenger,
            "arm": "challenger",
            "cohort": "challenger" if answer.asked else None,
            "served": False,
            "rollout_id": self._rollout.id,
            "stage": self._rollout.stage,
            "unit_id": request.unit_id,
            "status": answer.status,
            "error": answer.error,
            "latency_ms": answer.latency_ms,
            "prediction": answer.prediction,
            "score": answer.score,
            "gateway_id": queries.OFFLINE,
            "traffic_revision": request.traffic_revision,
            "features": {name.removeprefix(FEATURE_PREFIX): value for name, value in request.features.items()},
        }


class _SeenAsLive(DeltaPredictionLog):
    """The evidence of batches, by the queries of live stages: both answers to a request at the time of its batch.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
        sample: The file with the champion's requests; None where there are none.
        since: Time of the first of them, UTC.
        counts: When a request counts; see `queries.seen_as_live`.
        given: Parameters of that.
    """

    def __init__(
        self, root: LogRoot, sample: Callable[[], Path | None], since: datetime, counts: str, given: Mapping[str, Any]
    ) -> None:
        super().__init__(root)
        self._sample_file, self._since, self._given = sample, since, given
        self._rows = queries.seen_as_live(counts)

    def _run(
        self, sql: str, tables: Mapping[str, Where], parameters: Mapping[str, Any]
    ) -> "duckdb.DuckDBPyConnection | None":
        file = self._sample_file()
        if file is None:
            return None
        tables = dict(tables)
        if "outcomes" in tables:
            path, _, end = tables["outcomes"]
            tables["outcomes"] = (path, self._since - OUTCOME_SLACK, end)
        seen = sql.replace("{predictions}", self._rows).replace("{outcomes}", queries.SHIFTED_OUTCOMES)
        return run(seen, tables, {**parameters, **self._given, "sample": str(file)})


def _request(row: Mapping[str, Any]) -> LoggedRequest:
    features = {name: value for name, value in row.items() if name.startswith(FEATURE_PREFIX)}
    return LoggedRequest(row["request_id"], row["unit_id"], row["traffic_revision"] or 0, features)
