from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.replay.past import Clock, Live, Past, Registry

from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.service import RolloutService


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path / "log")


@pytest.fixture
def live(past: Past, tmp_path: Path) -> Iterator[Live]:
    store = SqlStore(f"sqlite:///{tmp_path / 'rollouts.db'}")
    store.migrate()
    clock = Clock()
    service = RolloutService(
        store, Registry(), evidence=store, log=DeltaPredictionLog(past.root), clock=clock, new_salt=lambda: "salt"
    )
    yield Live(past, store, service, clock)
    store.close()
