"""Promise 9: five guardrails keep the level together, and see one that is bad no later than the union bound does."""

import numpy as np

from bench import simulate as sim
from bench.study import Study
from model_rollouts.core.combination import levels, log_e_family

GATES = 5
LEVELS = levels(sim.ALPHA, [None] * GATES)


def five(seed: int, runs: int, rates: list[float], traffic: sim.Traffic = sim.SOME) -> tuple[sim.Floats, sim.Counts]:
    """Log e-values of five gates that go their own ways, shape (gates, rollouts, looks), and the last one's counts."""
    drawn = [sim.counts(seed + gate, runs, traffic, 0.02, rate) for gate, rate in enumerate(rates)]
    return np.stack([sim.harm(d, 1.0, traffic.starts) for d in drawn]), drawn[-1]


def family(log_e: sim.Floats) -> sim.Floats:
    flat = log_e.reshape(GATES, -1).T.tolist()
    return np.array([log_e_family(values, LEVELS, sim.ALPHA) for values in flat]).reshape(log_e.shape[1:])


def union_bound(log_e: sim.Floats) -> sim.Bools:
    """Any gate at its own part of the level."""
    return np.any([sim.reached(path, level) for path, level in zip(log_e, LEVELS, strict=True)], axis=0)


def test_five_guardrails_roll_a_healthy_challenger_back_in_at_most_1_percent(study: Study) -> None:
    log_e, _ = five(10, study.runs(1000), [0.02] * GATES)
    together = sim.reached(family(log_e), sim.ALPHA)
    study.rate_at_most("healthy rolled back by any", together.any(1), sim.ALPHA)
    assert (together | ~union_bound(log_e)).all()
    study.rate_above("each at the whole level", sim.reached(log_e, sim.ALPHA).any(axis=(0, 2)), 0.01)


def test_the_same_while_ramping(study: Study) -> None:
    log_e, _ = five(20, study.runs(1000), [0.02] * GATES, sim.RAMPING)
    study.rate_at_most("healthy rolled back by any", sim.reached(family(log_e), sim.ALPHA).any(1), sim.ALPHA)


def test_one_bad_metric_of_five_is_seen_no_later_than_by_the_union_bound(study: Study) -> None:
    log_e, drawn = five(30, study.runs(500), [0.02] * (GATES - 1) + [0.04])
    together, union = sim.reached(family(log_e), sim.ALPHA), union_bound(log_e)
    ours, theirs = (sim.exposed(hits, drawn[..., 1]) for hits in (together, union))
    assert (ours <= theirs).all()
    study.rate_at_least("bad detected", together.any(1), 0.97)
    study.mean_at_most("challenger requests exposed", ours, sim.oracle(sim.SOME.mean_share))


def test_several_that_are_a_little_bad_are_seen_sooner(study: Study) -> None:
    log_e, drawn = five(40, study.runs(300), [0.028] * GATES)
    together, union = sim.reached(family(log_e), sim.ALPHA), union_bound(log_e)
    theirs = sim.exposed(union, drawn[..., 1]).mean()
    study.mean_at_most("part of what the union bound exposes", sim.exposed(together, drawn[..., 1]) / theirs, 0.99)
