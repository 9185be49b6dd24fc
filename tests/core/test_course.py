"""The course of the gates over the looks is what a ledger says after each of them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from model_rollouts.core.course import Course, thinned
from model_rollouts.core.decision import Decision, decide_from
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.gates import Role
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import Plan
from model_rollouts.core.recompute import unlabelled
from model_rollouts.core.unit_evidence import ClusterSums, UnitCounts

METRICS = ("error_rate", "latency_p50", "latency_p95", "latency_p99")
STAGES, EACH = 3, 12


def arm(rng: np.random.Generator, n: int, worse: float) -> tuple[RequestCounts, LabelCounts, UnitCounts, ClusterSums]:
    errors = int(rng.binomial(n, min(1.0, 0.02 * worse)))
    bins, counts = np.unique(rng.integers(300, 420, n - errors), return_counts=True)
    known = int(rng.binomial(n - errors, 0.95))
    sums = ClusterSums(n, 2 * n, float(rng.normal(0, 1)), float(n), float(n) / 50)
    return (
        RequestCounts(n, errors, dict(zip(bins.tolist(), counts.tolist(), strict=True))),
        LabelCounts(n - errors, known, int(rng.binomial(known, min(1.0, 0.1 * worse)))),
        UnitCounts(n // 2, dict.fromkeys(METRICS, sums)),
        sums,
    )


def looks_of(seed: int, worse: float) -> list[Look]:
    rng = np.random.default_rng(seed)
    found = []
    for position in range(STAGES * EACH):
        (a, a_labels, a_units, a_sums), (b, b_labels, b_units, b_sums) = (
            arm(rng, 300, 1.0),
            arm(rng, int(rng.integers(0, 200)), worse),
        )
        look = Look(position // EACH, position % EACH, a, b, a_labels, b_labels, a_units, b_units)
        look = replace(look, champion_label_clusters=a_sums, challenger_label_clusters=b_sums)
        found.append(look if position < STAGES * EACH - 4 else unlabelled(look))
    return found


def plan_of(role: Role | None = None) -> Plan:
    plan = plan_canary(CanaryParameters(steps=(20, 50, 100), first_pass_odds=3.0))
    if role is None:
        return plan
    stages = tuple(
        replace(stage, gates=tuple(replace(gate, role=role) if i == 2 else gate for i, gate in enumerate(stage.gates)))
        for stage in plan.stages
    )
    return replace(plan, stages=stages)


def assert_alike(one: Decision, other: Decision) -> None:
    assert (one.verdict, one.action, one.reason) == (other.verdict, other.action, other.reason)
    assert one.log_e_family == pytest.approx(other.log_e_family, rel=1e-9, abs=1e-9)
    for a, b in zip(one.gates, other.gates, strict=True):
        assert (a.metric, a.verdict, a.effect_low, a.effect_high) == (b.metric, b.verdict, b.effect_low, b.effect_high)
        for name in a.measured.__dataclass_fields__:
            x, y = getattr(a.measured, name), getattr(b.measured, name)
            assert x == (pytest.approx(y, rel=1e-8, abs=1e-8) if isinstance(y, float) else y), (a.metric, name)


@pytest.mark.parametrize("worse", [0.8, 1.0, 4.0, 60.0])
@pytest.mark.parametrize(("role", "signals_from"), [(None, 0), (Role.SIGNAL, 0), (Role.SIGNAL, 9)])
def test_the_course_decides_as_the_ledger_does_in_every_stage(
    worse: float, role: Role | None, signals_from: int
) -> None:
    plan, looks = plan_of(role), looks_of(5, worse)
    course, ledger = Course(plan), Ledger(plan)
    for count in (1, 7, EACH, EACH + 3, 2 * EACH, 2 * EACH + 1, 3 * EACH):
        stage = looks[count - 1].stage
        for each in (course, ledger):
            each.take(looks[:count])
        for elapsed in (10.0, 4000.0):
            assert_alike(
                decide_from(course, stage, elapsed, signals_from), decide_from(ledger, stage, elapsed, signals_from)
            )


def test_a_point_has_the_gates_bounds_and_evidence_over_its_threshold() -> None:
    plan, looks = plan_of(), looks_of(6, 4.0)
    course, ledger = Course(plan), Ledger(plan)
    for count in (5, EACH + 5, 3 * EACH):
        course.take(looks[:count])
        ledger.take(looks[:count])
        stage = looks[count - 1].stage
        results = {r.metric: r for r in decide_from(ledger, stage, 10.0).gates}
        for gate in plan.stage(stage).gates:
            point, result = course.point(gate, stage), results[gate.metric]
            low, high = ledger.tally(gate, stage, 0).bounds(result.harm_threshold, result.pass_threshold)
            known = ledger.matured if gate.metric.matures else count
            assert (point.position, point.stage, point.look) == (known, stage, (count - 1) % EACH)
            assert (point.low, point.high) == (low, high)
            assert point.effect == pytest.approx(result.measured.effect, rel=1e-9)
            assert point.harm == pytest.approx(result.measured.log_e_harm / result.harm_threshold, rel=1e-8)
            assert point.proof == pytest.approx(result.measured.log_e_pass / result.pass_threshold, rel=1e-8)


def test_a_thinned_course_keeps_the_ends_and_its_size() -> None:
    assert thinned(5, [5], 200) == [1, 2, 3, 4, 5]
    shown = thinned(10_000, [2_013, 10_000], 150)
    assert {2_013, 10_000} <= set(shown)
    assert len(shown) <= 152
    assert max(b - a for a, b in pairwise(shown)) <= 67
    assert thinned(0, [], 10) == []
