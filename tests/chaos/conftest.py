"""A registry with versions that are well and versions that are not."""

from pathlib import Path

import pytest
from tests.chaos.world import BODIES, VERSIONS

from bench.serving import register


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them, so that `make test` leaves them out."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("chaos")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a registry, a SQLite file, with each of BODIES as a version of `bench.serving.MODEL`."""
    root = tmp_path_factory.mktemp("registry")
    return register(root, {VERSIONS[name]: body for name, body in BODIES.items()})
