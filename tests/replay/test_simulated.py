"""Any plan over answers that were logged, mirrored or split."""

from datetime import timedelta

import pytest
from tests.replay.past import BAD, MODEL, START, Live, Past, quick_plan

from model_rollouts.adapters.postgres_log import PostgresLog
from model_rollouts.core.decision import Action, Verdict
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.replay.simulated import simulate


def play(past: Past, plan: Plan, seconds: float = 600) -> list:
    return list(simulate(past.root, MODEL, "1", "2", plan, START, START + timedelta(seconds=seconds)))


def test_a_good_version_goes_through_every_step_of_a_mirrored_past(past: Past) -> None:
    past.mirrored(300)
    steps = play(past, quick_plan(), 300)
    ends = [s for s in steps if s.decision.verdict is not Verdict.WAIT]
    assert [(s.share, s.decision.action) for s in ends] == [
        (10, Action.EXPAND),
        (50, Action.EXPAND),
        (100, Action.CUT_OVER),
    ]
    # the shares of the units are those of the plan
    first = ends[0].decision.gates[0].measured
    assert first.challenger_n / (first.challenger_n + first.champion_n) == pytest.approx(0.10, abs=0.03)
    assert all(gate.metric is not Metric.SAMPLE_RATIO for step in steps for gate in step.decision.gates)
    assert [s.at for s in steps] == sorted(s.at for s in steps)


def test_a_bad_version_is_rolled_back_and_the_salt_deals_anew(past: Past) -> None:
    past.rates["2"] = BAD
    past.mirrored(200)
    end = START + timedelta(seconds=200)
    seen = set()
    for salt in ("a", "b", "a"):
        last = list(simulate(past.root, MODEL, "1", "2", quick_plan(), START, end, salt=salt))[-1].decision
        assert (last.verdict, last.action) == (Verdict.FAIL, Action.ROLL_BACK)
        assert "wrong predictions" in last.reason
        seen.add(last.gates[1].measured.challenger_n)
    assert len(seen) == 2


def test_a_past_that_was_split_is_thinned_to_the_plans_share(live: Live) -> None:
    live.roll_out(quick_plan(steps=[50], bake_seconds=200), seconds=180, poll=19.7)
    steps = list(
        simulate(live.past.root, MODEL, "1", "2", quick_plan(steps=[20]), START, START + timedelta(seconds=180))
    )
    measured = steps[-1].decision.gates[0].measured
    # half of the champion's four fifths and half of the challenger's fifth are there
    assert measured.challenger_n / (measured.challenger_n + measured.champion_n) == pytest.approx(0.2, abs=0.04)


def test_a_past_that_was_split_otherwise_ends_in_no_false_alarm_about_the_assignment(live: Live) -> None:
    live.roll_out(quick_plan(steps=[10], bake_seconds=300, deadline_seconds=400), seconds=300, poll=19.7)
    end = START + timedelta(seconds=300)
    last = list(simulate(live.past.root, MODEL, "1", "2", quick_plan(steps=[20], bake_seconds=100), START, end))[-1]
    assert last.decision.verdict in (Verdict.PASS, Verdict.WAIT)


def test_with_a_control_group_as_many_units_of_each_version_count_and_no_others(past: Past) -> None:
    past.mirrored(200)
    grouped = quick_plan(steps=[10], control_group=True, bake_seconds=150)
    measured = play(past, grouped, 180)[-1].decision.gates[0].measured
    assert measured.champion_n == pytest.approx(measured.challenger_n, rel=0.4)
    everybody = play(past, quick_plan(steps=[10], bake_seconds=150), 180)[-1].decision.gates[0].measured
    assert measured.champion_n < everybody.champion_n / 4


def test_a_shadow_plan_judges_the_pairs(past: Past) -> None:
    past.rates = {"1": {"errors": 0.0, "wrong": 0.0}, "2": {"errors": 0.0, "wrong": 0.005}}
    past.mirrored(120)
    gates = (Gate(Metric.AGREEMENT, Role.OBJECTIVE, coverage=0.9), Gate(Metric.ERROR_RATE, Role.TRIPWIRE))
    shadow = Plan(Pattern.SHADOW, (Stage(0, gates, 10, 100, mirror_percent=100),), look_seconds=5, grace_seconds=1)
    last = play(past, shadow, 120)[-1].decision
    assert last.verdict is Verdict.PASS
    assert last.gates[0].measured.challenger_n > 200
    past.rates["2"]["wrong"] = 0.03
    past.mirrored(120, START + timedelta(hours=1))
    later = START + timedelta(hours=1)
    worse = list(simulate(past.root, MODEL, "1", "2", shadow, later, later + timedelta(seconds=120)))
    assert all(step.decision.verdict is not Verdict.PASS for step in worse)


def test_a_period_without_rows_waits_and_ends_inconclusive(past: Past) -> None:
    past.mirrored(1)
    later = START + timedelta(days=1)
    steps = list(simulate(past.root, MODEL, "1", "2", quick_plan(), later, later + timedelta(seconds=400)))
    assert {s.decision.verdict for s in steps[:-1]} == {Verdict.WAIT}
    assert (steps[-1].decision.verdict, steps[-1].decision.action) == (Verdict.INCONCLUSIVE, Action.HOLD)


def test_a_period_that_ends_before_it_begins_is_refused(past: Past) -> None:
    with pytest.raises(ValueError, match="must begin before it ends"):
        list(simulate(past.root, MODEL, "1", "2", quick_plan(), START, START))


def test_a_log_in_postgresql_gives_the_same_steps(past: Past, postgres_server: str) -> None:
    other = Past(PostgresLog(postgres_server, schema="replay"))
    for each in (past, other):
        each.rates["2"] = BAD
        each.mirrored(60)
    steps = [[step.decision for step in play(each, quick_plan(steps=[50]), 60)] for each in (past, other)]
    assert steps[0] == steps[1]
    assert steps[0][-1].verdict is Verdict.FAIL
