"""The stage's comparison, data checks and drift report. Evidence is published first, then judged."""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import WATCH, StageOperator, pull, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.core.decision import Decision
    from model_rollouts.core.rollout import Rollout

_REPORT_ROWS = 5_000  # rows a side in pictures; what decides is counted over all rows
_CHECK_ROWS = 50_000
_SEED = 20130101


class ReportOperator(StageOperator):
    """Base of the reports: makes files, puts them into the stage's MLflow run, returns {"state", "detail"}.

    The state is "ok", "failed" or "missing" (see core/conclusion.py). On retry: the artifacts are written again
    under the same names. When the log or MLflow is missing: fails after its retries, and `decide` holds.
    """

    ui_color = "#eef2e3"

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Write the files; return {"state", "detail", "files", "metrics"}."""
        raise NotImplementedError

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"state", "detail"}."""
        rollout_id, stage, mlflow_run_id = self.stage_of(context)
        parts = wiring()
        rollout = parts.store.rollout(rollout_id)
        parts.settings.reports_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parts.settings.reports_dir) as scratch:
            made = self.make(rollout, stage, context, Path(scratch))
            files: Sequence[Path] = made["files"]
            tags = {f"rollout.{self.task_id}": made["state"], f"rollout.{self.task_id}.detail": made["detail"][:500]}
            parts.stage_runs.log(mlflow_run_id, files, made["metrics"], tags)
        self.log.info("%s: %s", made["state"], made["detail"])
        return {"state": made["state"], "detail": made["detail"]}


class CompareOperator(ReportOperator):
    """Challenger against champion: rates with intervals, latency, accuracy, and every gate's numbers."""

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Comparison as JSON and HTML."""
        from model_rollouts.adapters.comparison import write_comparison

        parts = wiring()
        looks = [look for look in parts.store.looks(rollout.id) if look.stage <= stage]
        decision = decision_of(context) or parts.service.judge(rollout, looks, datetime.now(UTC))
        made = write_comparison(rollout, decision, looks, parts.log, out_dir)
        judged = sum(look.challenger.requests for look in looks if look.stage == stage)
        return {
            "state": "ok" if judged else "missing",
            "detail": f"{judged:,} of the challenger's requests in this stage",
            "files": made.files,
            "metrics": made.metrics,
        }


class ValidateDataOperator(ReportOperator):
    """Great Expectations over the stage's rows: can the evidence be trusted at all?"""

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Validation of predictions and outcomes as JSON and HTML."""
        from model_rollouts.adapters.great_expectations import validate

        parts = wiring()
        start, end = stage_window(rollout)
        total = parts.log.count_rows(rollout.model, rollout.id, stage, None, start, end)
        frame = parts.log.stage_frame(rollout.model, rollout.id, stage, None, start, end, _CHECK_ROWS, _SEED)
        suite = parts.settings.expectations_dir / "predictions.json"
        required = [
            f"f_{name}"
            for name, _ in parts.registry.resolve(rollout.model, rollout.challenger).inputs or ()
            if name not in parts.registry.resolve(rollout.model, rollout.challenger).optional
        ]
        result = validate(suite, frame, out_dir=out_dir, rows_total=total, required=required)
        failures = "; ".join(result.failed)
        return {
            "state": ("ok" if result.success else "failed") if result.rows_checked else "missing",
            "detail": failures or f"{result.evaluated} expectations held on {result.rows_checked:,} of {total:,} rows",
            "files": result.files,
            "metrics": {"validation_rows": result.rows_checked, "validation_failed": len(result.failed)},
        }


class DriftReportOperator(ReportOperator):
    """Evidently: the challenger's inputs and predictions against the champion's, in the same window."""

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Drift as HTML and JSON."""
        from model_rollouts.adapters.evidently_report import drift_report

        parts = wiring()
        start, end = stage_window(rollout)
        sides = {}
        for arm in ("champion", "challenger"):
            rows = parts.log.count_rows(rollout.model, rollout.id, stage, arm, start, end)
            frame = parts.log.stage_frame(rollout.model, rollout.id, stage, arm, start, end, _REPORT_ROWS, _SEED)
            sides[arm] = frame, rows
        columns = [c for c in sides["champion"][0].columns if c.startswith("f_") or c in ("prediction", "score")]
        result = drift_report(
            sides["champion"][0],
            sides["challenger"][0],
            columns,
            out_dir=out_dir,
            rows_reference=sides["champion"][1],
            rows_current=sides["challenger"][1],
            title=f"{rollout.id} stage {stage}: challenger against champion",
        )
        return {**judge_drift(result, context["params"].get("on_drift", "report")), "files": result.files}


def judge_drift(result: Any, on_drift: str) -> dict[str, Any]:
    """What a drift result means for the stage, by the plan's choice.

    Where drift is only reported, too few rows for a test are reported too. Where it holds the stage, a test that
    could not be made is missing evidence.
    """
    if not result.computed:
        state = "missing" if on_drift == "hold" else "ok"
        return {"state": state, "detail": f"not computed: {result.reason}", "metrics": {}}
    drifted = [name for name, column in result.columns.items() if column.drifted]
    detail = f"{len(drifted)} of {len(result.columns)} columns drifted" + (f": {', '.join(drifted)}" if drifted else "")
    state = "failed" if drifted and on_drift == "hold" else "ok"
    return {"state": state, "detail": detail, "metrics": {"drift_share": result.share}}


def stage_window(rollout: "Rollout") -> tuple[datetime, datetime]:
    """From the moment the stage's traffic moved until now."""
    if rollout.opened_at is None:
        raise RuntimeError(f"{rollout.id} has no open stage to report on")
    return rollout.opened_at, max(datetime.now(UTC), rollout.opened_at + timedelta(milliseconds=1))


def decision_of(context: "Context") -> "Decision | None":
    """The watch's decision, if it left one."""
    from model_rollouts.core.decision import Decision

    event = pull(context, WATCH) or {}
    return Decision.from_dict(event["decision"]) if event.get("decision") else None
