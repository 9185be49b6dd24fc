"""The training project's modules, and its variants fitted once on the real flights."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

PROJECT = Path(__file__).resolve().parents[2] / "mlflow" / "flights"


@pytest.fixture(scope="session")
def project() -> Iterator[SimpleNamespace]:
    """Modules of mlflow/flights, imported as `python train.py` there would."""
    names = ("recent", "flights_data", "model", "variants", "train", "replay")
    sys.path.insert(0, str(PROJECT))
    try:
        yield SimpleNamespace(**{name: import_module(name) for name in names})
    finally:
        sys.path.remove(str(PROJECT))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def flights(project: SimpleNamespace):  # type: ignore[no-untyped-def]  # a DataFrame; pandas is not typed here
    """Every flight with an arrival."""
    return project.flights_data.load()


@pytest.fixture(scope="session")
def models(project: SimpleNamespace, flights) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """Each variant, fitted as the project does, ready to serve with its own tables."""
    fitted = {}
    for name, variant in project.variants.VARIANTS.items():
        model, estimator, tables, _ = project.train._fit(variant, flights)
        model.use(estimator, tables)
        fitted[name] = model
    return fitted
