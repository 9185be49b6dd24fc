"""One MLflow run a stage: its setting, its artifacts and its decision, linked to the challenger's version."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from model_rollouts.adapters.mlflow_client import experiment_id, logged_model_id, make_client, quoted
from model_rollouts.core.plan import Stage
from model_rollouts.core.rollout import Rollout


class MlflowStageRuns:
    """Implements `StageRuns` with an experiment `rollouts/<model>`.

    Args:
        tracking_uri: The MLflow server. Artifacts go through its proxy, so no storage credentials are needed here.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> Any:
        return make_client(self.tracking_uri)

    def open(self, rollout: Rollout, stage: int) -> str:
        """The run's id; opening it again gives the same run, and completes what a crash left out.

        MLflow has no way to claim a name for a run: two callers at the same moment may each make one, and later ones
        get the elder. Preflight is the only caller, once a stage.

        Raises:
            PlanError: The plan has no such stage.
        """
        setting = rollout.plan.stage(stage)
        experiment = experiment_id(self._client, f"rollouts/{rollout.model}")
        run_id = self._find(experiment, rollout.id, stage)
        if run_id is None:
            made = self._client.create_run(
                experiment,
                tags=_tags(rollout, stage, setting),
                run_name=f"{rollout.id} stage {stage} at {setting.share:g} %",
            )
            run_id = str(made.info.run_id)
        self._complete(run_id, rollout, stage, setting)
        return run_id

    def log(self, run_id: str, files: Sequence[Path], metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Add artifacts, metrics and tags; of a folder all that is in it, under its name.

        Raises:
            FileNotFoundError: A file is missing; nothing is logged then.
        """
        from mlflow.entities import Metric, RunTag
        from mlflow.utils.time import get_current_time_millis

        if missing := [str(file) for file in files if not file.exists()]:
            raise FileNotFoundError(f"{', '.join(missing)}: no such file to log to run {run_id}")
        for file in files:
            if file.is_dir():
                self._client.log_artifacts(run_id, str(file), file.name)
            else:
                self._client.log_artifact(run_id, str(file))
        now = get_current_time_millis()
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def close(self, run_id: str, verdict: Mapping[str, Any]) -> None:
        """End the run, with the decision as artifact `decision.json`. Repeating it changes nothing.

        A challenger that failed makes a finished run, not a failed one: the stage did what it is for.
        """
        self._client.log_text(run_id, json.dumps(_plain(verdict), indent=2, default=str) + "\n", "decision.json")
        for key in ("verdict", "action", "reason"):
            if key in verdict:
                self._client.set_tag(run_id, f"rollout.{key}", str(verdict[key])[:5000])
        if self._client.get_run(run_id).info.status == "RUNNING":
            self._client.set_terminated(run_id)

    # --- inside

    def _find(self, experiment: str, rollout_id: str, stage: int) -> str | None:
        found = self._client.search_runs(
            [experiment],
            filter_string=f"tags.`rollout.id` = {quoted(rollout_id)} and tags.`rollout.stage` = '{stage}'",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    def _complete(self, run_id: str, rollout: Rollout, stage: int, setting: Stage) -> None:
        from mlflow.entities import LoggedModelInput, Param

        run = self._client.get_run(run_id)
        missing = {key: value for key, value in _params(setting).items() if key not in run.data.params}
        if missing:
            self._client.log_batch(run_id, params=[Param(key, value) for key, value in missing.items()])
        version = self._client.get_model_version(rollout.model, rollout.challenger)
        model_id = logged_model_id(version)
        linked = {model.model_id for model in run.inputs.model_inputs}
        if model_id and model_id not in linked:
            self._client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
        key = f"rollout.stage_{stage}.run_id"
        if version.tags.get(key) != run_id:
            self._client.set_model_version_tag(rollout.model, rollout.challenger, key, run_id)


def _tags(rollout: Rollout, stage: int, setting: Stage) -> dict[str, str]:
    return {
        "rollout.id": rollout.id,
        "rollout.stage": str(stage),
        "rollout.model": rollout.model,
        "rollout.challenger": rollout.challenger,
        "rollout.champion": rollout.champion,
        "rollout.pattern": rollout.plan.pattern.value,
        "rollout.share": f"{setting.share:g}",
    }


def _params(setting: Stage) -> dict[str, str]:
    """The stage's setting, one parameter a number, gates by their metric."""
    flat = {name: value for name, value in asdict(setting).items() if name != "gates"}
    for gate in setting.gates:
        flat |= {f"{gate.metric.value}.{name}": value for name, value in gate.to_dict().items() if name != "metric"}
    return {name: str(value) for name, value in flat.items() if value is not None}


def _plain(value: Any) -> Any:
    """The value with what JSON has no word for as text."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
