"""How often the rule is wrong, and how soon it is right: simulated rollouts, fixed seeds, the project's own rule.

Someone looks after each of 200 looks. Every rollout's counts go through the functions that `decide` uses, for all
rollouts at once; one test holds both against each other.
"""

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import norm

from model_rollouts.core.decision import Verdict, decide
from model_rollouts.core.evidence import Look, RequestCounts
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.odds_ratio import better_than, count_log_likelihood_ratios, mix_starts, worse_than
from model_rollouts.core.plan import Pattern, Plan, Stage

LOOKS, ALPHA, BETA = 200, 0.01, 0.05
RAMP = np.repeat([0.01, 0.05, 0.25, 0.5], 50)
RAMP_STARTS = (0, 50, 100, 150)
WAVE = 1 + 0.5 * np.sin(np.linspace(0, 2 * np.pi, LOOKS) - np.pi / 2)  # the error rate goes from half to 1.5 times
Counts = np.ndarray  # rollouts, looks, (challenger_bad, challenger_n, champion_bad, champion_n)


def rollouts(
    seed: int, runs: int, requests: int, share: float | np.ndarray, champion: float, challenger: float,
    wave: float | np.ndarray = 1.0,
) -> Counts:  # fmt: skip
    rng = np.random.default_rng(seed)
    n = rng.binomial(requests, np.broadcast_to(share, (LOOKS,)), (runs, LOOKS))
    rest = requests - n
    rates = np.broadcast_to(wave, (LOOKS,))
    return np.stack([rng.binomial(n, challenger * rates), n, rng.binomial(rest, champion * rates), rest], -1)


def paths(counts: Counts, null: float, grid: tuple[float, ...], starts: tuple[int, ...] = (0,)) -> np.ndarray:
    """Log e-value of each rollout after each look."""
    gains = count_log_likelihood_ratios(counts.reshape(-1, 4), null, grid).reshape(*counts.shape[:2], len(grid))
    return np.stack([mix_starts(run, starts) for run in gains])


def harm(counts: Counts, rollback_odds: float, starts: tuple[int, ...] = (0,)) -> np.ndarray:
    return paths(counts, rollback_odds, worse_than(rollback_odds), starts)


def share_reaching(path: np.ndarray, threshold: float) -> float:
    return float((path >= threshold).any(axis=1).mean())


def exposed(path: np.ndarray, threshold: float, counts: Counts) -> np.ndarray:
    """Challenger requests until the threshold is reached, or all of them."""
    hit = path >= threshold
    last = np.where(hit.any(axis=1), hit.argmax(axis=1), LOOKS - 1)
    return counts[..., 1].cumsum(axis=1)[np.arange(len(path)), last]


def oracle(share: float, p0: float = 0.02, p1: float = 0.04) -> float:
    """Challenger requests of one fixed-size test at the same level with 90 % power."""
    z = norm.ppf(1 - ALPHA) + norm.ppf(0.9)
    return float(z**2 * (p1 * (1 - p1) + p0 * (1 - p0) * share / (1 - share)) / (p1 - p0) ** 2)


def z_test(counts: Counts) -> np.ndarray:
    """The usual pooled two-sample z of everything so far, at each look."""
    bad, n, rest_bad, rest = np.moveaxis(counts.cumsum(axis=1), -1, 0)
    p = (bad + rest_bad) / (n + rest)
    with np.errstate(all="ignore"):
        z = (bad / n - rest_bad / rest) / np.sqrt(p * (1 - p) * (1 / n + 1 / rest))
    return np.nan_to_num(z, nan=0, posinf=0, neginf=0)


@cache
def healthy_ramp() -> Counts:
    return rollouts(1, 1000, 1000, RAMP, 0.02, 0.02, WAVE)


def test_a_healthy_challenger_is_rolled_back_in_at_most_1_percent_while_share_and_rate_move() -> None:
    """The level is 1 %; 1.8 % is that plus 2.5 standard errors of 1000 runs."""
    assert share_reaching(harm(healthy_ramp(), 1.0, RAMP_STARTS), -math.log(ALPHA)) <= 0.018
    assert share_reaching(harm(healthy_ramp(), 1.0), -math.log(ALPHA)) <= 0.018


