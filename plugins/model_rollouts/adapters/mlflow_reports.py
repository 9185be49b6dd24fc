"""Reads the reports of a rollout's stages from their MLflow runs."""

import posixpath
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from model_rollouts.adapters.mlflow_client import is_missing, make_client, quoted
from model_rollouts.core.errors import NotFoundError, RolloutError
from model_rollouts.core.rollout import Rollout

MOST_BYTES = 64 * 1024 * 1024  # of one file; decisions of ten thousand looks have tens of megabytes
_MOST_FILES = 200
_START = "index.html"


@dataclass(frozen=True, slots=True)
class StageReports:
    """What a stage's run holds.

    Attributes:
        stage: Position of the stage.
        run_id: Its MLflow run.
        experiment_id: The run's experiment.
        files: Path -> size in bytes, None where it is not known. Of a folder with a first page, that page.
        tags: The run's tags.
    """

    stage: int
    run_id: str
    experiment_id: str
    files: Mapping[str, int | None]
    tags: Mapping[str, str]


class MlflowReports:
    """Reads artifacts.

    Args:
        tracking_uri: The MLflow server.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> Any:
        return make_client(self.tracking_uri)

    def stages(self, rollout: Rollout) -> list[StageReports]:
        """The runs of a rollout's stages, in order; of several of one stage, the eldest, as tasks use it."""
        experiment = self._client.get_experiment_by_name(f"rollouts/{rollout.model}")
        if experiment is None:
            return []
        runs = self._client.search_runs(
            [experiment.experiment_id],
            filter_string=f"tags.`rollout.id` = {quoted(rollout.id)}",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=200,
        )
        found: dict[int, StageReports] = {}
        for run in runs:
            stage, tags = run.data.tags.get("rollout.stage", ""), dict(run.data.tags)
            if stage.isdigit() and int(stage) not in found:
                files = self._files(run.info.run_id)
                found[int(stage)] = StageReports(int(stage), run.info.run_id, run.info.experiment_id, files, tags)
        return [found[stage] for stage in sorted(found)]

    def read(self, rollout: Rollout, run_id: str, path: str) -> bytes:
        """One file of a run of the rollout.

        Raises:
            NotFoundError: The run is not one of the rollout's, or has no such file.
            RolloutError: The file is too large to be shown.
        """
        if posixpath.normpath(path) != path or path.startswith(("/", "..")) or "\\" in path or "\0" in path:
            raise NotFoundError(f"there is no report {path!r}")
        from mlflow.exceptions import MlflowException

        try:
            tags = self._client.get_run(run_id).data.tags
        except MlflowException as error:
            if is_missing(error):
                raise NotFoundError(f"MLflow has no run {run_id!r}") from error
            raise
        if tags.get("rollout.id") != rollout.id:
            raise NotFoundError(f"run {run_id!r} is none of {rollout.id}")
        folder = posixpath.dirname(path)
        listed = {each.path: each for each in self._client.list_artifacts(run_id, folder or None)}
        entry = listed.get(path)
        if entry is None or entry.is_dir:
            raise NotFoundError(f"the run of this stage has no report {path!r}")
        if (entry.file_size or 0) > MOST_BYTES:
            raise RolloutError(
                f"{path} has {entry.file_size:,} bytes, at most {MOST_BYTES:,} are shown here; get it from MLflow"
            )
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self._client.download_artifacts(run_id, path, scratch)).read_bytes()

    def _files(self, run_id: str) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for entry in self._client.list_artifacts(run_id)[:_MOST_FILES]:
            if not entry.is_dir:
                found[entry.path] = entry.file_size
                continue
            inside = {each.path: each.file_size for each in self._client.list_artifacts(run_id, entry.path)}
            if (first := f"{entry.path}/{_START}") in inside:
                found[first] = inside[first]
        return found
