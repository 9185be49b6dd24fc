"""Scores the champion's logged requests with the challenger: a shadow stage without a gateway.

The log is the only memory. Each batch of answers is written to it in one commit, and what the log holds of a batch is
what its look is counted from: a task that ended anywhere goes on from there, and two at once do no harm.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from model_rollouts.core.decision import Decision, Verdict
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.exhaustion import exhaust, used_up
from model_rollouts.core.rollout import Rollout, State
from model_rollouts.looks import batch_looks
from model_rollouts.ports import PredictionLog, StageWindow, Window
from model_rollouts.service import RolloutService

logger = logging.getLogger(__name__)

_MOMENT = timedelta(microseconds=1)
_GROWTH = 4  # each look is counted from all before it: many of them would cost more than they tell


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that the champion was asked.

    Attributes:
        request_id: Its id; no two of a stage have the same.
        unit_id: Who it was for.
        traffic_revision: Of the traffic row that it was routed by.
        features: Log columns of its inputs: `f_<name>` -> value.
    """

    request_id: str
    unit_id: str | None
    traffic_revision: int
    features: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OfflineAnswer:
    """What the challenger made of a logged request.

    Attributes:
        status: "ok", "error" or "timeout".
        latency_ms: Its part of the time of the call that it was scored in.
        prediction: Canonical text of the answer, as in the prediction log; None when it failed.
        score: The score, where the version gives one.
        error: What went wrong, or None.
        asked: Whether the challenger was asked at all; it can't be where the log does not hold its inputs.
    """

    status: str
    latency_ms: float
    prediction: str | None = None
    score: float | None = None
    error: str | None = None
    asked: bool = True


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that were scored together.

    Attributes:
        at: The time in the rows of their answers; no two batches of a stage have the same.
        asked: Those that the challenger was asked.
        unfit: Those that it could not be asked.
    """

    at: datetime
    asked: int
    unfit: int


class OfflineLog(PredictionLog, Protocol):
    """The log of one offline stage. As a `PredictionLog` it shows both answers to a request at the time of its batch.

    A request that the challenger could not be asked counts for neither, but as one that has no pair. Labels are those
    of requests that had matured when their batch was scored.
    """

    def batches(self) -> list[Batch]:
        """What has been scored so far, in order."""

    def requests(self, n: int) -> list[LoggedRequest]:
        """The next n requests that have not been scored, in an order that is random and always the same.

        Raises:
            NotReadyError: The log does not hold what the challenger has to be asked with; names it.
        """

    def append(
        self, number: int, at: datetime, requests: Sequence[LoggedRequest], answers: Sequence[OfflineAnswer]
    ) -> bool:
        """Write a batch in one commit. False: one of this number is there already, and nothing was written.

        Args:
            number: How many batches there were before.
            at: Later than that of any batch before.
            requests: What was asked.
            answers: What came of it, in order.
        """


class OfflineScorer(Protocol):
    """The challenger, in this process."""

    def score(self, requests: Sequence[LoggedRequest]) -> list[OfflineAnswer]:
        """One answer a request, in order. A failure of the model is the failure of that request alone."""


class OfflineScoring:
    """Scores batch after batch, each being one look, until there is a verdict or nothing left to score.

    Args:
        service: The use cases; judges the looks.
        log: The stage's log.
        scorer: The challenger.
        batch_requests: Requests of one batch; later ones have a quarter of all before them, where that is more.
    """

    def __init__(
        self, service: RolloutService, log: OfflineLog, scorer: OfflineScorer, batch_requests: int = 5_000
    ) -> None:
        if batch_requests < 1:
            raise ValueError(f"batch_requests is {batch_requests}, must be at least 1")
        self._service = service
        self._log = log
        self._scorer = scorer
        self._batch_requests = batch_requests

    def run(self, rollout_id: str, stage: int) -> dict[str, Any]:
        """Score until there is something to say.

        Returns:
            {"decision": ...} (see `Decision.to_dict`), never a waiting one, or {"ended": state, "stage": ...} when
            somebody else ended the stage meanwhile.

        Raises:
            NotReadyError: The stage is no offline one, or what is needed is not in the log.
            Exception: Log, store or registry can't be read or written. Running it again goes on from there.
        """
        store = self._service.store
        if not store.rollout(rollout_id).plan.stage(stage).offline:
            raise NotReadyError(f"stage {stage} of {rollout_id} is not offline: its requests are scored by the gateway")
        while True:
            rollout = store.rollout(rollout_id)
            if rollout.state is not State.BAKING or rollout.stage != stage:
                return {"ended": str(rollout.state), "stage": rollout.stage}
            batches = self._log.batches()
            self._close(rollout, batches)
            decision = self._service.look(rollout_id)
            if decision.verdict is not Verdict.WAIT:
                return {"decision": decision.to_dict()}
            logger.info("%s: %d batches scored; %s", rollout_id, len(batches), decision.reason)
            if not self._score(batches):
                return {"decision": self._exhausted(rollout, batches, decision).to_dict()}

    def _close(self, rollout: Rollout, batches: Sequence[Batch]) -> None:
        """Count and keep the looks of batches that have none."""
        kept = sum(look.stage == rollout.stage for look in self._service.evidence.looks(rollout.id))
        if kept > len(batches):
            raise NotReadyError(
                f"{kept} looks of stage {rollout.stage} of {rollout.id} are kept and the log has {len(batches)} of "
                "their batches: it was changed or restored; roll back and start a new rollout"
            )
        if kept < len(batches):
            looks = batch_looks(self._log, rollout, _windows(rollout.stage, batches), kept)
            self._service.evidence.save_looks(rollout.id, looks)

    def _score(self, batches: Sequence[Batch]) -> bool:
        """Score and write the next batch. False: there is none."""
        scored = sum(batch.asked + batch.unfit for batch in batches)
        requests = self._log.requests(max(self._batch_requests, scored // _GROWTH))
        if not requests:
            return False
        answers = self._scorer.score(requests)
        now = self._service.clock()
        at = max(now, batches[-1].at + _MOMENT) if batches else now
        if not self._log.append(len(batches), at, requests, answers) and len(self._log.batches()) == len(batches):
            raise NotReadyError(
                f"batch {len(batches)} was written before and its rows are gone from the log: it was changed or "
                "restored; roll back and start a new rollout"
            )
        return True

    def _exhausted(self, rollout: Rollout, batches: Sequence[Batch], decision: Decision) -> Decision:
        asked, unfit = sum(batch.asked for batch in batches), sum(batch.unfit for batch in batches)
        return exhaust(decision, used_up(decision, rollout.plan, asked, unfit), rollout.plan)


def _windows(stage: int, batches: Sequence[Batch]) -> list[StageWindow]:
    """The window of each batch: from its time to that of the next one."""
    ends = [batch.at for batch in batches[1:]] + [batches[-1].at + _MOMENT]
    return [
        StageWindow(stage, Window(index, batch.at, end))
        for index, (batch, end) in enumerate(zip(batches, ends, strict=True))
    ]
