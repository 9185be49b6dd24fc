"""What each role of a gate may do, deadlines of gates, and metrics beyond rates, as the stage's verdict."""

import math
import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from model_rollouts.core.decision import Action, Decision, Verdict, decide
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.gates import AtDeadline, Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage, Underpowered
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, UnitCounts, ValueSums

BAKE, DEADLINE = 100.0, 1000.0
ERRORS = Gate(Metric.ERROR_RATE)
P50 = Gate(Metric.LATENCY_P50, Role.SIGNAL)
FAST, SLOW = 300, 400


def plan(*gates: Gate, share: float = 50, **values: Any) -> Plan:
    stage = Stage(share, gates, BAKE, DEADLINE, mirror_percent=0 if share else 100)
    return Plan(Pattern.CANARY, (stage,), label_maturity_seconds=60.0, **values)


def arm(n: int, errors: int = 0, at: int = FAST) -> RequestCounts:
    return RequestCounts(n, errors, {at: n - errors} if n > errors else {})


def looks(count: int, first: int = 0, **values: Any) -> list[Look]:
    healthy: dict[str, Any] = {"champion": arm(1000, 20), "challenger": arm(1000, 20)}
    return [Look(0, first + i, **(healthy | values)) for i in range(count)]


def outcome(decision: Decision) -> tuple[Verdict, Action]:
    return decision.verdict, decision.action


HARMFUL = looks(10, challenger=arm(1000, 200))


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (Role.GUARDRAIL, (Verdict.FAIL, Action.ROLL_BACK)),
        (Role.TRIPWIRE, (Verdict.FAIL, Action.ROLL_BACK)),
        (Role.OBJECTIVE, (Verdict.INCONCLUSIVE, Action.HOLD)),
        (Role.SIGNAL, (Verdict.INCONCLUSIVE, Action.HOLD)),
        (Role.MUTED, (Verdict.PASS, Action.EXPAND)),
    ],
)
def test_proven_harm_does_what_the_role_says_and_no_more(role: Role, expected: tuple[Verdict, Action]) -> None:
    fine = Gate(Metric.LATENCY_P95)
    two_stages = replace(plan(replace(ERRORS, role=role), fine), stages=(
        Stage(50, (replace(ERRORS, role=role), fine), BAKE, DEADLINE), Stage(60, (fine,), BAKE, DEADLINE)))  # fmt: skip
    mixed = [replace(look, champion=spread(look.champion), challenger=spread(look.challenger)) for look in HARMFUL * 1]
    seen = [replace(look, index=i) for i, look in enumerate(mixed * 4)]
    assert outcome(decide(two_stages, 0, seen, BAKE)) == expected


