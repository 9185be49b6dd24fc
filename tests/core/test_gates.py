import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.errors import PlanError
from model_rollouts.core.gates import Gate, Metric, Role

BOUNDS = {
    "rollback_odds": (1, 1.4),
    "pass_odds": (1.3, 1000),
    "negligible": (1e-9, 1 - 1e-9),
    "latency_margin": (0, 10),
    "latency_slack_ms": (0, 600_000),
    "coverage": (0, 1),
    "min_requests": (1, 10**9),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_both_ends_of_every_bound_are_allowed(name: str) -> None:
    for value in BOUNDS[name]:
        assert getattr(Gate(Metric.ERROR_RATE, **{name: value}), name) == value


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
    ],
)
def test_a_value_out_of_its_bounds_is_refused_with_the_value_and_the_bound(name: str, value: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Gate(Metric.ERROR_RATE, **{name: value})


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1.3", [1], {}])
def test_what_is_no_number_is_refused_everywhere(name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=f"{name} is "):
        Gate(Metric.ERROR_RATE, **{name: value})


@pytest.mark.parametrize(("metric", "role"), [("error_rate", Role.MUTED), (Metric.ERROR_RATE, "muted"), (None, None)])
def test_plain_text_for_a_metric_or_a_role_is_refused_so_that_muted_is_muted(metric: Any, role: Any) -> None:
    with pytest.raises(PlanError, match="must be a Metric and a Role"):
        Gate(metric, role)


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    rollback = draw(st.floats(1, 100))
    return Gate(
        draw(st.sampled_from(Metric)),
        draw(st.sampled_from(Role)),
        rollback,
        draw(st.floats(rollback, 1000, exclude_min=True)),
        draw(st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True)),
        draw(st.floats(0, 10)),
        draw(st.floats(0, 600_000)),
        draw(st.floats(0, 1)),
        draw(st.integers(1, 10**9)),
    )


@settings(derandomize=True)
@given(gates())
def test_a_gate_survives_json_unchanged(gate: Gate) -> None:
    assert Gate.from_dict(json.loads(json.dumps(gate.to_dict(), allow_nan=False))) == gate


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"metric": "speed"}, "metric is 'speed', must be one of error_rate, wrong_rate"),
        ({"metric": 3}, "metric is 3, must be one of"),
        ({"metric": "error_rate", "role": "boss"}, "role is 'boss', must be one of guardrail, tripwire, muted"),
        ({"metric": "error_rate", "rolback_odds": 2}, "gate has unknown rolback_odds; known are coverage"),
        ({"role": "muted"}, "gate lacks metric"),
        ("error_rate", r"gate is 'error_rate' \(str\), must be a mapping"),
        ({"metric": "error_rate", "pass_odds": "2"}, r"pass_odds is '2' \(str\), must be a number between 1 and 1000"),
    ],
)
def test_json_that_is_no_gate_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Gate.from_dict(data)


def test_defaults_are_filled_in_from_json() -> None:
    assert Gate.from_dict({"metric": "latency_p99"}) == Gate(Metric.LATENCY_P99)


def test_only_latency_metrics_have_a_quantile() -> None:
    assert {m: m.quantile for m in Metric if m.quantile} == {Metric.LATENCY_P95: 0.95, Metric.LATENCY_P99: 0.99}
