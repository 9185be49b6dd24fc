"""An Evidently workspace in a folder: `evidently ui --workspace <folder>` shows each model's stages as a dashboard."""

import os
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from model_rollouts.adapters.evidently_report import harmless

_OWN = "https://model-rollouts.invalid"  # of ids that are made of names: the same stage is the same snapshot
_METRICS = {
    "Drifted columns, of the sample": ("DriftedColumnsCount", {"value_type": "count"}),
    "Share of drifted columns, of the sample": ("DriftedColumnsCount", {"value_type": "share"}),
}


def keep_snapshot(folder: Path, model: str, rollout_id: str, stage: int, snapshot: Any) -> None:
    """Add a stage's snapshot to the model's project, which is made when it is not there yet.

    Doing it again replaces the stage's snapshot. Rows are not kept, only what Evidently made of them.

    Args:
        folder: The workspace; made when it is not there yet.
        model: Registered model name.
        rollout_id: The rollout.
        stage: Position of the stage.
        snapshot: Of `picture`.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Evidently's switch for its telemetry
    from evidently.ui.workspace import ProjectModel, Workspace

    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create(str(folder))
    project_id = uuid5(NAMESPACE_URL, f"{_OWN}/{model}")
    if workspace.get_project(project_id) is None:
        description = "Drift of each stage's sample: challenger against champion. Full-data scores: the stage's run."
        project = workspace.add_project(ProjectModel(id=project_id, name=harmless(model), description=description))
        _add_panels(project)
    snapshot_id = uuid5(project_id, f"{rollout_id}/{stage}")
    workspace.state.write_snapshot(project_id, snapshot_id, snapshot.to_snapshot_model())


def _add_panels(project: Any) -> None:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel

    for title, (metric, labels) in _METRICS.items():
        values = [PanelMetric(metric=metric, metric_labels=labels, legend=title)]
        project.dashboard.add_panel(line_plot_panel(title=title, values=values, size="half"))
