"""One set of processes for all tests: without Airflow at first, and with it from the first test that needs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.stack import Stack, running


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them, so that `make test` leaves them out."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("faults")


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
