"""Promise 4 where users come back: agreement that is exactly 98 % is not passed because some users always disagree."""

import numpy as np

from bench.simulate_units import CHALLENGER, clustered
from bench.study import Study
from model_rollouts.core.clustering import ClusterTotals, as_independent, clustering_of_one
from model_rollouts.core.proportion import log_e_rate_below
from model_rollouts.core.unit_evidence import ClusterSums

CEILING, THRESHOLD = 0.02, np.log(20)


def passes(seed: int, runs: int, users: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether a rollout passes at some look: with the design effect, and with each request taken for another user's."""
    drawn = clustered(seed, runs, users=users, requests=100, correlation=correlation, share=1.0, rate=CEILING)
    ours, by_request = np.zeros(runs, bool), np.zeros(runs, bool)
    for run in range(runs):
        totals, apart, n = ClusterTotals(), 0, 0
        for look, counts in enumerate(drawn.counts[run].tolist()):
            judged, squares, *rest = drawn.sums[run, look, CHALLENGER].tolist()
            totals.add(ClusterSums(round(judged), round(squares), *rest))
            apart, n = apart + counts[0], n + counts[1]
            effect = clustering_of_one(totals).design_effect
            ours[run] |= log_e_rate_below(*as_independent(apart, n, effect), CEILING) >= THRESHOLD
            by_request[run] |= log_e_rate_below(apart, n, CEILING) >= THRESHOLD
    return ours, by_request


def test_users_who_disagree_again_and_again_do_not_pass_what_is_no_better_than_the_floor(study: Study) -> None:
    ours, by_request = passes(21, study.runs(500), 400, 0.1)
    study.rate_at_most("agreement of exactly 98 % passed", ours, 0.05)
    study.rate_above("requests taken for independent", by_request, 0.05)


def test_little_resemblance_and_many_users_keep_the_level_too(study: Study) -> None:
    for users, correlation in ((400, 0.02), (4000, 0.1)):
        ours, _ = passes(22, study.runs(500), users, correlation)
        study.rate_at_most(f"{users} users, correlation {correlation}", ours, 0.05)
