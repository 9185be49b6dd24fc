"""What model-rollouts adds to Airflow's API server. Loaded by every Airflow process, so it imports next to nothing.

An installed package is found by its entry point `airflow.plugins`; a copied folder by `plugins/rollouts_plugin.py`.
"""

from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from model_rollouts.web.app import PAGE_PREFIX, PREFIX, LazyApp, page_app
from model_rollouts.web.warming import warmed

#: Airflow may be served under a path of its own, such as /airflow.
_PAGE = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PAGE_PREFIX + "/"
_ICONS = {"icon": f"{_PAGE}icon.svg", "icon_dark_mode": f"{_PAGE}icon-dark.svg"}


class RolloutsPlugin(AirflowPlugin):
    """The page "Rollouts", and the receiver of MLflow's webhooks under /model-rollouts/registry-events."""

    name = "model_rollouts"
    fastapi_apps: list[Any] = [  # noqa: RUF012 - as Airflow has it; the first prefix that fits is served
        {"name": "model-rollouts page", "url_prefix": PAGE_PREFIX, "app": LazyApp(page_app)},
        {"name": "model-rollouts", "url_prefix": PREFIX, "app": LazyApp()},
    ]
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Rollouts",
            "href": _PAGE,
            "destination": "nav",
            "nav_top_level": True,
            "url_route": "rollouts",
            **_ICONS,
        },
        {
            "name": "Rollouts",
            "href": f"{_PAGE}?dag_id={{DAG_ID}}",
            "destination": "dag",
            "url_route": "dag-rollouts",
            **_ICONS,
        },
        {
            "name": "Rollout",
            "href": f"{_PAGE}?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "run-rollout",
            **_ICONS,
        },
    ]
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {"name": "model-rollouts: warms the receiver", "middleware": warmed},
    ]
