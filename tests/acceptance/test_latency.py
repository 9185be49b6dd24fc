"""Promise 8: a slow challenger is found out soon, a margin holds, and equal latencies raise no alarm."""

import numpy as np

from bench import simulate as sim
from bench.study import Study
from model_rollouts.core.counting import strata_of
from model_rollouts.core.evidence import latency_bin
from model_rollouts.core.gates import Gate, Metric


def judged(gate: Gate, seed: int, runs: int, slower: float) -> tuple[sim.Bools, sim.Counts]:
    """Where the gate rolls back, and its counts: 25 challenger requests of 100 in each look."""
    drawn = np.array(
        [
            [(s.challenger_bad, s.challenger_n, s.champion_bad, s.champion_n) for s in strata_of(gate, looks)]
            for looks in sim.latency_looks(seed, runs, slower)
        ],
        np.int64,
    )
    return sim.reached(sim.harm(drawn, gate.rollback_odds), sim.ALPHA), drawn


def test_a_p95_of_a_fifth_more_is_seen_within_600_requests(study: Study) -> None:
    hits, _ = judged(Gate(Metric.LATENCY_P95, rollback_odds=1.0), 1, study.runs(400), 1.2)
    study.rate_at_least("slow detected", hits.any(1), 0.99)
    requests = 25 * np.where(hits.any(1), hits.argmax(1) + 1, sim.LOOKS)  # also those before the quantile was known
    study.mean_at_most("challenger requests exposed", requests, 600)


def test_8_percent_more_within_a_margin_of_10_are_rolled_back_in_at_most_1_percent(study: Study) -> None:
    gate = Gate(Metric.LATENCY_P95, latency_margin=0.10, rollback_odds=1.0)
    hits, _ = judged(gate, 2, study.runs(1000), 1.08)
    study.rate_at_most("rolled back within the margin", hits.any(1), sim.ALPHA)


def test_equal_latencies_are_rolled_back_in_at_most_1_percent(study: Study) -> None:
    hits, drawn = judged(Gate(Metric.LATENCY_P95, rollback_odds=1.0), 3, study.runs(1000), 1.0)
    study.rate_at_most("healthy rolled back", hits.any(1), sim.ALPHA, 0.018)
    late = drawn[:, 50:].sum(axis=(0, 1))
    assert abs(late[0] / late[1] - 0.05) <= 0.005  # the threshold is where the champion's p95 is
    assert abs(late[2] / late[3] - 0.05) <= 0.005


def test_the_simulated_bins_are_the_projects() -> None:
    rng = np.random.default_rng(4)
    latency = 100 * np.exp(0.5 * rng.standard_normal((200, 75)))
    look = next(sim.latency_looks(4, 1, 1.0))[0]
    assert sorted(look.champion.latency.elements()) == sorted(map(latency_bin, latency[0].tolist()))  # type: ignore[attr-defined]
