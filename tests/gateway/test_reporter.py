"""What a gateway tells the store."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.gateway.reporter import Reporter

Until = Callable[..., None]


class Store:
    """Takes steps, or is away, or refuses."""

    def __init__(self) -> None:
        self.taken: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.tries = 0

    def open(self) -> "Store":
        self.tries += 1
        if self.error is not None:
            raise self.error
        return self

    def roll_back(self, rollout_id: str, actor: str, reason: str, evidence: Any = None) -> None:
        self.taken.append(("roll_back", rollout_id, actor, reason, evidence))

    def hold(self, rollout_id: str, stage: int, actor: str, reason: str, evidence: Any) -> None:
        self.taken.append(("hold", rollout_id, stage, actor, reason, evidence))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def reporter(store: Store) -> Iterator[Reporter]:
    reporter = Reporter(store.open, "gateway g1", 0.01)
    reporter.start()
    yield reporter
    reporter.stop()


def test_a_report_reaches_the_store_once(reporter: Reporter, store: Store, until: Until) -> None:
    reporter.roll_back("r1", "broken", {"n": 1})
    until(lambda: reporter.waiting == 0)
    assert store.taken == [("roll_back", "r1", "gateway g1", "broken", {"n": 1})]


def test_it_is_told_again_until_the_store_is_back(reporter: Reporter, store: Store, until: Until) -> None:
    store.error = ConnectionError("away")
    reporter.hold("r1", 2, "not logged", {})
    reporter.hold("r1", 2, "not logged again", {})
    reporter.roll_back("r1", "broken", {})
    until(lambda: store.tries > 3)
    assert (store.taken, reporter.waiting) == ([], 2)
    store.error = None
    until(lambda: reporter.waiting == 0)
    assert [step[:3] for step in store.taken] == [("hold", "r1", 2), ("roll_back", "r1", "gateway g1")]


def test_a_rollout_that_has_moved_on_is_left_alone(reporter: Reporter, store: Store, until: Until) -> None:
    store.error = IllegalTransitionError("r1 has ended")
    reporter.roll_back("r1", "broken", {})
    until(lambda: reporter.waiting == 0)
    assert (store.taken, store.tries) == ([], 1)
