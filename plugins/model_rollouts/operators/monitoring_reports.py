"""Evidently and Great Expectations on the model that serves. Evidence is published first, then returned."""

import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from model_rollouts.operators.base import pull, wiring
from model_rollouts.operators.monitoring import KEEP_TREND, MEASURE, drift_plan_of, span_of, tick_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class LiveReportOperator(BaseOperator):
    """Base of a tick's reports: makes files and puts them into the folder of the tick.

    On retry: the files are written again under the same names. When the log, the registry or MLflow is missing: fails,
    which the judgement takes for a blind spot.
    """

    ui_color = "#eef2e3"

    @abstractmethod
    def make(self, measured: Mapping[str, Any], params: Mapping[str, Any], out_dir: Path) -> dict[str, Any]:
        """Write the files; return {"result", "files", "metrics"}."""

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return the result."""
        parts, measured = wiring(), pull(context, MEASURE)
        parts.settings.reports_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parts.settings.reports_dir) as scratch:
            made = self.make(measured, dict(context["params"]), Path(scratch))
            run_id = pull(context, KEEP_TREND)["mlflow_run_id"]
            parts.monitoring_runs.log(run_id, tick_of(measured), made["metrics"], made["files"])
        self.log.info("%s", made["result"]["detail"])
        return dict(made["result"])


class LiveDriftOperator(LiveReportOperator):
    """Inputs and predictions of the window against the reference's: scores over all rows, and Evidently's picture."""

    def make(self, measured: Mapping[str, Any], params: Mapping[str, Any], out_dir: Path) -> dict[str, Any]:
        """Drift as HTML and JSON; the result is {"computed", "drifted", "columns", "detail"}."""
        from model_rollouts.adapters.monitoring_drift import Served, live_drift

        current = Served(measured["version"], span_of(measured, "window"))
        reference = Served(measured["reference"]["version"], span_of(measured, "reference_window"))
        plan = drift_plan_of(params)
        made = live_drift(wiring().drift_log, measured["model"], current, reference, plan, out_dir)
        return {"result": asdict(made.drift), "files": made.files, "metrics": made.metrics}


class LiveDataChecksOperator(LiveReportOperator):
    """Great Expectations over all of the window's rows of the champion, and over the outcomes that came in it."""

    def make(self, measured: Mapping[str, Any], params: Mapping[str, Any], out_dir: Path) -> dict[str, Any]:
        """Validation as JSON and HTML; the result is {"ok", "detail"}."""
        from model_rollouts.adapters.checked_rows import champion_rows, outcome_rows
        from model_rollouts.adapters.feature_contract import feature_expectations
        from model_rollouts.adapters.great_expectations import validate

        parts, model, version = wiring(), measured["model"], measured["version"]
        span, suites, most = (
            span_of(measured, "window"),
            parts.settings.expectations_dir,
            parts.settings.data_check_rows,
        )
        found = parts.registry.resolve(model, version)
        profile, results = parts.profiles.training_profile(found), {}
        with champion_rows(parts.log_root, model, version, *span, most=most) as rows:
            more = feature_expectations(found, profile, rows.columns, float(params["max_missing"]))
            results["predictions"] = validate(suites / "live.json", rows, out_dir=out_dir, window=span, more=more)
        with outcome_rows(parts.log_root, model, *span, most=most) as rows:
            if rows.checked:  # whether any came is told by their coverage
                results["outcomes"] = validate(suites / "outcomes.json", rows, out_dir=out_dir, window=span)
        ok = all(result.success for result in results.values())
        detail = "; ".join(f"{name}: {result.reason}" for name, result in results.items())
        return {
            "result": {"ok": ok, "detail": f"data checks {'hold' if ok else 'fail'}: {detail}"[:2000]},
            "files": [file for result in results.values() for file in result.files],
            "metrics": {f"data_checks_failed_{name}": float(len(each.failed)) for name, each in results.items()},
        }
