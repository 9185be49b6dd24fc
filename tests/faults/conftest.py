"""One set of processes for all tests: without Airflow at first, and with it from the first test that needs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

for _name in ("canaries", "moves", "promises"):  # their assertions say what they compared
    pytest.register_assert_rewrite(f"tests.faults.{_name}")

from tests.faults.canaries import MODEL, serves  # noqa: E402  # after that
from tests.faults.stack import GATEWAYS, Stack, running  # noqa: E402

VERSIONS = 7  # as many as canaries need that follow each other


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them, so that `make test` leaves them out; those that need Airflow come last, and start it."""
    own = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in own:
        item.add_marker("faults")
    items.sort(key=lambda item: item in own and "airflow" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, MLflow and two gateways."""
    with running(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Stack:
    """The same with Airflow."""
    stack.start_airflow()
    return stack


@pytest.fixture(scope="session")
def serving(airflow: Stack) -> Stack:
    """The same with a model that serves on both gateways, and versions that are to follow each other."""
    airflow.register(MODEL, [0.0] * VERSIONS)
    airflow.wiring().service.adopt(MODEL, "test")
    for name in GATEWAYS:
        airflow.until(f"model on {name}", lambda name=name: serves(airflow, name), 60)
    return airflow
