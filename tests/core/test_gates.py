import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import AtDeadline, Gate, Metric, Role

#: A metric that each number means something for, and both ends of what it may be.
BOUNDS: dict[str, tuple[Metric, float, float]] = {
    "rollback_odds": (Metric.ERROR_RATE, 1, 1.4),
    "pass_odds": (Metric.ERROR_RATE, 1.3, 1000),
    "negligible": (Metric.ERROR_RATE, 1e-9, 1 - 1e-9),
    "latency_margin": (Metric.LATENCY_P95, 0, 10),
    "latency_slack_ms": (Metric.LATENCY_P95, 0, 600_000),
    "coverage": (Metric.WRONG_RATE, 0, 1),
    "floor": (Metric.AGREEMENT, 1e-9, 1 - 1e-9),
    "tolerance": (Metric.AGREEMENT, 0, 1e300),
    "rollback_lift": (Metric.VALUE, -0.99, 10),
    "pass_lift": (Metric.VALUE, -0.99, 10),
    "min_units": (Metric.VALUE, 2, 10**9),
    "min_requests": (Metric.ERROR_RATE, 1, 10**9),
    "alpha": (Metric.ERROR_RATE, 1e-9, 0.2),
    "beta": (Metric.ERROR_RATE, 1e-9, 0.2),
    "deadline_seconds": (Metric.ERROR_RATE, 0, 366 * 86_400),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_both_ends_of_every_bound_are_allowed(name: str) -> None:
    metric, *ends = BOUNDS[name]
    for value in ends:
        assert getattr(Gate(metric, **{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rollback_odds", 0.99, "rollback_odds is 0.99, must be between 1 and 100"),
        ("rollback_odds", 101, "rollback_odds is 101, must be between 1 and 100"),
        ("rollback_odds", 1.5, r"pass_odds is 1.5, must be above rollback_odds \(1.5\)"),
        ("pass_odds", 1.25, r"pass_odds is 1.25, must be above rollback_odds \(1.25\) and at most 1000"),
        ("pass_odds", 1001, "pass_odds is 1001, must be between 1 and 1000"),
        ("negligible", 0, "negligible is 0, must be between 0 and 1, both excluded"),
        ("negligible", 1, "negligible is 1, must be between 0 and 1, both excluded"),
        ("negligible", -0.1, "negligible is -0.1, must be between 0 and 1"),
        ("latency_margin", -0.1, "latency_margin is -0.1, must be between 0 and 10"),
        ("latency_margin", 10.1, "latency_margin is 10.1, must be between 0 and 10"),
        ("latency_slack_ms", -1, "latency_slack_ms is -1, must be between 0 and 600000"),
        ("latency_slack_ms", 600_001, "latency_slack_ms is 600001, must be between 0 and 600000"),
        ("coverage", -0.1, "coverage is -0.1, must be between 0 and 1"),
        ("coverage", 80, "coverage is 80, must be between 0 and 1"),
        ("min_requests", 0, "min_requests is 0, must be between 1 and 1000000000"),
        ("min_requests", 10**9 + 1, "min_requests is 1000000001, must be between 1 and 1000000000"),
        ("min_requests", 1.5, r"min_requests is 1.5 \(float\), must be a whole number"),
        ("floor", 1, "floor is 1, must be between 0 and 1, both excluded"),
        ("tolerance", -1, "tolerance is -1, must be between 0 and"),
        ("rollback_lift", -1, "rollback_lift is -1, must be between -0.99 and 10"),
        ("min_units", 1, "min_units is 1, must be between 2 and 1000000000"),
        ("alpha", 0.3, "alpha is 0.3, must be between 1e-09 and 0.2"),
        ("beta", 0, "beta is 0, must be between 1e-09 and 0.2"),
        ("deadline_seconds", -1, "deadline_seconds is -1, must be between 0 and"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_with_the_value_and_the_bound(name: str, value: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Gate(BOUNDS[name][0], **{name: value})


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1.3", [1], {}])
def test_what_is_no_number_is_refused_everywhere(name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=f"{name} is "):
        Gate(BOUNDS[name][0], **{name: value})


@pytest.mark.parametrize("name", ["rollback_odds", "latency_margin", "floor", "rollback_lift"])
def test_a_margin_that_is_none_is_refused_where_there_is_no_going_without(name: str) -> None:
    with pytest.raises(PlanError, match=f"{name} is None"):
        Gate(BOUNDS[name][0], **{name: None})


@pytest.mark.parametrize(
    ("metric", "name", "value"),
    [
        (Metric.ERROR_RATE, "latency_margin", 0.1),
        (Metric.ERROR_RATE, "coverage", 0.5),
        (Metric.LATENCY_P95, "floor", 0.9),
        (Metric.AGREEMENT, "pass_odds", 2.0),
        (Metric.VALUE, "negligible", 0.1),
        (Metric.WRONG_RATE, "min_units", 60),
    ],
)
def test_a_value_that_would_have_no_effect_is_refused(metric: Metric, name: str, value: float) -> None:
    with pytest.raises(PlanError, match=f"{metric} gate: {name} is {value}, must be left out: it has no effect"):
        Gate(metric, **{name: value})


@pytest.mark.parametrize("role", [Role.GUARDRAIL, Role.OBJECTIVE])
def test_nobody_can_be_asked_to_prove_an_assignment(role: Role) -> None:
    with pytest.raises(PlanError, match=f"sample_ratio gate: role is {role}, must be one of muted, signal, tripwire"):
        Gate(Metric.SAMPLE_RATIO, role)


@pytest.mark.parametrize(("metric", "role"), [("error_rate", Role.MUTED), (Metric.ERROR_RATE, "muted"), (None, None)])
def test_plain_text_for_a_metric_or_a_role_is_refused_so_that_muted_is_muted(metric: Any, role: Any) -> None:
    with pytest.raises(PlanError, match="must be a Metric and a Role"):
        Gate(metric, role)


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    metric = draw(st.sampled_from(Metric))
    roles = [Role.TRIPWIRE, Role.SIGNAL, Role.MUTED] if metric is Metric.SAMPLE_RATIO else list(Role)
    values: dict[str, Any] = {
        "beta": draw(st.none() | st.floats(1e-9, 0.2)),
        "at_deadline": draw(st.none() | st.sampled_from(AtDeadline)),
        "min_requests": draw(st.integers(1, 10**9)),
    }
    if metric.is_rate:
        values["rollback_odds"] = draw(st.floats(1, 100))
        values["pass_odds"] = draw(st.floats(values["rollback_odds"], 1000, exclude_min=True))
        values["negligible"] = draw(st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True))
    if metric.quantile:
        values["latency_margin"], values["latency_slack_ms"] = draw(st.floats(0, 10)), draw(st.floats(0, 600_000))
    if metric is Metric.AGREEMENT:
        values["floor"] = draw(st.floats(0.01, 0.99))
    if metric is Metric.VALUE:
        values["pass_lift"] = draw(st.floats(-0.9, 1))
    return Gate(metric, draw(st.sampled_from(roles)), **values)


@settings(derandomize=True)
@given(gates())
def test_a_gate_survives_json_unchanged(gate: Gate) -> None:
    assert Gate.from_dict(json.loads(json.dumps(gate.to_dict(), allow_nan=False))) == gate


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"metric": "speed"}, "metric is 'speed', must be one of error_rate, wrong_rate"),
        ({"metric": 3}, "metric is 3, must be one of"),
        ({"metric": "error_rate", "role": "boss"}, "role is 'boss', must be one of guardrail, tripwire, objective"),
        ({"metric": "error_rate", "rolback_odds": 2}, "gate has unknown rolback_odds; known are alpha"),
        ({"role": "muted"}, "gate lacks metric"),
        ("error_rate", r"gate is 'error_rate' \(str\), must be a mapping"),
        (
            {"metric": "error_rate", "pass_odds": "2"},
            r"pass_odds is '2' \(str\), must be a number between 1 and 1000",
        ),
    ],
)
def test_json_that_is_no_gate_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Gate.from_dict(data)


def test_defaults_are_filled_in_from_json() -> None:
    assert Gate.from_dict({"metric": "latency_p99"}) == Gate(Metric.LATENCY_P99)


def test_only_latency_metrics_have_a_quantile() -> None:
    quantiles = {Metric.LATENCY_P50: 0.5, Metric.LATENCY_P95: 0.95, Metric.LATENCY_P99: 0.99}
    assert {m: m.quantile for m in Metric if m.quantile} == quantiles
