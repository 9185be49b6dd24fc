"""The final readout of an A/B test."""

from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import wiring
from model_rollouts.operators.pairs import settled_window
from model_rollouts.operators.reports import ReportOperator

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context

    from model_rollouts.core.rollout import Rollout


class ReadoutOperator(ReportOperator):
    """What the challenger is worth against the champion, by unit: winner, loser or no difference, with guardrails.

    The state is "failed" when units were in both arms or were not dealt as planned, or when values are missing in one
    arm more than in the other, and "missing" when there is too little to compare. A loser and no difference are "ok":
    the readout is there, and what becomes of it is the gates' to say.
    """

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: "Path") -> dict[str, Any]:
        """Readout as JSON and HTML."""
        from model_rollouts.adapters.ab_readout import write_readout

        made = write_readout(rollout, stage, wiring().report_log, settled_window(rollout), out_dir)
        readout = made.readout
        return {"state": readout.state, "detail": readout.reason, "files": made.files, "metrics": made.metrics}
