"""MLflow's tracking address is one for the whole process: a fixture that logs models gives it back afterwards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # MLflow sets them as well


@contextmanager
def mlflow_at(server: str) -> Iterator[None]:
    """Have `mlflow` itself talk to a server, whatever address a test or the gateway's loader has left behind."""
    import mlflow
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as tracking

    set_before, named_before = (tracking._tracking_uri, registry._registry_uri), {n: os.environ.get(n) for n in _NAMES}
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(set_before[0])
        mlflow.set_registry_uri(set_before[1])
        for name, value in named_before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
