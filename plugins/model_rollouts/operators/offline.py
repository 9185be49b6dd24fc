"""Scores the champion's logged requests with the challenger, in the place of a watch over live traffic."""

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from model_rollouts.core.errors import NotReadyError
from model_rollouts.operators.base import StageOperator, actor_of, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.adapters.offline_log import DeltaOfflineLog

logger = logging.getLogger(__name__)


class ScoreOfflineOperator(StageOperator):
    """Scores batch after batch until harm, enough proof, or the end of the logged requests.

    Each batch is one look. Proven harm rolls back at once, here, as in a live stage.

    On retry: goes on with the requests that have no answer in the log yet; nothing is written or counted twice. When
    MLflow, the log or the store is missing: fails after its retries, and `decide` holds. When the log does not hold the
    challenger's inputs, or the challenger can't be loaded: fails at once.

    Args:
        batch_requests: Requests of one look; later ones have a quarter of all before them, where that is more.
        most_requests: About how many requests are scored at the most: a sample, drawn evenly over the whole time.
        days: How far back requests are taken from.
        call_seconds: Most seconds that the challenger may take for one call of up to 500 rows.
    """

    def __init__(
        self,
        *,
        batch_requests: int = 5_000,
        most_requests: int = 200_000,
        days: float = 7.0,
        call_seconds: float = 60.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_requests = batch_requests
        self.most_requests = most_requests
        self.days = days
        self.call_seconds = call_seconds

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"decision", "requests_from"}, or {"ended"} when somebody else ended the rollout meanwhile."""
        rollout_id, stage, _ = self.stage_of(context)
        try:
            event = score_offline(
                rollout_id, stage, self.batch_requests, self.most_requests, self.days, self.call_seconds
            )
        except NotReadyError as error:
            raise AirflowFailException(str(error)) from error
        decision = event.get("decision")
        if decision and decision["verdict"] == "fail":
            wiring().service.roll_back(rollout_id, actor_of(context), decision["reason"], decision)
        self.log.info("%s", decision["reason"] if decision else f"rollout is {event.get('ended')}")
        return event


def score_offline(
    rollout_id: str, stage: int, batch_requests: int, most_requests: int, days: float, call_seconds: float
) -> dict[str, Any]:
    """Score an offline stage's requests with the process's adapters; see `OfflineScoring.run`.

    Returns:
        What that does, and with a decision `requests_from`: from when on requests were scored, which tells the
        comparison which of an id's requests it was; None where it can't be told.

    Raises:
        NotReadyError: Trying again would fail again: the message says what has to be changed first.
    """
    from model_rollouts.adapters.offline_log import DeltaOfflineLog
    from model_rollouts.adapters.offline_scorer import PyfuncScorer
    from model_rollouts.offline import OfflineScoring

    parts = wiring()
    rollout = parts.store.rollout(rollout_id)
    version = parts.registry.resolve(rollout.model, rollout.challenger)
    with (
        DeltaOfflineLog(parts.log_root, rollout, version, days, most_requests) as log,
        PyfuncScorer(
            parts.settings.mlflow_tracking_uri, version, parts.settings.flavours, call_seconds=call_seconds
        ) as scorer,
    ):
        event = OfflineScoring(parts.service, log, scorer, batch_requests).run(rollout_id, stage)
        if "decision" in event:
            event["requests_from"] = _requests_from(log)
        return event


def _requests_from(log: "DeltaOfflineLog") -> str | None:
    from model_rollouts.core.errors import RolloutError

    try:
        since = log.requests_from()
    except RolloutError as error:  # the verdict is there, and harm must not wait for the report
        logger.warning("from when on requests were scored is not known: %s", error)
        return None
    return since.isoformat() if since else None
