"""Closed looks: written once, labels filled in once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.errors import NotFoundError
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts


def _look(stage: int = 0, index: int = 0, requests: int = 100, wrong: int | None = None) -> Look:
    counts = RequestCounts(requests, 3, {0: 40, 512: 57})
    labels = None if wrong is None else LabelCounts(97, 90, wrong)
    return Look(stage, index, counts, counts, labels, labels)


def test_looks_come_back_as_they_were_in_order(steps: Any, store: SqlStore) -> None:
    steps.start()
    looks = [_look(1, 0), _look(0, 10), _look(0, 2, wrong=5)]

    store.save_looks("r1", looks)

    assert store.looks("r1") == [looks[2], looks[1], looks[0]]


def test_the_first_writer_of_a_look_wins(steps: Any, store: SqlStore) -> None:
    steps.start()
    store.save_looks("r1", [_look(requests=100)])

    store.save_looks("r1", [_look(requests=200), _look(index=1)])

    assert store.looks("r1") == [_look(requests=100), _look(index=1)]


def test_labels_are_filled_in_once_and_counts_never(steps: Any, store: SqlStore) -> None:
    steps.start()
    store.save_looks("r1", [_look(requests=100)])

    store.save_looks("r1", [_look(requests=200, wrong=7)])
    assert store.looks("r1") == [_look(requests=100, wrong=7)]

    store.save_looks("r1", [_look(requests=300, wrong=9)])
    store.save_looks("r1", [_look()])
    assert store.looks("r1") == [_look(requests=100, wrong=7)]


def test_looks_of_two_rollouts_do_not_mix(steps: Any, store: SqlStore) -> None:
    steps.start("r1")
    store.apply(steps.rolling_back("r1"))
    steps.start("r2")

    store.save_looks("r1", [_look(requests=101)])
    store.save_looks("r2", [_look(requests=102)])

    assert (store.looks("r1"), store.looks("r2")) == ([_look(requests=101)], [_look(requests=102)])


def test_looks_of_nobody_are_refused_and_no_looks_are_nothing(steps: Any, store: SqlStore) -> None:
    steps.start()

    with pytest.raises(NotFoundError, match="no rollout 'r9'"):
        store.save_looks("r9", [_look()])
    store.save_looks("r1", [])

    assert store.looks("r1") == []


def test_many_watchers_that_close_the_same_looks_leave_each_once(steps: Any, store: SqlStore) -> None:
    steps.start()
    batches = [[_look(index=i, requests=100 + who, wrong=who) for i in range(20)] for who in range(4)]
    batches[1].reverse()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda looks: store.save_looks("r1", looks), batches * 3))

    kept = store.looks("r1")
    assert [look.index for look in kept] == list(range(20))
    assert {look.champion.requests for look in kept} <= {100, 101, 102, 103}
    assert all(look.champion_labels is not None for look in kept)
