"""One way to reach MLflow: explicit addresses, bounded waits, and its two ways to say "not there"."""

import os
import re
from typing import Any

#: Applied where the environment says nothing. MLflow's own defaults wait two minutes for an answer and try again
#: seven times, which would hang a task for a quarter of an hour, and draw progress bars into its log.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_MODEL_ID = re.compile(r"^models:/(m-\w+)/?$|/models/(m-\w+)/artifacts/?$")


def make_client(uri: str) -> Any:
    """An `MlflowClient` whose tracking server and registry are both at `uri`, whatever MLflow's globals say."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def logged_model_id(version: Any) -> str:
    """Id of the logged model behind a registry's version, or "" when there is none.

    MLflow's SQL registry does not keep the id, though the entity has a field for it; the version's source names it,
    as `models:/<id>` or as the folder of the model's artifacts.
    """
    if known := getattr(version, "model_id", None):
        return str(known)
    found = _MODEL_ID.search(version.source or "")
    return (found[1] or found[2]) if found else ""


def is_missing(error: Exception) -> bool:
    """Whether an error of MLflow says that what was asked for is not there."""
    return getattr(error, "error_code", "") in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


def is_taken(error: Exception) -> bool:
    """Whether an error of MLflow says that what was to be made is there already."""
    return getattr(error, "error_code", "") == "RESOURCE_ALREADY_EXISTS"


def quoted(value: str) -> str:
    """A value for MLflow's search filters, which know two kinds of quotes and no escape.

    Raises:
        ValueError: The value contains both kinds.
    """
    if "'" not in value:
        return f"'{value}'"
    if '"' in value:
        raise ValueError(f"{value!r} contains both kinds of quotes, which MLflow can't search for; rename it")
    return f'"{value}"'


def experiment_id(client: Any, name: str) -> str:
    """The id of an experiment, which is made where there is none, and restored where it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:  # somebody else was faster
            if not is_taken(error):
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
