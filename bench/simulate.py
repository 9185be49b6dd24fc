"""Simulated rollouts, judged by the project's own rule: what the acceptance tests and the benchmark share.

Nothing here knows a formula of the engine. Counts of many rollouts are drawn at once, and go through the functions that
`decide` uses; `tests/acceptance/test_same_rule.py` holds both against each other.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from model_rollouts.core.evidence import LATENCY_BINS, Look, RequestCounts, latency_edge_ms
from model_rollouts.core.odds_ratio import better_than, count_log_likelihood_ratios, mix_starts, worse_than

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
#: Shape (rollouts, looks, 4): challenger_bad, challenger_n, champion_bad, champion_n.
Counts = Ints

LOOKS, ALPHA, BETA = 200, 0.01, 0.05
#: The challenger's share while it goes from 1 to 50 %, and the look at which each stage begins.
RAMP, RAMP_STARTS = np.repeat([0.01, 0.05, 0.25, 0.5], 50), (0, 50, 100, 150)
#: What a day does to the error rate: from half of it to one and a half times.
WAVE = 1 + 0.5 * np.sin(np.linspace(0, 2 * np.pi, LOOKS) - np.pi / 2)


@dataclass(frozen=True)
class Traffic:
    """Requests of a look, and who gets them.

    Attributes:
        name: Shown in tables.
        requests: Of both arms together, in each look.
        share: The challenger's share: one number, or one a look.
        starts: Looks at which a stage begins.
    """

    name: str
    requests: int
    share: float | Floats
    starts: tuple[int, ...] = (0,)

    @property
    def mean_share(self) -> float:
        """The challenger's share of all requests."""
        return float(np.mean(self.share))


FEW = Traffic("5 % of 100 a look", 100, 0.05)
SOME = Traffic("25 % of 100", 100, 0.25)
FEWEST_OF_MANY = Traffic("1 % of 1000", 1000, 0.01)
FEW_OF_MANY = Traffic("5 % of 1000", 1000, 0.05)
MANY = Traffic("25 % of 1000", 1000, 0.25)
RAMPING = Traffic("ramp 1-5-25-50 of 1000", 1000, RAMP, RAMP_STARTS)


def counts(
    seed: int, runs: int, traffic: Traffic, champion: float, challenger: float, wave: float | Floats = 1.0
) -> Counts:
    """Rollouts in which each request goes wrong on its own.

    Args:
        seed: Of the generator.
        runs: How many rollouts.
        traffic: Requests of each look.
        champion: Its rate of bad outcomes.
        challenger: The same.
        wave: Factor on both rates: one number, or one a look.
    """
    rng = np.random.default_rng(seed)
    n = rng.binomial(traffic.requests, np.broadcast_to(traffic.share, (LOOKS,)), (runs, LOOKS))
    rest = traffic.requests - n
    waves = np.broadcast_to(wave, (LOOKS,))
    return np.stack([rng.binomial(n, challenger * waves), n, rng.binomial(rest, champion * waves), rest], -1)


def times_the_odds(rate: float, odds: float) -> float:
    """The rate whose odds are so many times those of another."""
    odds *= rate / (1 - rate)
    return odds / (1 + odds)


def gains(drawn: Counts, null: float, grid: tuple[float, ...]) -> Floats:
    """The engine's log likelihood ratios, shape (rollouts, looks, grid)."""
    return count_log_likelihood_ratios(drawn.reshape(-1, 4), null, grid).reshape(*drawn.shape[:2], len(grid))


def harm(drawn: Counts, rollback_odds: float, starts: Sequence[int] = (0,)) -> Floats:
    """The engine's log e-value against "no worse than the margin", of each rollout after each look."""
    return np.stack([mix_starts(run, starts) for run in gains(drawn, rollback_odds, worse_than(rollback_odds))])


def proof(drawn: Counts, pass_odds: float) -> Floats:
    """The engine's log e-value against "worse than the margin", of each rollout after each look."""
    return np.stack([mix_starts(run, (0,)) for run in gains(drawn, pass_odds, better_than(pass_odds))])


def reached(log_e: Floats, level: float) -> Bools:
    """Where the evidence reaches what the level asks for."""
    return log_e >= -np.log(level)


def exposed(hits: Bools, requests: Ints) -> Ints:
    """Requests until a rule hits, or all of them; shape (rollouts,)."""
    last = np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1] - 1)
    return requests.cumsum(axis=1)[np.arange(len(hits)), last]


def oracle(share: float, champion: float = 0.02, challenger: float = 0.04, power: float = 0.9) -> float:
    """Challenger requests of one test of fixed size at the same level, by whoever knows both rates beforehand."""
    z = norm.ppf(1 - ALPHA) + norm.ppf(power)
    variance = challenger * (1 - challenger) + champion * (1 - champion) * share / (1 - share)
    return float(z**2 * variance / (challenger - champion) ** 2)


@dataclass(frozen=True)
class LateLabels:
    """Labels of the same requests, counted in two ways.

    Attributes:
        matured: In the look of the request, once it is old enough; looks that are not yet are left out.
        arrived: In the look in which the label came.
    """

    matured: Counts
    arrived: Counts


def late_labels(
    seed: int, runs: int, traffic: Traffic, wrong_rate: float, slow: float = 30.0, fast: float = 3.0, maturity: int = 60
) -> LateLabels:
    """Both versions alike; what went wrong is heard of soon, what went well late.

    Args:
        seed: Of the generator.
        runs: How many rollouts.
        traffic: Requests of each look.
        wrong_rate: Of both versions.
        slow: Mean delay of the label of a right answer, in looks (exponential).
        fast: The same for a wrong one.
        maturity: Age at which a request's label is due, in looks; later ones are missing.
    """
    rng = np.random.default_rng(seed)
    share = np.broadcast_to(traffic.share, (LOOKS,))
    matured, arrived = np.zeros((runs, LOOKS, 4), np.int64), np.zeros((runs, LOOKS, 4), np.int64)
    look = np.repeat(np.arange(LOOKS), traffic.requests)
    for run in range(runs):
        wrong = rng.random(len(look)) < wrong_rate
        challenger = rng.random(len(look)) < share[look]
        delay = rng.exponential(np.where(wrong, fast, slow)).astype(np.int64)
        for result, at, seen in ((matured, look, delay <= maturity), (arrived, look + delay, look + delay < LOOKS)):
            for column, chosen in enumerate((challenger & wrong, challenger, ~challenger & wrong, ~challenger)):
                result[run, :, column] = np.bincount(at[chosen & seen], minlength=LOOKS)
    return LateLabels(matured[:, : LOOKS - maturity], arrived)


_EDGES = np.array([latency_edge_ms(index) for index in range(LATENCY_BINS)])


def latency_looks(
    seed: int, runs: int, slower: float, champion: int = 75, challenger: int = 25, looks: int = LOOKS
) -> Iterator[list[Look]]:
    """One rollout at a time: log-normal latencies around 100 ms, a tenth of the requests beyond 190 ms.

    Args:
        seed: Of the generator.
        runs: How many rollouts.
        slower: Factor on the challenger's latencies.
        champion: Its requests in each look.
        challenger: The same.
        looks: How many.
    """
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        arms = []
        for n, factor in ((champion, 1.0), (challenger, slower)):
            latency = 100 * factor * np.exp(0.5 * rng.standard_normal((looks, n)))
            bins = np.searchsorted(_EDGES, latency, side="right") - 1
            arms.append([RequestCounts(n, 0, Counter(row)) for row in bins.tolist()])
        yield [Look(0, index, a, b) for index, (a, b) in enumerate(zip(*arms, strict=True))]
