"""One long-lived MLflow run a champion version: its trend as metrics over time, its reports in a folder a tick."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from model_rollouts.adapters.mlflow_client import experiment_id, is_missing, logged_model_id, make_client, quoted

_FIRST = "monitoring.first_tick"
_VERSION = "monitoring.version"


class MlflowMonitoringRuns:
    """Keeps trends in experiments `monitoring/<model>`.

    A metric's step is the minute since the run's first tick, and its time the tick's, so that MLflow draws the trend by
    either. A tick that is logged again has the same step, time and folder.

    Args:
        tracking_uri: The MLflow server. Artifacts go through its proxy, so no storage credentials are needed here.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> Any:
        return make_client(self.tracking_uri)

    def open(self, model: str, version: str, at: datetime) -> str:
        """The run's id; opening it again gives the same run. Runs of versions that serve no longer are ended.

        MLflow has no way to claim a name for a run: of two that were made at the same moment, later callers get the
        elder. One task opens it, one run of the DAG at a time.

        Args:
            model: Registered model name.
            version: The champion.
            at: The tick, UTC.
        """
        experiment = experiment_id(self._client, f"monitoring/{model}")
        for other in self._client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            if other.data.tags.get(_VERSION) not in (version, None):
                self._client.set_terminated(other.info.run_id)
        found = self._client.search_runs(
            [experiment],
            filter_string=f"tags.`{_VERSION}` = {quoted(version)}",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=1,
        )
        if found:
            run_id = str(found[0].info.run_id)
            if found[0].info.status != "RUNNING":  # it serves again, after a rollback
                self._client.update_run(run_id, status="RUNNING")
        else:
            tags = {"monitoring.model": model, _VERSION: version, _FIRST: at.astimezone(UTC).isoformat()}
            run_id = str(self._client.create_run(experiment, tags=tags, run_name=f"version {version}").info.run_id)
        self._link(run_id, model, version)
        return run_id

    def log(
        self,
        run_id: str,
        at: datetime,
        metrics: Mapping[str, float | None],
        files: Sequence[Path] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add a tick's metrics, files and tags.

        Args:
            run_id: The run.
            at: The tick, UTC.
            metrics: By name. None and what is no finite number leaves a gap in the trend.
            files: Go to the folder of the tick.
            tags: Replace those of earlier ticks.

        Raises:
            FileNotFoundError: A file is missing; nothing is logged then.
        """
        from mlflow.entities import Metric, RunTag

        if absent := [str(file) for file in files if not file.exists()]:
            raise FileNotFoundError(f"{', '.join(absent)}: no such file to log to run {run_id}")
        for file in files:
            self._client.log_artifact(run_id, str(file), folder_of(at))
        first = datetime.fromisoformat(self._client.get_run(run_id).data.tags[_FIRST])
        step, moment = int((at - first).total_seconds() // 60), int(at.timestamp() * 1000)
        kept = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), moment, step) for name, value in kept.items()],
            tags=[RunTag(name, value[:5000]) for name, value in (tags or {}).items()],
        )

    def log_text(self, run_id: str, at: datetime, name: str, text: str) -> None:
        """Add a file of text to the folder of the tick."""
        self._client.log_text(run_id, text, f"{folder_of(at)}/{name}")

    # --- inside

    def _link(self, run_id: str, model: str, version: str) -> None:
        """Show the run with the logged model; a version that was deleted from the registry has none."""
        from mlflow.entities import LoggedModelInput
        from mlflow.exceptions import MlflowException

        try:
            model_id = logged_model_id(self._client.get_model_version(model, version))
        except MlflowException as error:
            if not is_missing(error):
                raise
            return
        linked = {each.model_id for each in self._client.get_run(run_id).inputs.model_inputs}
        if model_id and model_id not in linked:
            self._client.log_inputs(run_id, models=[LoggedModelInput(model_id)])


def folder_of(at: datetime) -> str:
    """The artifact folder of a tick, such as "ticks/2026-03-01/120000Z"."""
    return at.astimezone(UTC).strftime("ticks/%Y-%m-%d/%H%M%SZ")