def spread(counts: RequestCounts) -> RequestCounts:
    """The same counts with a tail: latencies that are compared have to differ."""
    ok = counts.requests - counts.errors
    return replace(counts, latency={FAST: ok - ok // 20, SLOW: ok // 20})


def test_an_objective_that_is_missed_asks_the_plan_what_to_do() -> None:
    for at_deadline, action in ((AtDeadline.ROLL_BACK, Action.ROLL_BACK), (AtDeadline.ASK, Action.ASK)):
        decision = decide(plan(replace(ERRORS, role=Role.OBJECTIVE), P50, at_deadline=at_deadline), 0, HARMFUL, 0)
        assert outcome(decision) == (Verdict.INCONCLUSIVE, action)
        assert "the objective is missed" in decision.reason


def test_a_signal_that_a_person_has_seen_holds_no_second_time() -> None:
    made = plan(ERRORS, replace(P50, latency_margin=0.0))
    slow = looks(20, champion=arm(1000, 20, FAST), challenger=arm(1000, 20, SLOW))
    assert outcome(decide(made, 0, slow, BAKE)) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert "hold" in decide(made, 0, slow, BAKE).reason
    again = slow + looks(20, first=20)
    assert decide(made, 0, again, BAKE).verdict is Verdict.INCONCLUSIVE
    resumed = decide(made, 0, again, BAKE, signals_from=20)
    assert outcome(resumed) == (Verdict.PASS, Action.CUT_OVER)
    # a signal that goes on after that holds again
    still = slow + looks(40, first=20, challenger=arm(1000, 20, SLOW))
    assert decide(made, 0, still, BAKE, signals_from=20).verdict is Verdict.INCONCLUSIVE


def test_a_signal_without_evidence_holds_nothing_up_and_a_guardrail_does() -> None:
    assert decide(plan(ERRORS, Gate(Metric.SAMPLE_RATIO, Role.SIGNAL)), 0, looks(20), BAKE).verdict is Verdict.PASS
    tripwire = plan(ERRORS, Gate(Metric.SAMPLE_RATIO, Role.TRIPWIRE))
    assert decide(tripwire, 0, looks(20), BAKE).verdict is Verdict.WAIT


def test_a_gates_own_deadline_ends_the_stage_as_the_gate_says() -> None:
    strict = Gate(Metric.LATENCY_P95, min_requests=10**6, deadline_seconds=300, at_deadline=AtDeadline.ROLL_BACK)
    made = plan(ERRORS, strict)
    assert decide(made, 0, looks(20), 299).verdict is Verdict.WAIT
    late = decide(made, 0, looks(20), 300)
    assert outcome(late) == (Verdict.INCONCLUSIVE, Action.ROLL_BACK)
    assert late.reason.startswith("deadline of 300 s reached without proof: challenger's share of answers slower")


def test_at_the_stages_deadline_the_most_careful_wish_of_the_waiting_gates_counts() -> None:
    ask = Gate(Metric.ERROR_RATE, min_requests=10**6, at_deadline=AtDeadline.ASK)
    back = Gate(Metric.LATENCY_P95, min_requests=10**6, at_deadline=AtDeadline.ROLL_BACK)
    assert decide(plan(ask), 0, looks(20), DEADLINE).action is Action.ASK
    assert decide(plan(ask, back), 0, looks(20), DEADLINE).action is Action.ROLL_BACK
    assert decide(plan(ask, replace(back, at_deadline=AtDeadline.HOLD)), 0, looks(20), DEADLINE).action is Action.HOLD


def test_guardrails_that_are_each_a_little_suspicious_roll_back_together() -> None:
    """The mean of the e-values reaches 1/alpha though no gate reaches its own part of it."""
    gates = (ERRORS, Gate(Metric.WRONG_RATE))
    found = 0
    for errors, wrong in product(range(36, 40), range(120, 125)):
        labels = {"champion_labels": LabelCounts(900, 900, 80), "challenger_labels": LabelCounts(900, 900, wrong)}
        decision = decide(plan(*gates), 0, looks(5, challenger=arm(1000, errors), **labels), 0)
        together = decision.log_e_family >= math.log(100)
        assert (decision.verdict is Verdict.FAIL) is together
        if together and not any(g.verdict is Verdict.FAIL for g in decision.gates):
            assert decision.reason.startswith("the guardrails together show harm")
            found += 1
    assert found, "no case in which only the family fires"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Underpowered.WAIT, (Verdict.WAIT, Action.WAIT)),
        (Underpowered.HOLD, (Verdict.INCONCLUSIVE, Action.HOLD)),
        (Underpowered.ASK, (Verdict.INCONCLUSIVE, Action.ASK)),
    ],
)
def test_a_stage_that_can_not_tell_in_time_says_so_and_does_what_the_plan_says(
    policy: Underpowered, expected: tuple[Verdict, Action]
) -> None:
    quick = {"look_seconds": 10.0, "underpowered": policy}
    thin = [Look(0, i, arm(10), arm(10)) for i in range(9)]
    assert decide(plan(ERRORS, **quick), 0, thin, BAKE - 1).verdict is Verdict.WAIT
    decision = decide(plan(ERRORS, **quick), 0, thin, BAKE + 1)
    assert outcome(decision) == expected
    assert "underpowered: error_rate needs about" in decision.reason
    busy = [Look(0, i, arm(1000, 20), arm(500, 12)) for i in range(2)]
    assert "underpowered" not in decide(plan(ERRORS, **quick), 0, busy, BAKE + 1).reason


