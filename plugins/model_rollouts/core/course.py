"""The course of a rollout's gates over its looks, for pictures: what was known after each look.

A ledger keeps what a verdict needs, and the bounds of an effect cost it a second pass over all looks, and another one
for each stage. A picture wants the bounds at many looks of many stages. Here every look is taken once, into the curve
that the bounds come from (core/odds_curve.py): it also gives the evidence, and the curve of a stage's own looks is its
part that begins with the stage. The numbers are a ledger's to some twelve digits; a test holds the two together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_rollouts.core.clustering import Clustering, ClusterTotals, as_independent, clustering_of
from model_rollouts.core.counting import counter_of
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.odds_curve import OddsCurve
from model_rollouts.core.plan import Plan
from model_rollouts.core.proportion import log_e_rate_below
from model_rollouts.core.tallies import Tally
from model_rollouts.core.unit_evidence import ClusterSums
from model_rollouts.core.verdict import Measured

_ARMS = ("champion", "challenger")
_HALF = math.log(0.5)


@dataclass(frozen=True, slots=True)
class Point:
    """What one gate knew after one look.

    Attributes:
        position: How many looks of the rollout it rests on; of labelled ones, where it waits for labels.
        stage: The stage that was judged.
        look: Index of the newest look in the stage.
        effect: The estimate, as in `Measured`; None where undefined.
        low: Bound that the effect is proven to be above, at any time; None where there is none.
        high: Bound that it is proven to be below.
        harm: Evidence of harm: log e-value over its threshold, 1 and more is proof.
        proof: Evidence of non-inferiority, the same way.
    """

    position: int
    stage: int
    look: int
    effect: float | None
    low: float | None
    high: float | None
    harm: float
    proof: float


class Course(Ledger):
    """A ledger whose tallies of rates last over stages, and whose bounds are cheap at every look.

    Looks are to be taken in order, and judged at the stage of the newest one or at a later one.

    Args:
        plan: The rollout's plan.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._rates: dict[tuple[object, ...], _Rate] = {}

    def tally(self, gate: Gate, stage: int, signals_from: int) -> Tally:
        """The gate's tally over all looks so far; see `Ledger.tally`."""
        if not gate.metric.is_rate or (gate.role is Role.SIGNAL and signals_from):
            return super().tally(gate, stage, signals_from)
        key = (gate.metric, gate.latency_margin, gate.latency_slack_ms)
        rate = self._rates.setdefault(key, _Rate(gate, len(self.plan.stages)))
        rate.take(self.looks, self.matured if gate.metric.matures else len(self.looks))
        return _RateAt(rate, gate, stage)

    def point(self, gate: Gate, stage: int, signals_from: int = 0) -> Point:
        """What the gate knows now."""
        tally = self.tally(gate, stage, signals_from)
        measured = tally.measure()
        harm = -math.log(self.plan.alpha_of(stage, gate))
        proof = -math.log(self.plan.beta_of(gate))
        low, high = tally.bounds(harm, proof)
        return Point(
            position=self.matured if gate.metric.matures else len(self.looks),
            stage=stage,
            look=self.looks[-1].index if self.looks else 0,
            effect=measured.effect,
            low=low,
            high=high,
            harm=measured.log_e_harm / harm,
            proof=measured.log_e_pass / proof,
        )


