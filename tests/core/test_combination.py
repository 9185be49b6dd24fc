"""Several guardrails under one bound: each has its level, and together they keep it."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.combination import levels, log_e_family
from model_rollouts.core.errors import PlanError


def test_gates_without_a_level_share_what_the_others_leave() -> None:
    assert levels(0.01, [None, None]) == (0.005, 0.005)
    assert levels(0.01, [0.004, None, None, None]) == pytest.approx((0.004, 0.002, 0.002, 0.002))
    assert levels(0.01, [0.002, 0.003]) == (0.002, 0.003)
    assert levels(0.01, []) == ()


@settings(derandomize=True)
@given(st.floats(1e-6, 0.2), st.integers(1, 30), st.integers(0, 30))
def test_the_levels_never_add_up_to_more_than_alpha(alpha: float, asking: int, others: int) -> None:
    found = levels(alpha, [alpha / (2 * asking)] * asking + [None] * others)
    assert math.fsum(found) == pytest.approx(alpha if others else alpha / 2, rel=1e-9)
    assert min(found) > 0


def test_parts_that_add_up_to_alpha_but_for_rounding_are_allowed() -> None:
    assert levels(0.3, [0.1, 0.1, 0.1]) == (0.1, 0.1, 0.1)  # which add up to 0.30000000000000004


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            [0.006, 0.005],
            "the gates' own alphas add up to 0.011, must be at most the plan's alpha (0.01); lower them or raise it",
        ),
        (
            [0.01, None],
            "the gates' own alphas add up to 0.01, must be below the plan's alpha (0.01); lower them or raise it",
        ),
        (
            [0.02, None],
            "the gates' own alphas add up to 0.02, must be below the plan's alpha (0.01); lower them or raise it",
        ),
    ],
)
def test_gates_that_ask_for_more_than_there_is_are_refused(wanted: list[float | None], message: str) -> None:
    with pytest.raises(PlanError) as refused:
        levels(0.01, wanted)
    assert str(refused.value) == message


log_e_values = st.floats(-800, 800) | st.just(-math.inf)


@settings(derandomize=True)
@given(st.lists(log_e_values, min_size=1, max_size=8), st.integers(0, 7), st.floats(1e-6, 0.2))
def test_the_family_is_never_later_than_one_gate_alone(log_e: list[float], which: int, alpha: float) -> None:
    own = levels(alpha, [None] * len(log_e))
    which %= len(log_e)
    log_e[which] = max(log_e[which], -math.log(own[which]))
    assert log_e_family(log_e, own, alpha) >= -math.log(alpha) - 1e-12


def test_gates_that_are_each_a_little_suspicious_reach_together_what_none_reaches_alone() -> None:
    own = levels(0.01, [None] * 4)
    each = math.log(120)
    assert each < -math.log(own[0])
    assert log_e_family([each] * 4, own, 0.01) == pytest.approx(math.log(120))
    assert log_e_family([each] * 4, own, 0.01) > -math.log(0.01)


@pytest.mark.parametrize("own", [(0.25, 0.25, 0.5), (0.1, 0.2, 0.7), (0.1, 0.1, 0.1)])
def test_the_mean_of_e_values_is_worth_what_the_gates_use_of_alpha(own: tuple[float, ...]) -> None:
    """Three independent bets that are worth exactly 1 each, every outcome of them; levels of an alpha of 1."""
    bets = [((0.5, 0.5), (0.5, 1.5)), ((0.9, 0.1), (0.0, 10.0)), ((0.2, 0.5, 0.3), (4.0, 0.4, 0.0))]
    total = 0.0
    for outcome in itertools.product(*(range(len(odds)) for odds, _ in bets)):
        chance = math.prod(odds[k] for (odds, _), k in zip(bets, outcome, strict=True))
        e = [pays[k] for (_, pays), k in zip(bets, outcome, strict=True)]
        log_e = [math.log(value) if value else -math.inf for value in e]
        total += chance * math.exp(log_e_family(log_e, own, 1.0))
    assert total == pytest.approx(math.fsum(own), abs=1e-12)


def test_without_gates_there_is_no_evidence_of_harm() -> None:
    assert log_e_family([], [], 0.01) == -math.inf


def test_infinite_evidence_stays_infinite_and_none_adds_nothing() -> None:
    assert log_e_family([math.inf, 0.0], [0.005, 0.005], 0.01) == math.inf
    assert log_e_family([-math.inf, -math.inf], [0.005, 0.005], 0.01) == -math.inf
    assert log_e_family([-math.inf, 3.0], [0.005, 0.005], 0.01) == pytest.approx(3.0 + math.log(0.5))


def test_evidence_that_no_float_holds_is_added_in_logs() -> None:
    assert log_e_family([5000.0, 4000.0], [0.005, 0.005], 0.01) == pytest.approx(5000 - math.log(2))


def test_a_gate_without_a_level_has_no_say() -> None:
    assert log_e_family([900.0, 1.0], [0.0, 0.01], 0.01) == pytest.approx(1.0)


def test_a_gate_that_is_left_out_is_noticed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        log_e_family([1.0, 2.0], [0.01], 0.01)
