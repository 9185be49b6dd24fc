"""Views of looks: whole in the end, bounded on the way, and what a ledger would say."""

import threading
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.web.conftest import look_of

from model_rollouts.core.decision import decide
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.gates import Metric
from model_rollouts.core.packed import PackedHistogram, bytes_of, packed
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.recompute import unlabelled
from model_rollouts.core.unit_evidence import UnitCounts
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
    return Judging(stage, 100.0, lambda _: ())


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

    assert found.failure == "OSError", "its text may name hosts and users"
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
    size = sum(bytes_of(packed(look)) for look in varied(30))
    evidence = Evidence(Looks(varied(30)), most_bytes=2 * size + 10)
    for name in ("a", "b", "c", "d"):
        evidence.view(name, PLAN, judging, 30.0)

    assert list(evidence._kept) == ["c", "d"]
    assert evidence.view("a", PLAN, judging, 30.0).complete


def test_what_nobody_has_looked_at_for_long_goes() -> None:
    evidence = Evidence(Looks(varied(5)))
    evidence.view("a", PLAN, judging, 30.0)
    evidence._kept["a"].seen_at -= 3600

    evidence.view("b", PLAN, judging, 30.0)

    assert list(evidence._kept) == ["b"]


def test_looks_with_many_latency_bins_take_little_memory_and_what_they_are_counted_with() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        looks = [packed(wide(index)) for index in range(100)]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert taken < 100 * 6000, "with dictionaries they take 33 kilobytes each"
    assert taken * 0.7 < sum(bytes_of(look) for look in looks) < taken * 1.5


def test_looks_are_kept_packed_before_and_after_their_labels_came() -> None:
    whole = varied(8)
    source = Looks([*whole[:2], *(unlabelled(look) for look in whole[2:])])
    evidence = Evidence(source)
    view(evidence)
    source.looks = whole
    view(evidence)

    kept = evidence._kept["r"]
    assert kept.looks == whole
    assert all(
        isinstance(arm.latency, PackedHistogram) for look in kept.looks for arm in (look.champion, look.challenger)
    )
    assert kept.nbytes == sum(bytes_of(look) for look in kept.looks)


def test_packed_histograms_say_the_same() -> None:
    plain = wide(3)
    small = packed(plain)

    assert small == plain
    assert small.to_dict() == plain.to_dict()
    assert list(small.champion.latency.items()) == sorted(plain.champion.latency.items())
    assert sum(small.champion.latency.values()) == sum(plain.champion.latency.values())
    assert (small.champion.latency[400], small.champion.latency.get(399)) == (plain.champion.latency[400], None)
    huge = PackedHistogram({7: 10**12, 1999: 1})
    assert dict(huge) == {7: 10**12, 1999: 1}


def wide(index: int) -> Look:
    """A look with 220 bins in each arm."""
    histogram = {int(bin_): 50 + (int(bin_) * 7 + index) % 400 for bin_ in range(400, 620)}
    counts = RequestCounts(200_000, 30, histogram)
    labels = LabelCounts(980, 900, 90)
    return Look(0, index, counts, replace(counts, latency=dict(histogram)), labels, labels, UnitCounts(), UnitCounts())


def test_after_a_stage_was_resumed_a_signal_says_what_came_since() -> None:
    def seen(at: int) -> dict[str, UnitCounts]:
        return {"champion_units": UnitCounts(new=450), "challenger_units": UnitCounts(new=50 if at >= 20 else 500)}

    looks = [replace(look, **seen(at)) for at, look in enumerate(varied(40))]
    evidence = Evidence(Looks(looks))

    found = evidence.view("r", PLAN, lambda: Judging(0, 100.0, lambda _: (20,)), 30.0)

    points = {point.position: point for point in found.points[Metric.SAMPLE_RATIO]}
    later = decide(PLAN, 0, looks, 100.0, 20)
    gate = next(result for result in later.gates if result.metric is Metric.SAMPLE_RATIO)
    assert points[40].harm == pytest.approx(gate.measured.log_e_harm / gate.harm_threshold)
    assert points[20].harm > 1 > points[40].harm
    assert found.decision is not None
    assert found.decision.reason == later.reason
