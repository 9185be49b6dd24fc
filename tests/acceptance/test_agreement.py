"""Promise 4: agreement of at least 98 % is proven soon where it holds, and rarely where it does not."""

import numpy as np

from bench import simulate as sim
from bench.study import Study
from model_rollouts.core.proportion import log_e_rate_below

FLOOR = 0.98


def disagreements(seed: int, runs: int, looks: int, pairs: int, agreement: float) -> sim.Ints:
    """Running count after each look, shape (rollouts, looks)."""
    rng = np.random.default_rng(seed)
    return rng.binomial(pairs, 1 - agreement, (runs, looks)).cumsum(axis=1)


def proven(bad: sim.Ints, n: sim.Ints) -> sim.Bools:
    keys, inverse = np.unique(np.stack(np.broadcast_arrays(bad, n), -1).reshape(-1, 2), axis=0, return_inverse=True)
    log_e = np.array([log_e_rate_below(b, of, 1 - FLOOR) for b, of in keys.tolist()])
    return sim.reached(log_e[inverse.ravel()].reshape(bad.shape), sim.BETA)


def test_agreement_of_exactly_98_percent_passes_in_at_most_5_percent(study: Study) -> None:
    n = 100 * np.arange(1, sim.LOOKS + 1)
    bad = disagreements(1, study.runs(1000), sim.LOOKS, 100, FLOOR)
    study.rate_at_most("passed at the floor", proven(bad, n).any(1), sim.BETA)
    point_estimate = (n >= 1000) & (bad <= (1 - FLOOR) * n)
    study.rate_above("point estimate of 98 % after 1000 pairs", point_estimate.any(1), 0.5)


def test_agreement_below_98_percent_passes_hardly_ever(study: Study) -> None:
    n = 100 * np.arange(1, sim.LOOKS + 1)
    bad = disagreements(2, study.runs(1000), sim.LOOKS, 100, 0.975)
    study.rate_at_most("passed below the floor", proven(bad, n).any(1), 0.01)


def test_agreement_of_99_percent_is_proven_within_1300_pairs_in_the_median(study: Study) -> None:
    n = 25 * np.arange(1, 401)
    bad = disagreements(3, study.runs(1000), 400, 25, 0.99)
    hits = proven(bad, n)
    study.rate_at_least("proven within 10,000 pairs", hits.any(1), 0.99)
    study.median_at_most("pairs", np.where(hits.any(1), n[hits.argmax(1)], np.inf), 1300)
