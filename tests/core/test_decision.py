"""The table of verdicts, and that missing data is in no row of it a pass."""

import json
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.decision import Action, Decision, Verdict, decide
from model_rollouts.core.errors import PlanError
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.gates import AtDeadline, Gate, Metric, Role
from model_rollouts.core.odds_ratio import log_e_process, worse_than
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import Pattern, Plan, Stage

ERRORS = Gate(Metric.ERROR_RATE, min_requests=50)
WRONG = Gate(Metric.WRONG_RATE, min_requests=50, coverage=0.8)
P95, P99 = Gate(Metric.LATENCY_P95), Gate(Metric.LATENCY_P99)
BAKE, DEADLINE = 100.0, 1000.0
FAST = 300  # a bin of some 4 ms


def plan(*gates: Gate, at_deadline: AtDeadline = AtDeadline.HOLD, stages: int = 3) -> Plan:
    made = tuple(Stage(10.0 * (i + 1), gates, BAKE, DEADLINE) for i in range(stages))
    return Plan(Pattern.CANARY, made, label_maturity_seconds=60.0, at_deadline=at_deadline)


def arm(n: int, errors: int = 0, latency_bin: int = FAST) -> RequestCounts:
    return RequestCounts(n, errors, {latency_bin: n - errors} if n > errors else {})


def labels(due: int, wrong: int, labelled: int | None = None) -> LabelCounts:
    return LabelCounts(due, due if labelled is None else labelled, wrong)


def looks(count: int, stage: int = 0, first: int = 0, **values: Any) -> list[Look]:
    """Healthy looks of 1000 and 1000 requests, 2 % of them errors and 10 % of the labels wrong, unless said."""
    defaults: dict[str, Any] = {
        "champion": arm(1000, 20),
        "challenger": arm(1000, 20),
        "champion_labels": labels(900, 90),
        "challenger_labels": labels(900, 90),
    }
    return [Look(stage, first + i, **(defaults | values)) for i in range(count)]


def unlabelled(count: int) -> list[Look]:
    return looks(count, champion_labels=None, challenger_labels=None)


def outcome(decision: Decision) -> tuple[Verdict, Action]:
    return decision.verdict, decision.action


