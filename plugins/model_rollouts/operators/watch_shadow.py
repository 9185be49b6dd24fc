"""Watches a shadow: live pairs, or logged requests that are scored here."""

from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import PREFLIGHT, pull
from model_rollouts.operators.offline import ScoreOfflineOperator
from model_rollouts.operators.watch import WatchStageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class WatchShadowOperator(ScoreOfflineOperator, WatchStageOperator):
    """Scores an offline stage in the task, or has the triggerer watch a live one; both come back with a verdict."""

    def execute(self, context: "Context") -> dict[str, Any] | None:  # type: ignore[override]  # one returns, one defers
        """Score, or defer."""
        if (pull(context, PREFLIGHT) or {}).get("offline"):
            return ScoreOfflineOperator.execute(self, context)
        WatchStageOperator.execute(self, context)
        return None