class _Rate:
    """Sums of one way to count bad outcomes, by stage."""

    def __init__(self, gate: Gate, starts: int) -> None:
        self.metric = gate.metric
        self.curve = OddsCurve(starts)
        self.counts = np.zeros((starts, 4), np.int64)
        self.judged = [0] * starts
        self.up = self.down = 0.0
        self.arrived = np.zeros((starts, 4), np.int64)  # champion's labels, due, challenger's labels, due
        self._count = counter_of(gate)
        self._units = {arm: ClusterTotals() for arm in _ARMS}
        self._calls = {arm: ClusterTotals() for arm in _ARMS}
        self._taken = 0

    def take(self, looks: Sequence[Look], limit: int) -> None:
        """Take the looks up to a limit; those known already are not taken again."""
        fresh = looks[self._taken : limit]
        if not fresh:
            return
        self._taken = limit
        strata = [self._count(look) for look in fresh]
        counts = np.array(
            [(s.challenger_bad, s.challenger_n, s.champion_bad, s.champion_n) for s in strata], dtype=np.int64
        )
        stages = np.array([look.stage for look in fresh], dtype=np.int64)
        self.curve.add(counts, stages)
        for stage in np.unique(stages):
            own = counts[stages == stage]
            self.counts[stage] += own.sum(axis=0)
            self.judged[stage] += int(own[own[:, 3] > 0, 1].sum())
        bad, n, champion_bad, champion_n = counts.T.astype(float)
        both = np.maximum(n + champion_n, 1)
        self.up += float((bad * (champion_n - champion_bad) / both).sum())
        self.down += float((champion_bad * (n - bad) / both).sum())
        for look in fresh:
            self._add_units(look)

    def _add_units(self, look: Look) -> None:
        labelled = self.metric is Metric.WRONG_RATE
        if labelled and look.champion_labels and look.challenger_labels:
            a, b = look.champion_labels, look.challenger_labels
            self.arrived[look.stage] += (a.labelled, a.due, b.labelled, b.due)
        for arm in _ARMS:
            if labelled:
                _add(self._units[arm], getattr(look, f"{arm}_label_clusters"))
            elif units := getattr(look, f"{arm}_units"):
                _add(self._units[arm], units.clusters.get(self.metric))
                _add(self._calls[arm], units.clusters.get(f"call_{self.metric}"))

    def clustering(self) -> Clustering:
        """Of units or of calls, whichever stretches more."""
        found = [clustering_of(kind["champion"], kind["challenger"]) for kind in (self._units, self._calls)]
        return max(found, key=lambda clustering: clustering.design_effect)

    def coverage(self, stage: int) -> float:
        """Least share of due labels of the two arms, in the stage and in all."""
        parts = [*self.arrived.sum(axis=0).reshape(2, 2), *self.arrived[stage].reshape(2, 2)]
        return min(float(arrived / due) if due else 0.0 for arrived, due in parts)


class _RateAt:
    """A rate as one stage's gate sees it. Implements `Tally`."""

    def __init__(self, rate: _Rate, gate: Gate, stage: int) -> None:
        self._rate, self._gate, self._stage = rate, gate, stage

    def add(self, looks: list[Look]) -> None:
        """Not for this one: the course takes the looks.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"{len(looks)} looks are given to one stage's gate; give them to the course")

    def measure(self) -> Measured:
        """The gate's numbers over the looks so far."""
        rate, gate, clustering = self._rate, self._gate, self._rate.clustering()
        own = rate.counts[self._stage]
        effect = clustering.design_effect
        log_e_pass = rate.curve.of_start(self._stage).log_e(gate.pass_odds, effect, worse=False)
        if gate.negligible is not None:
            below = log_e_rate_below(*as_independent(int(own[0]), int(own[1]), effect), gate.negligible)
            log_e_pass = _HALF + float(np.logaddexp(log_e_pass, below))
        bad, n, champion_bad, champion_n = (int(value) for value in rate.counts.sum(axis=0))
        return Measured(
            effect=rate.up / rate.down if rate.down else None,
            log_e_harm=rate.curve.log_e(gate.rollback_odds, effect, worse=True),
            log_e_pass=log_e_pass,
            challenger_bad=bad,
            challenger_n=n,
            champion_bad=champion_bad,
            champion_n=champion_n,
            stage_n=rate.judged[self._stage],
            stage_counts=(int(own[0]), int(own[1]), int(own[2]), int(own[3])),
            coverage=rate.coverage(self._stage) if gate.metric is Metric.WRONG_RATE else None,
            design_effect=effect,
            requests_per_unit=clustering.requests_per_unit,
            correlation=clustering.correlation,
        )

    def bounds(self, log_harm: float, log_pass: float) -> tuple[float | None, float | None]:
        """(low, high): odds ratio that the truth is proven to be above over all, and below in the stage."""
        effect = self._rate.clustering().design_effect
        own = self._rate.curve.of_start(self._stage)
        return self._rate.curve.bound(log_harm, effect, worse=True), own.bound(log_pass, effect, worse=False)


def _add(totals: ClusterTotals, sums: ClusterSums | None) -> None:
    if sums is not None:
        totals.add(sums)


def thinned(count: int, ends: Sequence[int], most: int) -> list[int]:
    """Which of `count` positions, counted from 1, are shown: evenly spaced, with all the ends among them.

    Args:
        count: How many there are.
        ends: Positions that must be shown, such as the last look of each stage.
        most: How many are shown at the most, the ends not counted.
    """
    step = max(1, math.ceil(count / max(most, 1)))
    return sorted({*range(step, count + 1, step), *(end for end in ends if 0 < end <= count)})
