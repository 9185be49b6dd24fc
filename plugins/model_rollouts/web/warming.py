"""Gets the page and the receiver ready when the API server starts, so that their first answers are as fast as the next.

Importing the parts and reading a DAG for the first time takes about a second of processor time.
"""

import logging
import threading
from typing import Any

logger = logging.getLogger(__name__)


def warmed(app: Any) -> Any:
    """Gives the API server's app back as it is; called once, when the server starts, and in no other process.

    It stands where Airflow takes a middleware of a plugin, which is the only word that a plugin gets of the start.
    """
    threading.Thread(target=warm, name="webhook-warming", daemon=True).start()
    return app


def warm() -> None:
    """Make the page; and do once what a delivery does, without one, where a secret is set. What fails is left to it."""
    try:
        from model_rollouts.web.page import page_app
        from model_rollouts.wiring import shared

        page_app()
        if shared().settings.webhook_secret is None:
            return
        import airflow.api.common.trigger_dag  # noqa: F401 - what a delivery uses
        from airflow.models.dagbag import DBDagBag
        from airflow.utils.session import create_session

        from model_rollouts.web.app import shared_app
        from model_rollouts.web.dag_runs import why_not_ready
        from model_rollouts.web.hints import WATCHING_DAG

        shared_app()
        if why_not_ready(WATCHING_DAG) is None:
            with create_session() as session:
                DBDagBag().get_latest_version_of_dag(WATCHING_DAG, session=session)
            shared().registry_watch.changes.pending()
    except Exception as error:
        logger.info("the webhook receiver could not be warmed: %s: %s", type(error).__name__, error)
