"""A registry with versions that are well and versions that are not."""

import pytest
from tests.chaos.world import BODIES, VERSIONS

from bench.serving import register


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a registry, a SQLite file, with each of BODIES as a version of `bench.serving.MODEL`."""
    root = tmp_path_factory.mktemp("registry")
    return register(root, {VERSIONS[name]: body for name, body in BODIES.items()})
