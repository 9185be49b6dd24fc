"""A version's files from the registry, loaded only where its flavour is allowed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model_rollouts.core.flavours import check


def load_version(tracking_uri: str, model: str, version: str, flavours: Iterable[str], folder: str) -> Any:
    """Download a version, look what it is, and only then load it.

    What is looked at are the files that are loaded, so nothing can change in between.

    Args:
        tracking_uri: MLflow server with the registry.
        model: Registered model name.
        version: Its number.
        flavours: See `core.flavours.check`.
        folder: Where its files go; they are needed for as long as it is used.

    Raises:
        FlavourError: It is of another flavour; nothing of it was run.
        Exception: MLflow is away, there is no such version, or it can't be loaded here.
    """
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    files = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model}/{version}", dst_path=folder)
    metadata = Model.load(str(Path(files) / "MLmodel"))
    beside = [each.name for each in Path(files).iterdir() if each.is_file()]
    check(metadata.flavors, beside, flavours, f"version {version} of {model}")
    return mlflow.pyfunc.load_model(files)