def pairs(paired: int, agreed: int, asked: int | None = None) -> PairCounts:
    return PairCounts(paired if asked is None else asked, paired, agreed)


AGREE = Gate(Metric.AGREEMENT, Role.OBJECTIVE, floor=0.98, coverage=0.5)


def test_agreement_is_proven_waits_or_is_missed() -> None:
    shadow = plan(AGREE, replace(ERRORS, role=Role.TRIPWIRE), share=0)
    proven = decide(shadow, 0, looks(10, pairs=pairs(200, 199)), BAKE)
    assert proven.verdict is Verdict.PASS
    assert "agreement with the champion is proven to be above 0.98 (at least 98." in proven.reason
    assert decide(shadow, 0, looks(10, pairs=pairs(200, 197)), BAKE).verdict is Verdict.WAIT
    missed = decide(shadow, 0, looks(10, pairs=pairs(200, 180)), 0)
    assert outcome(missed) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert "is 90.00%, at most 9" in missed.reason
    guard = plan(replace(AGREE, role=Role.GUARDRAIL), replace(ERRORS, role=Role.TRIPWIRE), share=0)
    assert outcome(decide(guard, 0, looks(10, pairs=pairs(200, 180)), 0)) == (Verdict.FAIL, Action.ROLL_BACK)


@pytest.mark.parametrize("seen", [None, PairCounts(), pairs(0, 0, 1000), pairs(400, 400, 1000)])
def test_agreement_of_pairs_that_were_not_made_is_not_proven(seen: PairCounts | None) -> None:
    shadow = plan(AGREE, replace(ERRORS, role=Role.TRIPWIRE), share=0)
    assert outcome(decide(shadow, 0, looks(10, pairs=seen), BAKE)) == (Verdict.WAIT, Action.WAIT)
    assert outcome(decide(shadow, 0, looks(10, pairs=seen), DEADLINE)) == (Verdict.INCONCLUSIVE, Action.HOLD)


def units(new: int, clusters: ClusterSums | None = None) -> UnitCounts:
    return UnitCounts(new, {} if clusters is None else {"error_rate": clusters})


def test_an_assignment_that_is_not_what_the_share_says_holds() -> None:
    made = plan(ERRORS, Gate(Metric.SAMPLE_RATIO, Role.SIGNAL), share=50)
    fair = looks(20, champion_units=units(100), challenger_units=units(100))
    assert decide(made, 0, fair, BAKE).verdict is Verdict.PASS
    unfair = looks(20, champion_units=units(120), challenger_units=units(80))
    decision = decide(made, 0, unfair, BAKE)
    assert outcome(decision) == (Verdict.INCONCLUSIVE, Action.HOLD)
    assert "share of new units is 0.8 times the planned one" in decision.reason
    assert decision.gates[1].harm_threshold == pytest.approx(math.log(1000))


def test_requests_of_units_that_resemble_each_other_weigh_less_and_the_verdict_says_so() -> None:
    worse = arm(1000, 35)
    strangers = looks(20, challenger=worse, champion_units=units(0), challenger_units=units(0))
    assert decide(plan(ERRORS), 0, strangers, 0).verdict is Verdict.FAIL
    # 50 requests a unit, correlation 0.1
    sums = ClusterSums(1000, 1000 * 50, 0.1 * 1000 * 49 * 0.02, 1000 * 49 * 0.02, 1000 * 49 * 0.0004)
    alike = looks(20, challenger=worse, champion_units=units(0, sums), challenger_units=units(0, sums))
    decision = decide(plan(ERRORS), 0, alike, 0)
    assert decision.verdict is Verdict.WAIT
    assert decision.gates[0].measured.design_effect == pytest.approx(1 + 49 * 0.1, rel=0.1)
    assert "cluster-robust: requests of one unit resemble each other, design effect 5." in decision.reason
    hopeless = looks(20, challenger=arm(1000, 200), champion_units=units(0, sums), challenger_units=units(0, sums))
    assert decide(plan(ERRORS), 0, hopeless, 0).verdict is Verdict.FAIL


