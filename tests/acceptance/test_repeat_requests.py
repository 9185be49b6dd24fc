"""Promise 7, first half: users whose requests resemble each other do not make a healthy challenger look bad."""

import numpy as np
import pytest

from bench import simulate as sim
from bench.simulate_units import CHALLENGER, CHAMPION, ClusteredRollouts, clustered, clustered_evidence
from bench.study import Study
from model_rollouts.core.odds_ratio import better_than, worse_than

ALLOWED = 0.018


def judged(rollouts: ClusteredRollouts, starts: tuple[int, ...] = (0,)) -> tuple[sim.Bools, sim.Bools]:
    """Where the project's rule rolls back, and where it would if each request were of another user."""
    gains = sim.gains(rollouts.counts, 1.0, worse_than(1.0))
    return (
        sim.reached(clustered_evidence(rollouts, gains, starts), sim.ALPHA),
        sim.reached(sim.harm(rollouts.counts, 1.0, starts), sim.ALPHA),
    )


def test_50_requests_a_user_with_a_correlation_of_a_tenth_keep_the_level(study: Study) -> None:
    drawn = clustered(1, study.runs(1000), users=400, requests=100, correlation=0.1)
    ours, by_request = judged(drawn)
    study.rate_at_most("healthy rolled back", ours.any(1), sim.ALPHA, ALLOWED)
    study.rate_above("requests taken for independent", by_request.any(1), ALLOWED)


def test_40_users_with_a_correlation_of_a_third_keep_the_level(study: Study) -> None:
    drawn = clustered(2, study.runs(1000), users=40, requests=20, correlation=0.3)
    ours, by_request = judged(drawn)
    study.rate_at_most("healthy rolled back", ours.any(1), sim.ALPHA, ALLOWED)
    study.rate_above("requests taken for independent", by_request.any(1), ALLOWED)


def test_a_ramp_that_moves_users_over_and_a_daily_wave_keep_the_level(study: Study) -> None:
    """Users of the champion become the challenger's; their requests there are counted as those of another unit."""
    drawn = clustered(
        3, study.runs(1000), users=400, requests=100, correlation=0.1, share=sim.RAMP, rate=0.04, wave=sim.WAVE
    )
    ours, _ = judged(drawn, sim.RAMP_STARTS)
    study.rate_at_most("healthy rolled back", ours.any(1), sim.ALPHA, ALLOWED)


def test_a_few_users_who_make_most_of_the_requests_change_nothing(study: Study) -> None:
    """The most active tenth makes half of the requests."""
    drawn = clustered(7, study.runs(500), users=400, requests=100, correlation=0.1, activity=1.0)
    ours, by_request = judged(drawn)
    study.rate_at_most("healthy rolled back", ours.any(1), sim.ALPHA, ALLOWED)
    study.rate_above("requests taken for independent", by_request.any(1), ALLOWED)


def test_a_challenger_at_the_pass_margin_passes_in_at_most_5_percent(study: Study) -> None:
    lift = sim.times_the_odds(0.02, 1.5) / 0.02
    drawn = clustered(8, study.runs(500), users=400, requests=100, correlation=0.1, lift=lift)
    gains = sim.gains(drawn.counts, 1.5, better_than(1.5))
    ours = sim.reached(clustered_evidence(drawn, gains), sim.BETA)
    study.rate_at_most("passed at the margin", ours.any(1), sim.BETA)
    by_request = sim.reached(sim.proof(drawn.counts, 1.5), sim.BETA)
    study.rate_above("requests taken for independent", by_request.any(1), 0.10)


@pytest.mark.parametrize("correlation", [0.0, 0.02])
def test_what_resembles_little_is_found_out_as_soon_as_ever(study: Study, correlation: float) -> None:
    drawn = clustered(4, study.runs(500), users=400, requests=100, correlation=correlation, lift=2.0)
    ours, by_request = judged(drawn)
    study.rate_at_least("bad detected", ours.any(1), 0.8)
    ours_exposed, theirs = (sim.exposed(hits, drawn.counts[..., 1]) for hits in (ours, by_request))
    study.mean_at_most("times the requests of the request-level test", ours_exposed / theirs.mean(), 2.5)


def test_with_many_users_a_strong_correlation_costs_little(study: Study) -> None:
    """20,000 users make one request each by then, as a rule: there is little that could resemble."""
    drawn = clustered(5, study.runs(100), users=20_000, requests=1000, correlation=0.1, lift=2.0, looks=50)
    ours, _ = judged(drawn)
    study.rate_at_least("bad detected", ours.any(1), 0.97)
    study.mean_at_most("challenger requests exposed", sim.exposed(ours, drawn.counts[..., 1]), 2000)


def test_the_simulated_sums_are_those_of_the_pairs() -> None:
    """Pair by pair, from the definition."""
    seed, users, requests, looks, rate = 6, 5, 12, 4, 0.3
    drawn = clustered(seed, 1, users=users, requests=requests, correlation=0.2, share=0.5, rate=rate, looks=looks)
    rng = np.random.default_rng(seed)  # the same draws again
    own, dealt = rng.beta(rate * 4, (1 - rate) * 4, (1, users))[0], rng.random((1, users))[0]
    past: list[tuple[int, int, float, float]] = []  # user, arm, residual, spread
    for look in range(looks):
        who, draw = rng.integers(0, users, (1, requests))[0], rng.random((1, requests))[0]
        bad, arms = draw < own[who], (dealt[who] < 0.5).astype(int)
        for arm in (CHAMPION, CHALLENGER):
            mine = arms == arm
            n, mean = int(mine.sum()), float(bad[mine].mean()) if mine.any() else 0.0
            variance = mean * (1 - mean) * n / (n - 1) if n > 1 else 0.0
            now = [(int(u), arm, float(y) - mean, variance**0.5) for u, y in zip(who[mine], bad[mine], strict=True)]
            before = [p for p in past if p[1] == arm]
            pairs = [(p, q, variance / n) for i, p in enumerate(now) for j, q in enumerate(now) if i != j]
            pairs += [(p, q, 0.0) for p in now for q in before] + [(q, p, 0.0) for p in now for q in before]
            same = [(p, q, more) for p, q, more in pairs if p[0] == q[0]]
            sizes = [[sum(p[0] == user for p in seen) for user in range(users)] for seen in (before, before + now)]
            expected = [
                n,
                sum(s * s for s in sizes[1]) - sum(s * s for s in sizes[0]),
                sum(p[2] * q[2] + more for p, q, more in same),
                sum(p[3] * q[3] for p, q, _ in same),
                sum((p[3] * q[3]) ** 2 for p, q, _ in same),
            ]
            assert drawn.sums[0, look, arm] == pytest.approx(expected, abs=1e-9)
            past += now
