"""The gates that a plan gets when nobody sets any."""

import json
from dataclasses import replace
from typing import Any

import pytest

from model_rollouts.core.default_gates import default_gates
from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage

SHARES = [0, 5, 50, 100]
everywhere = pytest.mark.parametrize(("pattern", "share"), [(p, s) for p in Pattern for s in SHARES])


def stage(pattern: Pattern, share: float, *, labels: bool = True) -> Stage:
    control = 10.0 if share == 100 else 0.0
    mirror = 0 if share else 100
    return Stage(share, default_gates(pattern, share, labels=labels), 60, 86_400, control, mirror_percent=mirror)


def roles(pattern: Pattern, share: float, *, labels: bool = True) -> dict[Metric, Role]:
    return {gate.metric: gate.role for gate in default_gates(pattern, share, labels=labels)}


@everywhere
@pytest.mark.parametrize("labels", [True, False])
def test_they_make_a_plan_that_can_roll_back(pattern: Pattern, share: float, labels: bool) -> None:
    made = Plan(pattern, (stage(pattern, share, labels=labels),))
    rolling = made.stages[0].rolling_back
    assert {Metric.ERROR_RATE, Metric.LATENCY_P95, Metric.LATENCY_P99} <= {gate.metric for gate in rolling}
    assert sum(made.alpha_of(0, gate) for gate in rolling) == pytest.approx(made.alpha)


@everywhere
def test_a_plan_as_json_without_gates_gets_them(pattern: Pattern, share: float) -> None:
    plain: dict[str, Any] = {"share": share, "bake_seconds": 60, "deadline_seconds": 86_400}
    if share == 100:
        plain["control_percent"] = 10.0
    if share == 0:
        plain["mirror_percent"] = 100
    made = Plan.from_dict(json.loads(json.dumps({"pattern": pattern, "stages": [plain]})))
    assert made == Plan(pattern, (stage(pattern, share),))
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_each_stage_without_gates_gets_those_of_its_share_and_the_others_keep_theirs() -> None:
    times = {"bake_seconds": 60, "deadline_seconds": 86_400}
    own = Gate(Metric.ERROR_RATE, Role.TRIPWIRE)
    stages = [
        {"share": 5, **times},
        {"share": 50, "gates": [own.to_dict()], **times},
        {"share": 100, "control_percent": 10, **times},
    ]
    made = Plan.from_dict({"pattern": "canary", "stages": stages})
    assert made.stages[0].gates == default_gates(Pattern.CANARY, 5)
    assert made.stages[1].gates == (own,)
    assert made.stages[2].gates == default_gates(Pattern.CANARY, 100)


@pytest.mark.parametrize("share", [120, "5", None, True])
def test_a_share_that_is_none_is_refused_before_gates_are_made_for_it(share: object) -> None:
    plain = {"pattern": "canary", "stages": [{"share": share, "bake_seconds": 60, "deadline_seconds": 600}]}
    with pytest.raises(PlanError, match="challenger share is"):
        Plan.from_dict(plain)


def test_an_empty_list_of_gates_is_a_choice_that_is_refused_and_not_filled_in() -> None:
    plain = {"share": 5, "gates": [], "bake_seconds": 60, "deadline_seconds": 86_400}
    with pytest.raises(PlanError, match="no gate that it has to pass"):
        Plan.from_dict({"pattern": "canary", "stages": [plain]})


@everywhere
def test_the_assignment_is_watched_exactly_where_units_are_dealt(pattern: Pattern, share: float) -> None:
    watched = roles(pattern, share).get(Metric.SAMPLE_RATIO)
    assert watched is (Role.SIGNAL if 0 < share < 100 else None)


@everywhere
def test_p99_is_never_asked_for_a_proof(pattern: Pattern, share: float) -> None:
    assert roles(pattern, share)[Metric.LATENCY_P99] is Role.TRIPWIRE


def test_what_each_pattern_asks_for_a_proof_of() -> None:
    asked = {
        pattern: {
            gate.metric
            for gate in default_gates(pattern, 0 if pattern is Pattern.SHADOW else 50)
            if gate.role.must_prove
        }
        for pattern in Pattern
    }
    assert asked == {
        Pattern.CANARY: {Metric.ERROR_RATE, Metric.WRONG_RATE, Metric.LATENCY_P95},
        Pattern.SHADOW: {Metric.AGREEMENT, Metric.ERROR_RATE, Metric.LATENCY_P95},
        Pattern.AB_TEST: {Metric.VALUE},
        Pattern.BLUE_GREEN: {Metric.ERROR_RATE, Metric.LATENCY_P95},
        Pattern.GRADUAL: {Metric.ERROR_RATE, Metric.LATENCY_P95},
    }


@everywhere
def test_without_labels_accuracy_is_shown_and_nothing_is_asked_of_it(pattern: Pattern, share: float) -> None:
    found = {gate.metric: gate for gate in default_gates(pattern, share, labels=False)}
    if pattern is not Pattern.SHADOW:
        assert found[Metric.WRONG_RATE] == Gate(Metric.WRONG_RATE, Role.MUTED)
    assert {**found, Metric.WRONG_RATE: None} == {
        **{gate.metric: gate for gate in default_gates(pattern, share)},
        Metric.WRONG_RATE: None,
    }


@everywhere
def test_labels_that_are_missing_hold_up_a_stage_only_where_accuracy_must_be_proven(
    pattern: Pattern, share: float
) -> None:
    for gate in default_gates(pattern, share):
        if gate.metric is Metric.WRONG_RATE:
            assert gate.coverage == (0.8 if pattern is Pattern.CANARY else 0.0)
            assert gate.role is (Role.GUARDRAIL if pattern is Pattern.CANARY else Role.TRIPWIRE)


@everywhere
def test_offline_latency_is_shown_and_nothing_is_asked_of_it(pattern: Pattern, share: float) -> None:
    """It is the task's, not one that a caller would have met."""
    latency = (Metric.LATENCY_P95, Metric.LATENCY_P99)
    live = default_gates(pattern, share)
    offline = default_gates(pattern, share, offline=True)
    assert [gate.metric for gate in offline] == [gate.metric for gate in live]
    for here, there in zip(offline, live, strict=True):
        assert here == (replace(there, role=Role.MUTED) if here.metric in latency else there)


def test_an_offline_plan_as_json_gets_the_gates_of_an_offline_stage() -> None:
    plain = {"share": 0, "offline": True, "bake_seconds": 0, "deadline_seconds": 86_400}
    made = Plan.from_dict(json.loads(json.dumps({"pattern": "shadow", "stages": [plain]})))
    assert made.stages[0].gates == default_gates(Pattern.SHADOW, 0, offline=True)
    with pytest.raises(PlanError, match="offline is 'yes'"):
        Plan.from_dict({"pattern": "shadow", "stages": [plain | {"offline": "yes"}]})
