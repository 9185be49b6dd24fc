"""Looks that are kept in memory are those that the store has, whatever others do to it."""

from dataclasses import replace
from typing import Any

import pytest

from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.kept_looks import KeptLooks

LABELS = LabelCounts(9, 9, 1)


def look(index: int, *, stage: int = 0, labels: bool = True, requests: int = 10) -> Look:
    counts = RequestCounts(requests, 1, {3: requests - 1})
    return Look(stage, index, counts, counts, *((LABELS, LABELS) if labels else ()))


class Counted:
    """A store that tells how many looks were read from it."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.read = store, 0

    def looks(self, rollout_id: str) -> list[Look]:
        return self._told(self.store.looks(rollout_id))

    def looks_since(self, *arguments: Any) -> list[Look]:
        return self._told(self.store.looks_since(*arguments))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def _told(self, found: list[Look]) -> list[Look]:
        self.read += len(found)
        return found


@pytest.fixture
def counted(steps: Any) -> Counted:
    steps.start("r1")
    return Counted(steps.store)


def test_only_what_is_new_is_read(counted: Counted) -> None:
    kept = KeptLooks(counted)
    counted.save_looks("r1", [look(0), look(1), look(2, labels=False), look(3, labels=False)])
    assert kept.looks("r1") == counted.store.looks("r1")
    assert counted.read == 4

    assert kept.looks("r1") == counted.store.looks("r1")
    assert counted.read == 4
    counted.save_looks("r1", [look(2), look(4, labels=False)])  # labels of one, and another look
    assert kept.looks("r1") == counted.store.looks("r1")
    assert counted.read == 6
    counted.save_looks("r1", [look(0, stage=1, labels=False)])
    assert kept.looks("r1") == counted.store.looks("r1")
    assert counted.read == 7


def test_labels_that_come_out_of_turn_are_there_once_those_before_them_are(counted: Counted) -> None:
    kept = KeptLooks(counted)
    counted.save_looks("r1", [look(0, labels=False), look(1, labels=False)])
    kept.looks("r1")
    counted.save_looks("r1", [look(1)])
    kept.looks("r1")

    counted.save_looks("r1", [look(0)])

    assert kept.looks("r1") == counted.store.looks("r1") == [look(0), look(1)]


@pytest.mark.parametrize("backup", [[look(0)], [look(0), look(1, labels=False), look(2)]])
def test_a_store_from_a_backup_is_read_anew(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, backup: list[Look]
) -> None:
    kept = KeptLooks(counted)
    counted.save_looks("r1", [look(0), look(1), look(2)])
    kept.looks("r1")

    # what can't be done to the tables, which refuse it, a restore does
    monkeypatch.setattr(counted.store, "looks", lambda _: list(backup))
    monkeypatch.setattr(counted.store, "look_counts", lambda _: (len(backup), 1))

    assert kept.looks("r1") == backup


def test_what_somebody_does_to_the_list_is_nobody_elses(counted: Counted) -> None:
    kept = KeptLooks(counted)
    counted.save_looks("r1", [look(0)])

    kept.looks("r1").clear()

    assert kept.looks("r1") == [look(0)]


def test_memory_is_bounded_and_those_that_do_not_fit_are_read_each_time(steps: Any, counted: Counted) -> None:
    steps.store.apply(steps.rolling_back("r1"))
    now = [0.0]
    for rollout_id in ("r2", "r3"):
        steps.start(rollout_id)
        steps.store.apply(steps.rolling_back(rollout_id))
    for rollout_id in ("r1", "r2", "r3"):
        counted.save_looks(rollout_id, [look(index) for index in range(20)])
    one = KeptLooks(counted)
    one.looks("r1")
    kept = KeptLooks(counted, most_bytes=one.nbytes * 5 // 2, clock=lambda: now[0])

    for _ in range(3):
        for rollout_id in ("r1", "r2", "r3"):
            assert kept.looks(rollout_id) == counted.store.looks(rollout_id)
    assert kept.nbytes == one.nbytes * 2
    counted.read = 0
    for rollout_id in ("r1", "r2", "r3"):
        kept.looks(rollout_id)
    assert counted.read == 20  # the third has no room, and puts out neither of the others

    now[0] = 2 * 3600.0
    kept.looks("r2")
    kept.looks("r3")  # nobody has asked for the first in a while: it makes room
    counted.read = 0
    kept.looks("r2")
    kept.looks("r3")
    assert counted.read == 0


def test_tallies_are_kept_and_made_anew_when_looks_are_gone(counted: Counted) -> None:
    kept, plan = KeptLooks(counted), plan_canary(CanaryParameters(steps=(5, 100)))
    counted.save_looks("r1", [look(0), look(1)])
    looks = kept.looks("r1")
    ledger = kept.ledger("r1", plan, looks)
    counted.save_looks("r1", [look(2)])

    assert kept.ledger("r1", plan, kept.looks("r1")) is ledger
    assert ledger.matured == 3
    anew = kept.ledger("r1", plan, looks)
    assert anew is not ledger
    assert anew.matured == 2


def test_packed_looks_are_the_same_looks(counted: Counted) -> None:
    full = look(0, requests=1000)
    wide = replace(full, champion=RequestCounts(1000, 0, {5: 400, 900: 600}))
    counted.save_looks("r1", [wide])

    assert KeptLooks(counted).looks("r1") == [wide]