def values(lift: float, n: int = 500, units_new: int = 100, due: int | None = None) -> dict[str, Any]:
    """Independent requests of value 1 with standard deviation 1."""
    due = n if due is None else due
    sums = ValueSums(due, due, n, n, float(n), n * (1 + lift), 0.0, 0.0, units_new, units_new, n / 2, 0.0, 0.0)
    labels = LabelCounts(due, 0, 0)
    return {"values": sums, "champion_labels": labels, "challenger_labels": labels}


def test_business_value_is_judged_against_its_margins() -> None:
    objective = Gate(Metric.VALUE, Role.OBJECTIVE, pass_lift=0.0, rollback_lift=-0.02, coverage=0.8)
    made = plan(ERRORS, objective)
    better = decide(made, 0, looks(30, **values(0.1)), BAKE)
    assert better.verdict is Verdict.PASS
    assert "business value per request is proven to be more than +0.0% from the champion's (at least +" in better.reason
    assert decide(made, 0, looks(30, **values(0.0)), BAKE).verdict is Verdict.WAIT
    worse = looks(30, **values(-0.2))
    assert outcome(decide(made, 0, worse, 0)) == (Verdict.INCONCLUSIVE, Action.HOLD)
    guard = plan(ERRORS, replace(objective, role=Role.TRIPWIRE, coverage=0.0))
    failed = decide(guard, 0, worse, 0)
    assert outcome(failed) == (Verdict.FAIL, Action.ROLL_BACK)
    assert "differs by -20.00% from the champion's, at most -" in failed.reason


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (looks(30), "can't be judged"),
        (looks(30, **values(0.1, due=1000)), "50% of the due labels have arrived, needed 80%"),
        (looks(30, **values(0.1, units_new=1)), "30 units with a value in the smaller arm, needed 400"),
    ],
    ids=["no values", "half of the values missing", "few units"],
)
def test_business_value_without_enough_of_it_waits(seen: list[Look], said: str) -> None:
    made = plan(ERRORS, Gate(Metric.VALUE, Role.OBJECTIVE, pass_lift=-0.5, coverage=0.8))
    decision = decide(made, 0, seen, BAKE)
    assert decision.verdict is Verdict.WAIT
    assert said in decision.reason


@pytest.mark.parametrize(
    ("champion_errors", "said"),
    [
        (
            20,
            r"is 3\.13 times the champion's odds, at least \d\.\d+ with 99 % confidence at any time",
        ),
        (0, r"is worse than the champion's, which had no bad outcome: at least 6 times its odds with 99 % confidence"),
    ],
)
def test_harm_is_told_in_one_sentence_with_estimate_bound_confidence_counts_and_margin(
    champion_errors: int, said: str
) -> None:
    seen = looks(5, champion=arm(1000, champion_errors), challenger=arm(1000, 60))
    decision = decide(plan(ERRORS), 0, seen, 0)
    assert re.search(f"error rate {said}", decision.reason), decision.reason
    counts = f"(300 of 5,000 against {5 * champion_errors:,} of 5,000); margin 1.25: roll back"
    assert decision.reason.endswith(counts)
    assert decision.gates[0].effect_low is not None
    assert decision.gates[0].effect_low >= 1.25


def test_a_signal_that_a_person_has_seen_does_not_hold_a_later_stage_either() -> None:
    gates = (ERRORS, Gate(Metric.SAMPLE_RATIO, Role.SIGNAL))
    made = Plan(Pattern.CANARY, (Stage(20, gates, BAKE, DEADLINE), Stage(50, gates, BAKE, DEADLINE)))
    unfair = looks(20, champion_units=units(150), challenger_units=units(50))
    fair = [replace(k, stage=1) for k in looks(20, champion_units=units(100), challenger_units=units(100))]
    assert decide(made, 1, unfair + fair, BAKE).verdict is Verdict.INCONCLUSIVE
    assert decide(made, 1, unfair + fair, BAKE, signals_from=20).verdict is Verdict.PASS


