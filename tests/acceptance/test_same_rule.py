"""What the simulations judge by is what `decide` does."""

import math

import pytest

from bench import simulate as sim
from bench.simulate_units import CHALLENGER, CHAMPION, clustered, clustered_evidence
from model_rollouts.core.combination import levels, log_e_family
from model_rollouts.core.decision import Decision, Verdict, decide
from model_rollouts.core.evidence import Look, RequestCounts, UnitCounts
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.odds_ratio import worse_than
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.unit_evidence import ClusterSums

SEEN = (1, 49, 50, 51, 100, 149, 150, 151, 200)


def plan_of(*gates: Gate) -> Plan:
    return Plan(Pattern.CANARY, tuple(Stage(share, gates, 0, 1) for share in (1, 5, 25, 50)))


def decisions(plan: Plan, looks: list[Look]) -> dict[int, Decision]:
    """By the number of looks that had been seen."""
    return {seen: decide(plan, looks[seen - 1].stage, looks[:seen], 0) for seen in SEEN}


def test_the_simulated_rule_is_the_one_that_decides() -> None:
    drawn = sim.counts(1, 3, sim.RAMPING, 0.02, 0.03, sim.WAVE)
    harmful = sim.harm(drawn, 1.25, sim.RAMP_STARTS)
    # each stage is proven on its own looks
    good = [sim.proof(drawn[:, first : first + 50], 1.5) for first in sim.RAMP_STARTS]
    for run, rows in enumerate(drawn.tolist()):
        looks = [
            Look(i // 50, i % 50, RequestCounts(a_n, a), RequestCounts(b_n, b))
            for i, (b, b_n, a, a_n) in enumerate(rows)
        ]
        for seen, decision in decisions(plan_of(Gate(Metric.ERROR_RATE)), looks).items():
            measured = decision.gates[0].measured
            assert measured.log_e_harm == pytest.approx(harmful[run, seen - 1], abs=1e-9)
            assert measured.log_e_pass == pytest.approx(good[(seen - 1) // 50][run, (seen - 1) % 50], abs=1e-9)
            failed = harmful[run, seen - 1] >= -math.log(sim.ALPHA)
            assert (decision.verdict is Verdict.FAIL) == failed


def test_the_simulated_design_effect_is_the_one_that_decides() -> None:
    drawn = clustered(2, 2, users=40, requests=100, correlation=0.3, share=sim.RAMP, rate=0.1)
    paths = clustered_evidence(drawn, sim.gains(drawn.counts, 1.25, worse_than(1.25)), sim.RAMP_STARTS)
    effects = []
    for run, rows in enumerate(drawn.counts.tolist()):
        looks = []
        for i, (b, b_n, a, a_n) in enumerate(rows):
            units = []
            for arm in (CHAMPION, CHALLENGER):
                judged, squares, *rest = drawn.sums[run, i, arm].tolist()
                units.append(UnitCounts(0, {"error_rate": ClusterSums(round(judged), round(squares), *rest)}))
            champion, challenger = RequestCounts(a_n, a), RequestCounts(b_n, b)
            looks.append(
                Look(
                    i // 50,
                    i % 50,
                    champion,
                    challenger,
                    champion_units=units[CHAMPION],
                    challenger_units=units[CHALLENGER],
                )
            )
        for seen, decision in decisions(plan_of(Gate(Metric.ERROR_RATE)), looks).items():
            effects.append(decision.gates[0].measured.design_effect)
            assert decision.gates[0].measured.log_e_harm == pytest.approx(paths[run, seen - 1], abs=1e-9)
    assert max(effects) > 2  # there was something to see


def test_the_simulated_family_is_the_one_that_decides() -> None:
    drawn = [sim.counts(3 + gate, 1, sim.RAMPING, 0.02, 0.03)[0] for gate in range(2)]
    looks = []
    for i, rows in enumerate(zip(*(d.tolist() for d in drawn), strict=True)):
        (b, b_n, a, a_n), (slow_b, _, slow_a, _) = rows
        # bin 100 is where the champion's quantile is, bin 200 is slow
        arms = [
            RequestCounts(n, bad, {100: n - bad - slow, 200: slow})
            for n, bad, slow in ((a_n, a, min(slow_a, a_n - a)), (b_n, b, min(slow_b, b_n - b)))
        ]
        looks.append(Look(i // 50, i % 50, *arms))
    plan = plan_of(Gate(Metric.ERROR_RATE), Gate(Metric.LATENCY_P95))
    for decision in decisions(plan, looks).values():
        each = [gate.measured.log_e_harm for gate in decision.gates]
        assert decision.log_e_family == log_e_family(each, levels(sim.ALPHA, [None, None]), sim.ALPHA)
