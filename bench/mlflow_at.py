"""MLflow's address is one for the whole process: benchmarks, tests and fixtures give it back as they found it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # MLflow sets them as well
_SET = (
    ("mlflow.tracking._tracking_service.utils", "_tracking_uri"),
    ("mlflow.tracking._model_registry.utils", "_registry_uri"),
)


@contextmanager
def mlflow_as_before() -> Iterator[None]:
    """Whatever address is set within, by MLflow or in the environment, is forgotten afterwards."""
    named = {name: os.environ.get(name) for name in _NAMES}
    were = {(module, name): getattr(sys.modules.get(module), name, None) for module, name in _SET}
    try:
        yield
    finally:
        for (module, name), value in were.items():
            if module in sys.modules:
                setattr(sys.modules[module], name, value)
        for name, value in named.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def mlflow_at(server: str) -> Iterator[None]:
    """Have `mlflow` itself talk to a server, whatever address a test or the gateway's loader has left behind."""
    import mlflow

    with mlflow_as_before():
        mlflow.set_tracking_uri(server)
        mlflow.set_registry_uri(server)
        yield
