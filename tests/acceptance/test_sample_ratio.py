"""Promise 6: an assignment as planned raises no alarm, a wrong one does."""

import numpy as np
import pytest
from scipy.stats import chi2

from bench import simulate as sim
from bench.study import Study
from model_rollouts.core.sample_ratio import log_e_mismatch_over

LEVEL, ALLOWED = 0.001, 5 / 2000
UNITS = 100  # new ones in each look


def new_units(seed: int, runs: int, share: float | np.ndarray) -> sim.Ints:
    """The challenger's in each look, shape (rollouts, looks)."""
    return np.random.default_rng(seed).binomial(UNITS, np.broadcast_to(share, (sim.LOOKS,)), (runs, sim.LOOKS))


def alarms(units: sim.Ints, planned: float) -> sim.Bools:
    """The project's test after each look, one share throughout."""
    total = units.cumsum(axis=1)
    n = np.broadcast_to(UNITS * np.arange(1, sim.LOOKS + 1), total.shape)
    keys, inverse = np.unique(np.stack([total, n], -1).reshape(-1, 2), axis=0, return_inverse=True)
    log_e = np.array([log_e_mismatch_over([(b, of - b, planned)]) for b, of in keys.tolist()])
    return sim.reached(log_e[inverse.ravel()].reshape(total.shape), LEVEL)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.01])
def test_an_assignment_as_planned_raises_an_alarm_in_at_most_1_of_1000(study: Study, share: float) -> None:
    units = new_units(1, study.runs(2000), share)
    study.rate_at_most("false alarms", alarms(units, share).any(1), LEVEL, ALLOWED)
    n = UNITS * np.arange(1, sim.LOOKS + 1)
    z2 = (units.cumsum(axis=1) - n * share) ** 2 / (n * share * (1 - share))
    study.rate_above("chi-squared test at every look", (z2 > chi2.ppf(1 - LEVEL, 1)).any(1), ALLOWED)


def test_a_growing_share_raises_no_alarm_either(study: Study) -> None:
    runs = study.runs(2000)
    hits = np.zeros(runs, bool)
    for run, units in enumerate(new_units(2, runs, sim.RAMP).tolist()):
        periods: list[tuple[int, int, float]] = []
        for look, challenger in enumerate(units):
            if look in sim.RAMP_STARTS:
                periods.append((0, 0, float(sim.RAMP[look])))
            b, a, share = periods[-1]
            periods[-1] = (b + challenger, a + UNITS - challenger, share)
            hits[run] |= log_e_mismatch_over(periods) >= -np.log(LEVEL)
    study.rate_at_most("false alarms", hits, LEVEL, ALLOWED)


def test_4_percent_instead_of_5_are_caught_within_20_000_units(study: Study) -> None:
    hits = alarms(new_units(3, study.runs(2000), 0.04), 0.05)
    study.rate_at_least("caught", hits.any(1), 0.99)
    units = np.where(hits.any(1), UNITS * (hits.argmax(1) + 1), np.inf)
    study.median_at_most("units until then", units, 20_000)
