"""Promises 2, 3 and 5: how often a rate rolls back or passes without cause, and how soon with cause.

Someone looks after each of 200 looks.
"""

import numpy as np
import pytest

from bench import simulate as sim
from bench.rivals import z_test_at_every_look
from bench.study import Study

# 1.8 % is the level plus 2.5 standard errors of 1000 runs
LEVEL, ALLOWED = sim.ALPHA, 0.018
#: Where 200 looks have one and a half times the requests that a fixed-size test of 2 % against 4 % needs.
WELL_FED = [sim.FEWEST_OF_MANY, sim.FEW_OF_MANY, sim.SOME, sim.MANY, sim.RAMPING]


@pytest.mark.parametrize("traffic", [sim.FEW, *WELL_FED], ids=lambda traffic: traffic.name)
def test_a_healthy_challenger_is_rolled_back_in_at_most_1_percent(study: Study, traffic: sim.Traffic) -> None:
    drawn = sim.counts(1, study.runs(1000), traffic, 0.02, 0.02)
    hits = sim.reached(sim.harm(drawn, 1.0, traffic.starts), LEVEL).any(1)
    study.rate_at_most("healthy rolled back", hits, LEVEL, ALLOWED)
    study.rate_above("z-test at every look", z_test_at_every_look(drawn).any(1), 0.10)


@pytest.mark.parametrize("starts", [(0,), sim.RAMP_STARTS], ids=["one start", "a start a stage"])
def test_a_ramp_and_a_daily_wave_do_not_change_that(study: Study, starts: tuple[int, ...]) -> None:
    drawn = sim.counts(2, study.runs(1000), sim.RAMPING, 0.02, 0.02, sim.WAVE)
    hits = sim.reached(sim.harm(drawn, 1.0, starts), LEVEL).any(1)
    study.rate_at_most("healthy rolled back", hits, LEVEL, ALLOWED)
    study.rate_above("z-test at every look", z_test_at_every_look(drawn).any(1), 0.10)


@pytest.mark.parametrize("traffic", WELL_FED, ids=lambda traffic: traffic.name)
def test_twice_the_errors_are_caught_before_a_fixed_size_test_would_end(study: Study, traffic: sim.Traffic) -> None:
    drawn = sim.counts(3, study.runs(1000), traffic, 0.02, 0.04)
    needed = sim.oracle(traffic.mean_share)
    assert drawn[..., 1].sum(1).mean() >= 1.5 * needed
    hits = sim.reached(sim.harm(drawn, 1.0, traffic.starts), LEVEL)
    study.rate_at_least("bad detected", hits.any(1), 0.97)
    study.mean_at_most("challenger requests exposed", sim.exposed(hits, drawn[..., 1]), needed)


@pytest.mark.parametrize("pass_odds", [1.5, 4.0])
@pytest.mark.parametrize("wave", [1.0, 0.9 + 0.1 * sim.WAVE], ids=["steady", "wave"])
def test_a_challenger_at_the_pass_margin_passes_in_at_most_5_percent(
    study: Study, pass_odds: float, wave: float | np.ndarray
) -> None:
    worse = sim.times_the_odds(0.02, pass_odds)
    for traffic in (sim.MANY, sim.RAMPING):
        drawn = sim.counts(4, study.runs(1000), traffic, 0.02, worse, wave)
        hits = sim.reached(sim.proof(drawn, pass_odds), sim.BETA).any(1)
        study.rate_at_most(f"passed at the margin, {traffic.name}", hits, sim.BETA)


@pytest.mark.parametrize("odds", [1.1, 1.25], ids=["inside", "at the edge"])
def test_a_challenger_within_the_rollback_margin_is_rolled_back_in_at_most_1_percent(study: Study, odds: float) -> None:
    for traffic in (sim.MANY, sim.RAMPING):
        drawn = sim.counts(5, study.runs(1000), traffic, 0.02, sim.times_the_odds(0.02, odds))
        hits = sim.reached(sim.harm(drawn, 1.25, traffic.starts), LEVEL).any(1)
        study.rate_at_most(f"rolled back, {traffic.name}", hits, LEVEL)
        study.rate_above("z-test at every look", z_test_at_every_look(drawn).any(1), 0.10)


def test_a_challenger_as_good_as_the_champion_passes(study: Study) -> None:
    drawn = sim.counts(6, study.runs(500), sim.MANY, 0.02, 0.02)
    hits = sim.reached(sim.proof(drawn, 1.5), sim.BETA)
    study.rate_at_least("healthy passed", hits.any(1), 0.99)
    study.median_at_most("challenger requests until then", sim.exposed(hits, drawn[..., 1]), 4000)


def test_twice_the_errors_are_caught_also_beyond_a_rollback_margin(study: Study) -> None:
    drawn = sim.counts(7, study.runs(500), sim.MANY, 0.02, 0.04)
    hits = sim.reached(sim.harm(drawn, 1.25), LEVEL)
    study.rate_at_least("bad detected", hits.any(1), 0.99)
    study.median_at_most("challenger requests exposed", sim.exposed(hits, drawn[..., 1]), 2500)
