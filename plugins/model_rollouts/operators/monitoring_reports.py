"""Evidently and Great Expectations on the model that serves. Evidence is published first, then returned."""

import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from model_rollouts.operators.base import pull, wiring
from model_rollouts.operators.monitoring import KEEP_TREND, MEASURE, limits_of, span_of, tick_of

if TYPE_CHECKING:
    from airflow.sdk import Context

_DRIFT_ROWS = 5_000  # a side
_SEED = 20130101


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
    """Evidently: inputs and predictions of the window against those of the reference."""

    def make(self, measured: Mapping[str, Any], params: Mapping[str, Any], out_dir: Path) -> dict[str, Any]:
        """Drift as HTML and JSON; the result is {"computed", "drifted", "columns", "detail"}."""
        from model_rollouts.adapters.evidently_report import drift_report
        from model_rollouts.core.monitoring_limits import drifted_columns

        log, model = wiring().log, measured["model"]
        sides = {}
        for name, version, window in (
            ("reference", measured["reference"]["version"], "reference_window"),
            ("current", measured["version"], "window"),
        ):
            span = span_of(measured, window)
            frame = log.champion_frame(model, version, *span, _DRIFT_ROWS, _SEED)
            # counted after the sample was drawn: the log only grows
            sides[name] = (frame, log.count_champion_rows(model, version, *span))
        frames = [frame for frame, _ in sides.values()]
        # what neither side has, such as a model's score, can't drift; what one side has must be on the other
        columns = sorted(
            {
                column
                for frame in frames
                for column in frame.columns
                if (column.startswith("f_") or column in ("prediction", "score")) and frame[column].notna().any()
            }
        )
        if not columns:
            detail = "neither the window nor the reference has an input or a prediction"
            return {"result": _drift(False, 0, 0, detail), "files": (), "metrics": {}}
        result = drift_report(
            frames[0],
            frames[1],
            columns,
            out_dir=out_dir,
            rows_reference=sides["reference"][1],
            rows_current=sides["current"][1],
            title=f"{model} version {measured['version']}: {' to '.join(measured['window'])} against "
            f"version {measured['reference']['version']}: {' to '.join(measured['reference_window'])}",
        )
        told = [(each.method, each.score, each.drifted) for each in result.columns.values()]
        drifted = drifted_columns(told, limits_of(params).level)
        return {
            "result": _drift(result.computed, drifted, len(told), result.reason[:1000]),
            "files": result.files,
            "metrics": {"drift_share": result.share},
        }


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


def _drift(computed: bool, drifted: int, columns: int, detail: str) -> dict[str, Any]:
    return {"computed": computed, "drifted": drifted, "columns": columns, "detail": detail}
