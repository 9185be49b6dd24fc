"""Differences between the environments of the two versions, before a switch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from model_rollouts.operators.base import wiring
from model_rollouts.operators.forms import STAGES
from model_rollouts.operators.reports import ReportOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.core.rollout import Rollout

#: The field of the form that this operator reads.
ON_DIFFERENCES = {
    "on_differences": Param("hold", enum=["report", "hold"], title="On differences", section=STAGES,
        description="Whether a difference between the environments that can break the challenger is reported only, or "
        "holds the switch."),
}  # fmt: skip


class EnvironmentOperator(ReportOperator):
    """Library versions, Python and schema of both versions, and what the gateways have installed.

    On retry: compared again. When MLflow or a gateway is missing: fails after its retries, and `decide` holds.
    """

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Differences as JSON and HTML."""
        parts = wiring()
        result = parts.environment.compare_environments(
            rollout.model, rollout.champion, rollout.challenger, parts.gateway, out_dir
        )
        report_only = context["params"].get("on_differences") == "report"
        state = "ok" if result.state == "failed" and report_only else result.state
        return {"state": state, "detail": result.detail, "files": result.files, "metrics": {}}
