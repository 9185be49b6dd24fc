"""What model-rollouts adds to Airflow's API server. Loaded by every Airflow process, so it imports next to nothing."""

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from model_rollouts.web.app import PREFIX, LazyApp
from model_rollouts.web.warming import warmed


class RolloutsPlugin(AirflowPlugin):
    """The receiver of MLflow's webhooks, under /model-rollouts/registry-events of the API server."""

    name = "model_rollouts"
    fastapi_apps: ClassVar[list[dict[str, Any]]] = [
        {"name": "model-rollouts", "url_prefix": PREFIX, "app": LazyApp()},
    ]
    fastapi_root_middlewares: ClassVar[list[dict[str, Any]]] = [
        {"name": "model-rollouts: warms the receiver", "middleware": warmed},
    ]
