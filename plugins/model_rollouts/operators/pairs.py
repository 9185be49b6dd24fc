"""Both versions' answers to the same requests, side by side."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import wiring
from model_rollouts.operators.reports import ReportOperator, stage_window

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context

    from model_rollouts.core.rollout import Rollout


class ComparePairsOperator(ReportOperator):
    """Pairs of answers: agreement, disagreements, score and latency differences, and the slices that agree least.

    It is for stages where both versions answer the same requests: mirrored or offline ones at a share of 0, and the
    control sample at 100. Without a pair the state is "missing".
    """

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: "Path") -> dict[str, Any]:
        """Pairs as JSON and HTML."""
        from model_rollouts.adapters.pairs_report import write_pairs

        made = write_pairs(rollout, stage, wiring().report_log, settled_window(rollout), out_dir)
        return {"state": made.state, "detail": made.reason, "files": made.files, "metrics": made.metrics}


def settled_window(rollout: "Rollout") -> tuple[datetime, datetime]:
    """The stage's time up to where the log is complete: what was just asked may not be written yet."""
    start, end = stage_window(rollout)
    settled = end - timedelta(seconds=rollout.plan.grace_seconds)
    return start, max(settled, start + timedelta(milliseconds=1))
