"""What model-rollouts adds to Airflow's API server. Loaded by every Airflow process, so it imports next to nothing.

An installed package is found by its entry point `airflow.plugins`; a copied folder by `plugins/rollouts_plugin.py`.
"""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from model_rollouts.web.app import PREFIX, LazyApp
from model_rollouts.web.warming import warmed


class RolloutsPlugin(AirflowPlugin):
    """The receiver of MLflow's webhooks, under /model-rollouts/registry-events of the API server."""

    name = "model_rollouts"
    fastapi_apps: list[Any] = [  # noqa: RUF012 - as Airflow has it
        {"name": "model-rollouts", "url_prefix": PREFIX, "app": LazyApp()},
    ]
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {"name": "model-rollouts: warms the receiver", "middleware": warmed},
    ]
