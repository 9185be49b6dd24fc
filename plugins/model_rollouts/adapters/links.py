"""Addresses for people's browsers."""

from urllib.parse import quote, urlsplit, urlunsplit

from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.settings import Settings


def mlflow_address(settings: Settings) -> str:
    """MLflow's own page, without a user's name or password; "" where it is no web address."""
    parts = urlsplit(settings.mlflow_ui_url or settings.mlflow_tracking_uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def run_address(settings: Settings, run_id: str) -> str:
    """A run in MLflow's page; "" where that has no web address.

    Raises:
        Exception: MLflow can't be asked which experiment the run is of.
    """
    base = mlflow_address(settings)
    if not base:
        return ""
    experiment = make_client(settings.mlflow_tracking_uri).get_run(run_id).info.experiment_id
    return f"{base}/#/experiments/{quote(str(experiment))}/runs/{quote(run_id)}"