def test_rows_of_one_call_that_fail_together_weigh_less_though_each_is_another_units() -> None:
    worse = arm(1000, 35)
    alone = looks(20, challenger=worse, champion_units=units(0), challenger_units=units(0))
    assert decide(plan(ERRORS), 0, alone, 0).verdict is Verdict.FAIL
    # twenty rows a call, and all of them share its fate
    pairs_of = 1000 * 19
    sums = ClusterSums(1000, 20_000, pairs_of * 0.02, pairs_of * 0.02, pairs_of * 0.0004)
    calls = UnitCounts(0, {"error_rate": ClusterSums(1000, 1000), "call_error_rate": sums})
    together = looks(20, challenger=worse, champion_units=calls, challenger_units=calls)
    decision = decide(plan(ERRORS), 0, together, 0)
    assert decision.verdict is Verdict.WAIT
    assert decision.gates[0].measured.design_effect == pytest.approx(20, rel=0.02)


def test_a_relative_margin_of_value_is_of_the_looks_that_the_difference_is_of() -> None:
    """A tenth is lost in every look; the level falls to a tenth as the share grows, as between day and night."""
    gate = Gate(Metric.VALUE, Role.OBJECTIVE, pass_lift=-0.05, rollback_lift=-0.05)

    def at(level: float, share: float, n: int, count: int, first: int) -> list[Look]:
        challenger, champion = int(n * share), n - int(n * share)
        value = ValueSums(champion, challenger, champion, challenger, champion * level, challenger * level * 0.9,
                          0, 0, 100, 100, 0.01 * n * share * (1 - share) * level**2, 0, 0)  # fmt: skip
        labels = LabelCounts(champion, 0, 0), LabelCounts(challenger, 0, 0)
        return looks(count, first, values=value, champion_labels=labels[0], challenger_labels=labels[1])

    seen = at(10, 0.01, 10_000, 50, 0) + at(1, 0.5, 10_000, 50, 50)
    result = decide(plan(ERRORS, gate), 0, seen, 0).gates[1]
    assert result.measured.effect == pytest.approx(-0.10, abs=1e-6)
    assert result.measured.log_e_pass < 0
    assert result.measured.log_e_harm > math.log(1000)


def test_a_tripwire_of_value_with_few_units_shows_no_harm_and_holds_nothing_up() -> None:
    watched = Gate(Metric.VALUE, Role.TRIPWIRE, min_requests=1)
    decision = decide(plan(ERRORS, watched), 0, looks(30, **values(0.0, units_new=1)), BAKE)
    assert decision.verdict is Verdict.PASS
    assert "can't be judged yet: 30 units with a value in the smaller arm, needed 400" in decision.gates[1].reason


def test_values_that_could_not_be_counted_are_missing_ones() -> None:
    gate = Gate(Metric.VALUE, Role.OBJECTIVE, pass_lift=-0.5, coverage=0.8)
    lost = looks(30, first=30, champion_labels=LabelCounts(500, 0, 0), challenger_labels=LabelCounts(500, 0, 0))
    decision = decide(plan(ERRORS, gate), 0, looks(30, **values(0.1)) + lost, BAKE)
    assert decision.gates[1].measured.coverage == pytest.approx(0.5)
    assert decision.verdict is Verdict.WAIT


def test_a_challenger_that_fails_everything_is_told_without_calling_the_champion_faultless() -> None:
    decision = decide(plan(ERRORS), 0, looks(5, challenger=arm(300, 300)), 0)
    assert decision.verdict is Verdict.FAIL
    assert "error rate is beyond any multiple of the champion's odds, at least 6 with 99 %" in decision.reason
