"""The stage's comparison, data checks and drift report. Evidence is published first, then judged."""

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import WATCH, StageOperator, pull, wiring
from model_rollouts.operators.links import REPORT_KEY, MlflowRunLink, ReportLink, RolloutLink

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.adapters.drift_report import StageDrift
    from model_rollouts.core.decision import Decision
    from model_rollouts.core.drift_plan import DriftPlan
    from model_rollouts.core.rollout import Rollout
    from model_rollouts.wiring import Wiring

_OFFLINE_PAST = timedelta(days=7)  # as far back as logged requests are scored again
# Share of rows in which a required input may be empty: of millions a few are, such as those that could not be read.
_EMPTY_INPUTS = 0.01


class ReportOperator(StageOperator):
    """Base of the reports: makes files, puts them into the stage's MLflow run, returns {"state", "detail"}.

    The state is "ok", "failed" or "missing" (see core/conclusion.py). On retry: the artifacts are written again
    under the same names. When the log or MLflow is missing: fails after its retries, and `decide` holds.
    """

    ui_color = "#eef2e3"
    operator_extra_links = (RolloutLink(), MlflowRunLink(), ReportLink())

    @abstractmethod
    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Write the files; return {"state", "detail", "files", "metrics"}."""

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
        if page := next((file.name for file in files if file.suffix == ".html"), None):
            context["ti"].xcom_push(key=REPORT_KEY, value=page)
        self.log.info("%s: %s", made["state"], made["detail"])
        return {"state": made["state"], "detail": made["detail"]}


class CompareOperator(ReportOperator):
    """Challenger against champion over all rows, the slices where it is worse, and every gate's numbers."""

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Comparison as JSON, table and HTML."""
        from model_rollouts.adapters.comparison import write_comparison

        parts = wiring()
        looks = [look for look in parts.store.looks(rollout.id) if look.stage <= stage]
        decision = decision_of(context) or parts.service.judge(rollout, looks, datetime.now(UTC))
        settled = datetime.now(UTC) - timedelta(seconds=rollout.plan.grace_seconds)
        since = (pull(context, WATCH) or {}).get("requests_from")  # an offline stage's
        requests_from = datetime.fromisoformat(since) if since else None
        made = write_comparison(rollout, decision, looks, parts.log, out_dir, settled, requests_from)
        requests = sum(look.challenger.requests for look in looks if look.stage == stage)
        return {
            "state": "ok" if requests else "missing",
            "detail": f"{requests:,} of the challenger's requests in this stage",
            "files": made.files,
            "metrics": made.metrics,
        }


class ValidateDataOperator(ReportOperator):
    """Great Expectations over all of the stage's rows: can the evidence be trusted at all?

    Predictions always, with the inputs that the challenger's signature and training profile ask for; outcomes where a
    gate of the stage is judged on labels. Beyond `data_check_rows` rows it is a sample of requests, and says so.
    """

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Validation of predictions and outcomes as JSON and HTML, with Data Docs."""
        from model_rollouts.adapters.checked_rows import outcome_rows, stage_rows
        from model_rollouts.adapters.feature_contract import feature_expectations
        from model_rollouts.adapters.great_expectations import validate

        parts, span, results = wiring(), stage_window(rollout), {}
        suites, most = parts.settings.expectations_dir, parts.settings.data_check_rows
        version = parts.registry.resolve(rollout.model, rollout.challenger)
        profile = parts.profiles.training_profile(version)
        with stage_rows(parts.log_root, rollout.model, rollout.id, stage, *span, most=most) as rows:
            more = feature_expectations(version, profile, rows.columns, _EMPTY_INPUTS)
            suite = suites / "predictions.json"
            results["predictions"] = validate(suite, rows, out_dir=out_dir, window=span, more=more, docs=True)
        if any(gate.metric.matures and gate.role.holds_up for gate in rollout.plan.stage(stage).gates):
            with outcome_rows(parts.log_root, rollout.model, *span, most=most) as rows:
                results["outcomes"] = validate(suites / "outcomes.json", rows, out_dir=out_dir, window=span, docs=True)
        if not all(result.rows_checked for result in results.values()):
            state = "missing"
        else:
            state = "ok" if all(result.success for result in results.values()) else "failed"
        return {
            "state": state,
            "detail": "; ".join(f"{name}: {result.reason}" for name, result in results.items()),
            "files": [file for result in results.values() for file in result.files],
            "metrics": {f"data_checks_failed_{name}": len(result.failed) for name, result in results.items()},
        }


class DriftReportOperator(ReportOperator):
    """Drift over all rows: the challenger against its training data, the champion's past and the champion beside it.

    What drift of a column does, and by which limits, says the plan (see core/drift_plan.py). Evidently's page of a
    sample comes with it, and its snapshot goes to the workspace of MODEL_ROLLOUTS_EVIDENTLY_WORKSPACE where one is set.
    """

    def make(self, rollout: "Rollout", stage: int, context: "Context", out_dir: Path) -> dict[str, Any]:
        """Drift as JSON and HTML."""
        from model_rollouts.adapters.drift_report import drift_of_stage

        parts, (start, end) = wiring(), stage_window(rollout)
        plan = drift_plan_of(rollout, context["params"].get("on_drift"))
        version = parts.registry.resolve(rollout.model, rollout.challenger)
        of = stage_drift(parts, rollout, stage, start, end)
        report = drift_of_stage(parts.drift_log, of, parts.profiles.training_profile(version), plan, out_dir)
        if parts.settings.evidently_workspace and report.snapshot is not None:
            from model_rollouts.adapters.evidently_workspace import keep_snapshot

            folder = Path(parts.settings.evidently_workspace)
            try:
                keep_snapshot(folder, rollout.model, rollout.id, stage, report.snapshot)
            except Exception as error:  # the workspace is one more place to look at it; it decides nothing
                self.log.warning("the snapshot is not in the workspace %s: %s", folder, error)
        return {
            "state": report.finding.state,
            "detail": report.finding.detail[:1000],
            "files": report.files,
            "metrics": report.metrics,
        }


def drift_plan_of(rollout: "Rollout", on_drift: str | None) -> "DriftPlan":
    """The plan's drift; a form that says hold is heard where the plan is from before it knew of drift."""
    from model_rollouts.core.drift_plan import DriftRole

    plan = rollout.plan.drift
    return replace(plan, role=DriftRole.HOLD) if on_drift == DriftRole.HOLD else plan


def stage_drift(parts: "Wiring", rollout: "Rollout", stage: int, start: datetime, end: datetime) -> "StageDrift":
    """What a stage's drift is looked for in: its window, and the champion's time before the rollout."""
    from model_rollouts.adapters.drift_report import StageDrift
    from model_rollouts.core.rollout import EventKind

    offline = rollout.plan.stage(stage).offline
    events = parts.store.events(rollout_id=rollout.id)
    began = min((e.at for e in events if e.kind is EventKind.STARTED), default=start)
    until = start if offline else min(began, start)
    seconds = rollout.plan.drift.reference_seconds
    length = timedelta(seconds=seconds) if seconds else _OFFLINE_PAST if offline else end - start
    return StageDrift(
        rollout.model, rollout.id, stage, rollout.champion, (start, end), (until - length, until), offline
    )


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