def test_a_z_test_at_every_look_would_roll_back_far_more() -> None:
    """The negative control: the simulation can tell a rule that keeps its level from one that does not."""
    assert share_reaching(z_test(healthy_ramp()), norm.ppf(1 - ALPHA)) > 0.10
    assert share_reaching(z_test(rollouts(2, 300, 1000, RAMP, 0.02, 0.02)), norm.ppf(1 - ALPHA)) > 0.10


def test_four_gates_together_keep_the_level() -> None:
    runs = 500
    alarm = np.zeros(runs, dtype=bool)
    for gate in range(4):
        path = harm(rollouts(10 + gate, runs, 500, RAMP, 0.05, 0.05, WAVE), 1.0, RAMP_STARTS)
        alarm |= (path >= -math.log(ALPHA / 4)).any(axis=1)
    assert alarm.mean() <= 0.02


def test_a_challenger_at_the_rollback_margin_is_rolled_back_in_at_most_1_percent() -> None:
    odds = 1.25 * 0.02 / 0.98
    counts = rollouts(3, 1000, 1000, RAMP, 0.02, odds / (1 + odds))
    assert share_reaching(harm(counts, 1.25, RAMP_STARTS), -math.log(ALPHA)) <= 0.018


@pytest.mark.parametrize(
    ("requests", "share", "starts"),
    [(100, 0.25, (0,)), (1000, 0.05, (0,)), (1000, 0.25, (0,)), (1000, RAMP, RAMP_STARTS)],
    ids=["25 of 100", "50 of 1000", "250 of 1000", "ramp of 1000"],
)
def test_twice_the_errors_are_caught_and_fewer_are_exposed_than_a_fixed_size_test_needs(
    requests: int, share: float | np.ndarray, starts: tuple[int, ...]
) -> None:
    counts = rollouts(4, 500, requests, share, 0.02, 0.04)
    needed = oracle(float(np.mean(share)))
    assert counts[..., 1].sum(axis=1).min() >= 1.5 * needed
    path = harm(counts, 1.0, starts)
    assert share_reaching(path, -math.log(ALPHA)) >= 0.97
    assert exposed(path, -math.log(ALPHA), counts).mean() <= needed


@pytest.mark.parametrize("pass_odds", [1.5, 4.0])
def test_a_challenger_at_the_pass_margin_passes_in_at_most_5_percent(pass_odds: float) -> None:
    odds = pass_odds * 0.02 / 0.98
    counts = rollouts(5, 1000, 500, RAMP, 0.02, odds / (1 + odds), 0.9 + 0.1 * WAVE)
    path = paths(counts, pass_odds, better_than(pass_odds))
    assert share_reaching(path, -math.log(BETA)) <= 0.05


def test_a_challenger_as_good_as_the_champion_passes() -> None:
    counts = rollouts(6, 300, 1000, 0.25, 0.02, 0.02)
    path = paths(counts, 1.5, better_than(1.5))
    assert share_reaching(path, -math.log(BETA)) >= 0.99
    assert np.median(exposed(path, -math.log(BETA), counts)) <= 4000


def test_the_simulated_rule_is_the_one_that_decides() -> None:
    counts = rollouts(7, 3, 1000, RAMP, 0.02, 0.03, WAVE)
    gate = Gate(Metric.ERROR_RATE)
    plan = Plan(Pattern.CANARY, tuple(Stage(s, (gate,), 0, 1) for s in (1, 5, 25, 50)))
    harmful = harm(counts, 1.25, RAMP_STARTS)
    stages = [paths(counts[:, first : first + 50], 1.5, better_than(1.5)) for first in (0, 50, 100, 150)]
    good = np.concatenate(stages, axis=1)  # each stage is proven on its own looks
    for run, rows in enumerate(counts.tolist()):
        looks = [
            Look(i // 50, i % 50, RequestCounts(a_n, a), RequestCounts(b_n, b))
            for i, (b, b_n, a, a_n) in enumerate(rows)
        ]
        for seen in (1, 49, 50, 51, 100, 149, 150, 151, 200):
            decision = decide(plan, looks[seen - 1].stage, looks[:seen], 0)
            assert decision.gates[0].log_e_harm == pytest.approx(harmful[run, seen - 1], abs=1e-9)
            assert decision.gates[0].log_e_pass == pytest.approx(good[run, seen - 1], abs=1e-9)
            failed = harmful[run, seen - 1] >= -math.log(ALPHA)
            assert (decision.verdict is Verdict.FAIL) == failed