WAITING = (Verdict.WAIT, Action.WAIT)
HELD = (Verdict.INCONCLUSIVE, Action.HOLD)
ALL_GATES = [(ERRORS,), (WRONG,), (P95,), (P99,), (ERRORS, WRONG, P95, P99)]
ROLES = [Role.GUARDRAIL, Role.TRIPWIRE]
SILENCES = {
    "no looks": [],
    "empty looks": looks(50, champion=arm(0), challenger=arm(0), champion_labels=labels(0, 0),
                         challenger_labels=labels(0, 0)),
    "no challenger": looks(50, challenger=arm(0), challenger_labels=labels(0, 0)),
    "no champion": looks(50, champion=arm(0), champion_labels=labels(0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("silence", SILENCES.values(), ids=SILENCES)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("gates", ALL_GATES, ids=lambda gates: "+".join(g.metric for g in gates))
def test_silence_waits_and_is_inconclusive_at_the_deadline(
    gates: tuple[Gate, ...], role: Role, silence: list[Look]
) -> None:
    for negligible in (None, 0.5):
        made = plan(*(replace(g, role=role, coverage=0.0, negligible=negligible) for g in gates))
        for elapsed in (-5.0, 0.0, BAKE, DEADLINE - 0.001):
            assert outcome(decide(made, 0, silence, elapsed)) == WAITING
        for elapsed in (DEADLINE, 10 * DEADLINE):
            assert outcome(decide(made, 0, silence, elapsed)) == HELD


def test_at_the_deadline_the_plan_says_whether_to_hold_or_to_roll_back() -> None:
    assert outcome(decide(plan(ERRORS), 0, [], DEADLINE)) == HELD
    rolling = plan(ERRORS, at_deadline=AtDeadline.ROLL_BACK)
    decision = decide(rolling, 0, [], DEADLINE)
    assert outcome(decision) == (Verdict.INCONCLUSIVE, Action.ROLL_BACK)
    assert "deadline of 1000 s reached at 10 % without proof" in decision.reason


def test_proof_expands_after_the_bake_time_and_not_before() -> None:
    healthy = looks(20)
    early, due = (decide(plan(ERRORS, WRONG), 0, healthy, t) for t in (BAKE - 1, BAKE))
    assert outcome(early) == WAITING
    assert "1 s of bake time left" in early.reason
    assert outcome(due) == (Verdict.PASS, Action.EXPAND)
    assert outcome(decide(plan(ERRORS, WRONG), 0, healthy, DEADLINE + 1)) == (Verdict.PASS, Action.EXPAND)


def test_the_last_stage_cuts_over() -> None:
    healthy = looks(20) + looks(20, stage=1) + looks(20, stage=2)
    assert outcome(decide(plan(ERRORS), 2, healthy, BAKE)) == (Verdict.PASS, Action.CUT_OVER)


def test_proof_from_earlier_stages_does_not_replace_the_stages_own_minimum() -> None:
    before = looks(20)
    made = plan(replace(ERRORS, role=Role.TRIPWIRE))
    assert outcome(decide(made, 1, before, BAKE)) == WAITING
    few = [*before, *looks(1, stage=1, challenger=arm(49, 1))]
    assert decide(made, 1, few, BAKE).gates[0].measured.stage_n == 49
    assert outcome(decide(made, 1, few, BAKE)) == WAITING
    enough = [*before, *looks(1, stage=1, challenger=arm(50, 1))]
    assert outcome(decide(made, 1, enough, BAKE)) == (Verdict.PASS, Action.EXPAND)


@pytest.mark.parametrize("role", ROLES)
def test_a_stage_whose_champion_fell_silent_does_not_pass_on_earlier_proof(role: Role) -> None:
    seen = [*looks(20), *looks(20, stage=1, champion=arm(0), champion_labels=labels(0, 0))]
    for gate in (ERRORS, WRONG, P95, P99):
        decision = decide(plan(replace(gate, role=role, negligible=0.5)), 1, seen, BAKE)
        assert outcome(decision) == WAITING
        assert decision.gates[0].measured.stage_n == 0


def test_harm_beats_everything() -> None:
    """Before the bake time, past the deadline, with too few requests, labels missing, other gates passing."""
    bad = looks(5, challenger=arm(1000, 200), champion_labels=None, challenger_labels=None)
    for made in (
        plan(ERRORS),
        plan(ERRORS, WRONG, P95),
        plan(replace(ERRORS, role=Role.TRIPWIRE), WRONG),
        plan(replace(ERRORS, min_requests=10**6)),
    ):
        for elapsed in (0.0, BAKE, DEADLINE + 1):
            decision = decide(made, 0, bad, elapsed)
            assert outcome(decision) == (Verdict.FAIL, Action.ROLL_BACK)
            assert "error rate is" in decision.reason
            assert "margin 1.25: roll back" in decision.reason
    wrong = looks(5, challenger_labels=labels(900, 300, labelled=500))
    assert outcome(decide(plan(ERRORS, WRONG), 0, wrong, BAKE)) == (Verdict.FAIL, Action.ROLL_BACK)


def test_of_two_harms_the_one_with_more_evidence_is_named() -> None:
    both = looks(5, challenger=arm(1000, 60), challenger_labels=labels(900, 500))
    assert "wrong predictions" in decide(plan(ERRORS, WRONG), 0, both, 0).reason
    assert "wrong predictions" in decide(plan(WRONG, ERRORS), 0, both, 0).reason


def test_a_tripwire_needs_no_proof_and_a_guardrail_does() -> None:
    quiet = looks(1, champion=arm(1000), challenger=arm(60))
    assert outcome(decide(plan(replace(ERRORS, role=Role.TRIPWIRE)), 0, quiet, BAKE)) == (Verdict.PASS, Action.EXPAND)
    assert outcome(decide(plan(ERRORS), 0, quiet, BAKE)) == WAITING


def test_a_muted_gate_is_shown_and_decides_nothing() -> None:
    bad_labels = looks(20, challenger_labels=labels(900, 500))
    decision = decide(plan(ERRORS, replace(WRONG, role=Role.MUTED)), 0, bad_labels, BAKE)
    assert outcome(decision) == (Verdict.PASS, Action.EXPAND)
    assert decision.gates[1].verdict is Verdict.FAIL
    assert decision.gates[0].harm_threshold == pytest.approx(math.log(100))


def test_gates_that_count_share_alpha_equally() -> None:
    decision = decide(plan(ERRORS, WRONG, P95, replace(P99, role=Role.MUTED)), 0, [], 0)
    assert {round(g.harm_threshold, 12) for g in decision.gates[:3]} == {round(math.log(300), 12)}
    assert decision.gates[3].harm_threshold == pytest.approx(math.log(100))
    assert {round(g.pass_threshold, 12) for g in decision.gates} == {round(math.log(20), 12)}


def test_a_run_without_any_error_passes_by_the_negligible_rate_alone() -> None:
    clean = looks(1, champion=arm(1000), challenger=arm(400))
    assert outcome(decide(plan(ERRORS), 0, clean, BAKE)) == WAITING
    decision = decide(plan(replace(ERRORS, negligible=0.02)), 0, clean, BAKE)
    assert outcome(decision) == (Verdict.PASS, Action.EXPAND)
    assert "or below 2.00%" in decision.reason


@pytest.mark.parametrize("short", ["champion_labels", "challenger_labels"])
def test_labels_that_are_missing_in_one_arm_hold_the_stage(short: str) -> None:
    seen = looks(20, **{short: labels(900, 70, labelled=700)})
    decision = decide(plan(ERRORS, WRONG), 0, seen, BAKE)
    assert outcome(decision) == WAITING
    assert "77% of the due labels have arrived, needed 80%" in decision.reason
    assert decision.gates[1].measured.coverage == pytest.approx(700 / 900)
    assert outcome(decide(plan(ERRORS, WRONG), 0, seen, DEADLINE)) == HELD


def test_labels_that_never_come_hold_the_stage_whatever_the_other_gates_say() -> None:
    for seen in (unlabelled(20), looks(20, champion_labels=labels(900, 0, 0), challenger_labels=labels(900, 0, 0))):
        for gate in (WRONG, replace(WRONG, role=Role.TRIPWIRE), replace(WRONG, coverage=0.0)):
            assert outcome(decide(plan(ERRORS, gate), 0, seen, BAKE)) == WAITING
            assert outcome(decide(plan(ERRORS, gate), 0, seen, DEADLINE)) == HELD


def test_labels_that_stop_in_this_stage_do_not_hide_behind_those_before() -> None:
    seen = looks(50) + looks(5, stage=1, challenger_labels=labels(900, 30, labelled=300))
    decision = decide(plan(ERRORS, WRONG), 1, seen, BAKE)
    assert decision.gates[1].measured.coverage == pytest.approx(1 / 3)
    assert outcome(decision) == WAITING
    unripe = looks(50) + looks(5, stage=1, champion_labels=None, challenger_labels=None)
    decision = decide(plan(ERRORS, WRONG), 1, unripe, BAKE)
    assert outcome(decision) == WAITING
    assert "no due label of this stage has arrived, needed 80%" in decision.reason


def test_harm_is_weighed_with_every_start_of_the_plan_from_the_beginning() -> None:
    """Stages to come hold their share of the weight at 1: half of the process, and half of nothing yet."""
    seen = looks(3, challenger=arm(1000, 26))
    from_start = log_e_process([_errors(k) for k in seen], 1.25, worse_than(1.25))
    one, three = (decide(plan(ERRORS, stages=n), 0, seen, 0).gates[0].measured.log_e_harm for n in (1, 3))
    assert one == pytest.approx(from_start)
    assert three == pytest.approx(math.log(0.5 * math.exp(from_start) + 0.5))


def _errors(look: Look) -> Any:
    from model_rollouts.core.counting import strata_of

    return strata_of(ERRORS, [look])[0]


def test_a_regression_that_begins_late_is_seen_in_its_own_stage() -> None:
    good = looks(40, challenger=arm(1000, 5)) + looks(40, stage=1, challenger=arm(1000, 5))
    late = looks(10, stage=2, challenger=arm(1000, 45))
    assert decide(plan(ERRORS), 2, good + late, 0).verdict is Verdict.FAIL


def test_a_verdict_is_the_same_to_the_last_digit_from_stored_counts() -> None:
    rng = np.random.default_rng(8)
    made = plan_canary(CanaryParameters())
    seen = [random_look(rng, stage, i) for stage in range(3) for i in range(30)]
    decision = decide(made, 2, seen, 4000.0)
    stored = json.dumps({"plan": made.to_dict(), "looks": [k.to_dict() for k in seen]})
    back = json.loads(stored)
    again = decide(Plan.from_dict(back["plan"]), 2, [Look.from_dict(k) for k in back["looks"]], 4000.0)
    assert again == decision
    assert json.dumps(again.to_dict(), allow_nan=False) == json.dumps(decision.to_dict(), allow_nan=False)
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    assert decide(made, 2, seen, 4000.0) == decision


def random_look(rng: np.random.Generator, stage: int, index: int) -> Look:
    def some(n: int) -> tuple[RequestCounts, LabelCounts]:
        errors = int(rng.binomial(n, 0.02))
        bins, counts = np.unique(rng.integers(300, 420, n - errors), return_counts=True)
        known = int(rng.binomial(n - errors, 0.95))
        return (
            RequestCounts(n, errors, dict(zip(bins.tolist(), counts.tolist(), strict=True))),
            LabelCounts(n - errors, known, int(rng.binomial(known, 0.1))),
        )

    (a, a_labels), (b, b_labels) = some(300), some(int(rng.integers(0, 300)))
    return Look(stage, index, a, b, a_labels, b_labels)


small = st.integers(0, 400)


@st.composite
def arms(draw: st.DrawFn) -> tuple[RequestCounts, LabelCounts]:
    ok, errors = draw(small), draw(st.sampled_from([0, 0, 1, 5, 60]))
    slow = draw(st.integers(0, ok))
    histogram = {FAST: ok - slow, FAST + 100: slow}
    due = draw(st.sampled_from([0, ok]))
    labelled = draw(st.integers(0, due) | st.just(due))
    return RequestCounts(ok + errors, errors, histogram), LabelCounts(due, labelled, draw(st.integers(0, labelled)))


@st.composite
def any_looks(draw: st.DrawFn) -> list[Look]:
    seen = []
    for stage in range(draw(st.integers(1, 3))):
        for index in range(draw(st.integers(0, 4))):
            (a, a_labels), (b, b_labels) = draw(arms()), draw(arms())
            ripe = draw(st.booleans())
            seen.append(Look(stage, index, a, b, a_labels if ripe else None, b_labels if ripe else None))
    return seen


@st.composite
def any_gates(draw: st.DrawFn) -> tuple[Gate, ...]:
    metrics = draw(st.lists(st.sampled_from([m for m in Metric if m.is_rate]), min_size=1, unique=True))
    gates = [
        Gate(
            metric,
            draw(st.sampled_from(Role)),
            negligible=draw(st.sampled_from([None, 0.02, 0.6])),
            pass_odds=draw(st.sampled_from([1.5, 4.0, 100.0])),
            coverage=draw(st.sampled_from([0.0, 0.5])) if metric.matures else 0.0,
            min_requests=draw(st.sampled_from([1, 20, 500])),
        )
        for metric in metrics
    ]
    return (replace(gates[0], role=Role.TRIPWIRE), *gates[1:])


@settings(deadline=None, derandomize=True, max_examples=400)
@given(any_gates(), any_looks(), st.sampled_from([-1.0, 0.0, BAKE, DEADLINE, 1e9]))
def test_a_pass_means_that_every_gate_passed_on_enough_requests_after_the_bake_time(
    gates: tuple[Gate, ...], seen: list[Look], elapsed: float
) -> None:
    decision = decide(plan(*gates), 2, seen, elapsed)
    judged = [(g, r) for g, r in zip(gates, decision.gates, strict=True) if g.role is not Role.MUTED]
    harmed = [g for g, r in judged if r.verdict is Verdict.FAIL]
    rolled = any(g.role.rolls_back for g in harmed) or decision.log_e_family >= math.log(100)
    assert (decision.verdict is Verdict.FAIL) is rolled
    assert (decision.action is Action.ROLL_BACK) is rolled
    assert all(math.isfinite(r.measured.log_e_harm) and not math.isnan(r.measured.log_e_pass) for r in decision.gates)
    assert decide(plan(*gates), 2, seen, elapsed) == decision
    if decision.verdict is not Verdict.PASS:
        assert decision.action not in (Action.EXPAND, Action.CUT_OVER)
        return
    assert elapsed >= BAKE
    assert not harmed
    for gate, result in judged:
        if gate.role is Role.SIGNAL:
            continue
        m = result.measured
        assert result.verdict is Verdict.PASS
        assert m.stage_n >= gate.min_requests
        assert m.champion_n > 0
        assert not gate.role.must_prove or m.log_e_pass >= math.log(20)
        assert m.coverage is None or m.coverage >= gate.coverage


@pytest.mark.parametrize("elapsed", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_is_refused(elapsed: float) -> None:
    with pytest.raises(ValueError, match=r"elapsed_seconds is .*, must be a finite number"):
        decide(plan(ERRORS), 0, looks(20), elapsed)


@pytest.mark.parametrize(
    "seen",
    [looks(2, first=1) + looks(1), looks(1) * 2, looks(1, stage=1) + looks(1), looks(1, stage=2)],
    ids=["index falls", "twice", "stage falls", "a later stage"],
)
def test_looks_out_of_order_twice_or_of_a_later_stage_are_refused(seen: list[Look]) -> None:
    with pytest.raises(ValueError, match="looks must be in order"):
        decide(plan(ERRORS), 1, seen, 0)


@pytest.mark.parametrize("stage", [-1, 3])
def test_a_stage_that_is_not_in_the_plan_is_refused(stage: int) -> None:
    with pytest.raises(PlanError, match=f"stage is {stage}, must be between 0 and 2"):
        decide(plan(ERRORS), stage, [], 0)


def test_huge_counts_give_a_verdict() -> None:
    n = 10**9
    seen = [Look(0, i, arm(n, n // 50), arm(n, n // 50)) for i in range(200)]
    decision = decide(plan(replace(ERRORS, negligible=0.001), P95), 0, seen, BAKE)
    assert decision.gates[0].verdict is Verdict.PASS
    json.dumps(decision.to_dict(), allow_nan=False)
    worse = [Look(0, i, arm(n, n // 50), arm(n, n // 10)) for i in range(200)]
    assert decide(plan(ERRORS), 0, worse, 0).verdict is Verdict.FAIL


def test_a_thousand_looks_and_four_gates_are_judged_well_within_a_second() -> None:
    rng = np.random.default_rng(9)
    made = plan_canary(CanaryParameters())
    some = [random_look(rng, 0, 0) for _ in range(50)]
    seen = [replace(some[i % 50], stage=stage, index=i) for stage in range(5) for i in range(200)]
    decide(made, 4, seen[-3:], 0)  # imports scipy
    began = time.process_time()
    decide(made, 4, seen, 4000.0)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("arms", [("champion", "challenger"), ("champion",), ("challenger",)])
def test_nothing_passes_while_an_arm_is_silent(arms: tuple[str, ...]) -> None:
    made = plan(ERRORS)
    good = looks(20, challenger=arm(1000, 5))
    silence = {name: arm(0) for name in arms}
    assert decide(made, 0, good + looks(3, first=20, **silence), BAKE).verdict is Verdict.PASS
    quiet = good + looks(8, first=20, **silence)
    waiting = decide(made, 0, quiet, BAKE)
    assert waiting.verdict is Verdict.WAIT
    assert "has no requests in the last 8 looks" in waiting.reason
    late = decide(made, 0, quiet, DEADLINE)
    assert (late.verdict, late.action) == (Verdict.INCONCLUSIVE, Action.HOLD)


def test_a_stage_is_passed_on_its_own_looks_alone() -> None:
    """What was good at a small share says nothing of a larger one."""
    earlier = looks(200, challenger=arm(1000, 20))
    assert decide(plan(ERRORS), 0, earlier, BAKE).verdict is Verdict.PASS
    here = looks(2, stage=1, champion=arm(60, 1), challenger=arm(60, 1))
    assert decide(plan(ERRORS), 1, earlier + here, BAKE).verdict is Verdict.WAIT
