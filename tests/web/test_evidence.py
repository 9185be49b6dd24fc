"""Views of looks: whole in the end, bounded on the way, and what a ledger would say."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.web.conftest import look_of

from model_rollouts.core.decision import decide
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Metric
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.recompute import unlabelled
from model_rollouts.web.evidence import MOST_POINTS, Evidence, Judging, View

PLAN = plan_canary(CanaryParameters(steps=(10, 100)))


class Looks:
    """Looks that grow."""

    def __init__(self, looks: Sequence[Look]) -> None:
        self.looks = list(looks)
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def looks_after(self, rollout_id: str, stage: int, look: int, most: int) -> list[Look]:
        self.gate.wait(20)
        if self.failure:
            raise self.failure
        return [each for each in self.looks if (each.stage, each.index) > (stage, look)][:most]

    def labelled_from(self, rollout_id: str, stage: int, look: int, until: tuple[int, int], most: int) -> list[Look]:
        found = [each for each in self.looks if (stage, look) <= (each.stage, each.index) <= until and each.matured]
        return found[:most]

    def look_counts(self, rollout_id: str) -> dict[int, int]:
        counts: dict[int, int] = {}
        for each in self.looks:
            counts[each.stage] = counts.get(each.stage, 0) + 1
        return counts


def judging(stage: int = 0) -> Judging:
    return Judging(stage, 100.0, lambda _: 0)


def view(evidence: Evidence, stage: int = 0, wait: float = 30.0) -> View:
    evidence._kept.get("r") and setattr(evidence._kept["r"], "updated_at", -1e9)  # as if a moment had passed
    return evidence.view("r", PLAN, lambda: judging(stage), wait)


def varied(count: int, stage: int = 0) -> list[Look]:
    rng = np.random.default_rng(stage)
    return [
        replace(
            look_of(index), stage=stage, challenger=replace(look_of(0).challenger, errors=int(rng.integers(10, 40)))
        )
        for index in range(count)
    ]


def test_a_view_says_what_a_decision_on_all_looks_says() -> None:
    looks = [*varied(37), *varied(25, stage=1)]

    found = view(Evidence(Looks(looks), piece=7), stage=1)

    expected = decide(PLAN, 1, looks, 100.0)
    assert found.complete
    assert found.decision is not None
    assert (found.decision.verdict, found.decision.reason) == (expected.verdict, expected.reason)
    assert (found.looks, found.of) == (62, 62)
    assert found.arms[1]["challenger"]["errors"] == sum(look.challenger.errors for look in looks if look.stage == 1)
    points = found.points[Metric.ERROR_RATE]
    assert [point.position for point in points] == list(range(1, 63))
    gate = next(result for result in expected.gates if result.metric is Metric.ERROR_RATE)
    assert points[-1].effect == pytest.approx(gate.measured.effect)


def test_looks_that_come_later_are_added_and_the_rest_is_not_read_again() -> None:
    looks = Looks(varied(20))
    evidence = Evidence(looks)
    view(evidence)
    looks.looks += [replace(look, index=look.index + 20) for look in varied(3)]

    found = view(evidence)

    assert found.looks == 23
    assert found.points[Metric.ERROR_RATE][-1].position == 23
    fresh = view(Evidence(looks))
    assert found.arms == fresh.arms
    assert found.points[Metric.ERROR_RATE][-1] == fresh.points[Metric.ERROR_RATE][-1]


def test_labels_that_come_later_are_counted_once() -> None:
    whole = varied(30)
    looks = Looks([*whole[:5], *(unlabelled(look) for look in whole[5:])])
    evidence = Evidence(looks, piece=4)
    assert view(evidence).arms[0]["champion"]["labelled"] == 5 * 900
    looks.looks = whole

    found = view(evidence)

    assert found.arms[0]["champion"]["labelled"] == 30 * 900
    assert found.decision == view(Evidence(Looks(whole))).decision
    assert found.points[Metric.WRONG_RATE][-1].position == 30


def test_nobody_waits_for_more_than_they_said() -> None:
    looks = Looks(varied(120))
    looks.gate.clear()
    evidence = Evidence(looks, piece=50)

    first = view(evidence, wait=0.05)

    assert (first.complete, first.decision) == (False, None)
    looks.gate.set()
    assert view(evidence).complete


def test_a_picture_has_at_most_so_many_points_however_many_looks_there_are() -> None:
    looks = Looks(varied(420))
    evidence = Evidence(looks, piece=150)
    found = view(evidence)
    assert 100 <= len(found.points[Metric.ERROR_RATE]) <= MOST_POINTS
    for _ in range(70):
        looks.looks.append(replace(looks.looks[0], index=len(looks.looks)))
        found = view(evidence)
    points = found.points[Metric.ERROR_RATE]
    assert len(points) <= MOST_POINTS
    assert points[-1].position == 490
    assert [p.position for p in points] == sorted({p.position for p in points})


def test_a_store_that_fails_is_told_and_what_was_known_stays() -> None:
    looks = Looks(varied(10))
    evidence = Evidence(looks)
    before = view(evidence)
    looks.failure = OSError("the disk is gone\nsecret")

    found = view(evidence)

    assert found.failure == "OSError: the disk is gone"
    assert (found.points, found.decision, found.complete) == (before.points, before.decision, False)
    looks.failure = None
    assert view(evidence).complete


def test_a_store_that_was_restored_is_added_up_anew() -> None:
    looks = Looks(varied(30))
    evidence = Evidence(looks)
    view(evidence)
    looks.looks = looks.looks[:12]

    found = view(evidence)

    assert (found.looks, found.points[Metric.ERROR_RATE][-1].position) == (12, 12)


def test_the_least_recently_seen_goes_when_memory_is_full() -> None:
    evidence = Evidence(Looks(varied(30)), most_looks=70)
    for name in ("a", "b", "c", "d"):
        evidence.view(name, PLAN, judging, 30.0)

    assert list(evidence._kept) == ["c", "d"]
    assert evidence.view("a", PLAN, judging, 30.0).complete
