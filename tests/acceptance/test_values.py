"""Business values: the confidence sequence keeps its level with repeat requests, and CUPED makes it narrower."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from bench import simulate as sim
from bench.simulate_units import valued
from bench.study import Study
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.tallies.values import ValueTally

ALLOWED = 0.018
NO_MARGIN = Gate(Metric.VALUE, rollback_lift=0.0, pass_lift=0.0)  # equal values are at the edge of both nulls


def evidence(looks: Iterable[Look], gate: Gate = NO_MARGIN) -> sim.Floats:
    """Log e-values of harm and of proof after each look, 0 while the gate asks for more units; shape (looks, 2)."""
    tally = ValueTally(gate, 0)
    rows = []
    for look in looks:
        tally.add([look])
        m = tally.measure()
        rows.append((0.0, 0.0) if m.short else (m.log_e_harm, m.log_e_pass))
    return np.array(rows)


def test_equal_values_are_judged_unequal_in_at_most_1_percent_on_either_side(study: Study) -> None:
    """Ten requests a user, four fifths of the variance between users; a quarter of the users is the challenger's."""
    runs = study.runs(1000)
    drawn = valued(1, runs, users=2000, requests=100)
    log_e = np.stack([evidence(drawn.looks(run)) for run in range(runs)])
    study.rate_at_most("healthy rolled back", sim.reached(log_e[..., 0], sim.ALPHA).any(1), sim.ALPHA, ALLOWED)
    study.rate_at_most("passed at the margin", sim.reached(log_e[..., 1], sim.ALPHA).any(1), sim.ALPHA, ALLOWED)


def test_a_small_share_keeps_the_level_with_the_units_that_a_gate_asks_for(study: Study) -> None:
    """5 % of the users; with 50 units in the smaller arm 4 % of the healthy would be lost."""
    runs = study.runs(300)
    drawn = valued(9, runs, users=12_000, requests=300, share=0.05)
    ours = np.stack([evidence(drawn.looks(run))[:, 0] for run in range(runs)])
    study.rate_at_most("healthy rolled back", sim.reached(ours, sim.ALPHA).any(1), sim.ALPHA, ALLOWED)


def test_requests_taken_for_units_would_not_keep_the_level(study: Study) -> None:
    runs = study.runs(500)
    drawn = valued(2, runs, users=400, requests=100)
    few = replace(NO_MARGIN, min_units=50)
    ours = np.stack([evidence(drawn.looks(run), few)[:, 0] for run in range(runs)])
    alone = np.stack([evidence(drawn.looks(run, repeats=False), few)[:, 0] for run in range(runs)])
    study.rate_at_most("healthy rolled back", sim.reached(ours, sim.ALPHA).any(1), sim.ALPHA, ALLOWED)
    study.rate_above("each request a unit", sim.reached(alone, sim.ALPHA).any(1), ALLOWED)


def test_a_loss_is_found_out(study: Study) -> None:
    runs = study.runs(200)
    drawn = valued(3, runs, users=20_000, requests=400, lift=0.8, looks=100)
    log_e = np.stack([evidence(drawn.looks(run))[:, 0] for run in range(runs)])
    study.rate_at_least("a loss of a fifth detected", sim.reached(log_e, sim.ALPHA).any(1), 0.95)


def test_what_was_known_before_makes_the_interval_narrower(study: Study) -> None:
    runs = study.runs(200)
    drawn = valued(4, runs, users=2000, requests=100)
    widths = np.zeros((runs, 2))
    for run in range(runs):
        for column, covariate in enumerate((True, False)):
            tally = ValueTally(NO_MARGIN, 0)
            tally.add(list(drawn.looks(run, covariate=covariate)))
            low, high = tally.bounds(-np.log(sim.ALPHA), -np.log(sim.ALPHA))
            assert low is not None
            assert high is not None
            widths[run, column] = high - low
    assert np.median(widths[:, 0] / widths[:, 1]) <= 0.85
    study.rate_at_least("interval narrower with CUPED", widths[:, 0] < widths[:, 1], 0.9)


def test_the_simulated_sums_are_those_of_the_units() -> None:
    """Unit by unit, from the definition."""
    drawn = valued(5, 1, users=6, requests=8, looks=5)
    fields = drawn.sums[0].cumsum(axis=0)
    rng = np.random.default_rng(5)  # the same draws again
    level = 10 * np.exp(0.8 * rng.standard_normal((1, 6)))
    before = level * np.exp(0.5 * rng.standard_normal((5, 1, 6))).mean(0)
    unknown = rng.random((1, 6)) < 0.2
    before[unknown] = before[~unknown].mean()
    challenger = rng.random((1, 6)) < 0.25
    scores = np.zeros((6, 2))
    for look in range(5):
        who = rng.integers(0, 6, (1, 8))[0]
        y = level[0, who] * np.exp(0.5 * rng.standard_normal((1, 8)))[0]
        x, mine = before[0, who], challenger[0, who]
        for unit, y_one, x_one, is_challenger in zip(who, y, x, mine, strict=True):
            scores[unit] += np.array([y_one - y.mean(), x_one - x.mean()]) * (is_challenger - mine.mean())
        cross = scores.T @ scores
        assert fields[look, 10:] == pytest.approx([cross[0, 0], cross[0, 1], cross[1, 1]])
