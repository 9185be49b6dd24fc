"""Rates of bad outcomes per request, compared by their odds ratio: errors, wrong predictions, slow answers."""

import math

import numpy as np

from model_rollouts.core.clustering import Clustering, ClusterTotals, as_independent, clustering_of
from model_rollouts.core.counting import counter_of
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.hypergeometric import Floats, Ints
from model_rollouts.core.odds_curve import OddsCurve
from model_rollouts.core.odds_ratio import (
    better_than,
    count_log_likelihood_ratios,
    mixture,
    worse_than,
)
from model_rollouts.core.proportion import log_e_rate_below
from model_rollouts.core.tallies.coverage import CoverageTally
from model_rollouts.core.unit_evidence import ClusterSums
from model_rollouts.core.verdict import Measured

ARMS = ("champion", "challenger")


class RateTally:
    """Harm over all looks of the rollout, non-inferiority over the stage's own.

    Every stage of the plan has its start, also the ones to come: the weights of the mixture are fixed when the rollout
    begins, or it would not be an e-process.

    Args:
        gate: The gate.
        stage: Position of the stage that is judged.
        starts: Number of stages of the plan.
    """

    def __init__(self, gate: Gate, stage: int, starts: int) -> None:
        self._gate, self._stage, self._starts = gate, stage, starts
        self._count = counter_of(gate)
        self._harm_grid, self._pass_grid = worse_than(gate.rollback_odds), better_than(gate.pass_odds)
        self._harm = np.zeros((starts, len(self._harm_grid)))
        self._pass = np.zeros((1, len(self._pass_grid)))
        self._total, self._own = np.zeros(4, np.int64), np.zeros(4, np.int64)
        self._stage_n = 0
        self._estimate = np.zeros(2)
        self._coverage = CoverageTally()
        self._units = {"champion": ClusterTotals(), "challenger": ClusterTotals()}
        self._calls = {"champion": ClusterTotals(), "challenger": ClusterTotals()}
        self._counts: list[Ints] = []
        self._stages: list[Ints] = []
        self._curves: tuple[OddsCurve, OddsCurve] | None = None

    def add(self, looks: list[Look]) -> None:
        """Take further looks."""
        if not looks:
            return
        strata = [self._count(look) for look in looks]
        counts = np.array(
            [(s.challenger_bad, s.challenger_n, s.champion_bad, s.champion_n) for s in strata], dtype=np.int64
        )
        stages = np.array([look.stage for look in looks], dtype=np.int64)
        own = stages == self._stage
        self._counts.append(counts)
        self._stages.append(stages)
        self._add_to_curves(counts, stages)
        harm = count_log_likelihood_ratios(counts, self._gate.rollback_odds, self._harm_grid)
        for start in range(self._starts):
            self._harm[start] = _in_order(self._harm[start], harm[stages >= start])
        gains = count_log_likelihood_ratios(counts[own], self._gate.pass_odds, self._pass_grid)
        self._pass[0] = _in_order(self._pass[0], gains)
        self._total += counts.sum(axis=0)
        self._own += counts[own].sum(axis=0)
        # Requests of a look without a champion's are not judged: there was nothing to compare them with.
        self._stage_n += int(counts[own & (counts[:, 3] > 0), 1].sum())
        self._add_estimate(counts)
        self._add_units(looks)

    def _add_estimate(self, counts: Ints) -> None:
        """Mantel-Haenszel sums."""
        bad, n, champion_bad, champion_n = counts.T.astype(float)
        both = np.maximum(n + champion_n, 1)
        terms = np.stack([bad * (champion_n - champion_bad) / both, champion_bad * (n - bad) / both], axis=1)
        self._estimate = _in_order(self._estimate, terms)

    def _add_units(self, looks: list[Look]) -> None:
        labelled = self._gate.metric is Metric.WRONG_RATE
        for look in looks:
            if labelled and look.champion_labels and look.challenger_labels:
                arms = (look.champion_labels, look.challenger_labels)
                self._coverage.add([(arm.labelled, arm.due) for arm in arms], own=look.stage == self._stage)
            for arm in ARMS:
                if labelled:
                    self._add_sums(self._units[arm], getattr(look, f"{arm}_label_clusters"))
                elif units := getattr(look, f"{arm}_units"):
                    self._add_sums(self._units[arm], units.clusters.get(self._gate.metric))
                    self._add_sums(self._calls[arm], units.clusters.get(f"call_{self._gate.metric}"))

    @staticmethod
    def _add_sums(totals: ClusterTotals, sums: ClusterSums | None) -> None:
        if sums is not None:
            totals.add(sums)

    def measure(self) -> Measured:
        """The gate's numbers over the looks so far."""
        clustering = self._clustering()
        log_e_pass = mixture(self._pass, clustering.design_effect)
        if self._gate.negligible is not None:
            # Harm to prove absent: worse than the margin AND above the negligible rate. Under it both are e-values,
            # and so is their mean.
            log_e_pass = math.log(0.5) + float(np.logaddexp(log_e_pass, self._negligible(clustering.design_effect)))
        bad, n, champion_bad, champion_n = (int(value) for value in self._total)
        return Measured(
            effect=self._odds_ratio(),
            log_e_harm=mixture(self._harm, clustering.design_effect),
            log_e_pass=log_e_pass,
            challenger_bad=bad,
            challenger_n=n,
            champion_bad=champion_bad,
            champion_n=champion_n,
            stage_n=self._stage_n,
            stage_counts=(int(self._own[0]), int(self._own[1]), int(self._own[2]), int(self._own[3])),
            coverage=self._coverage.least() if self._gate.metric is Metric.WRONG_RATE else None,
            design_effect=clustering.design_effect,
            requests_per_unit=clustering.requests_per_unit,
            correlation=clustering.correlation,
        )

    def _odds_ratio(self) -> float | None:
        up, down = (float(value) for value in self._estimate)
        return up / down if down else None

    def _negligible(self, design_effect: float) -> float:
        """Log e-value that the challenger's own rate in the stage is below the negligible one."""
        assert self._gate.negligible is not None  # noqa: S101 - the caller's condition, for the type checker
        bad, n = as_independent(int(self._own[0]), int(self._own[1]), design_effect)
        return log_e_rate_below(bad, n, self._gate.negligible)

    def bounds(self, log_harm: float, log_pass: float) -> tuple[float | None, float | None]:
        """(low, high): odds ratio that the truth is proven to be above over all, and below in the stage."""
        if not self._counts:
            return None, None
        if self._curves is None:  # made when first asked for, and kept up from then on
            self._curves = OddsCurve(self._starts), OddsCurve(1)
            self._add_to_curves(np.concatenate(self._counts), np.concatenate(self._stages))
        over_all, in_stage = self._curves
        effect = self._clustering().design_effect
        return (
            over_all.bound(log_harm, effect, worse=True),
            in_stage.bound(log_pass, effect, worse=False),
        )

    def _add_to_curves(self, counts: Ints, stages: Ints) -> None:
        if self._curves is not None:
            own = stages == self._stage
            self._curves[0].add(counts, stages)
            self._curves[1].add(counts[own], np.zeros(int(own.sum()), np.int64))

    def _clustering(self) -> Clustering:
        """Of units or of calls, whichever stretches more: rows of one call share its latency and its failure."""
        found = [clustering_of(kind["champion"], kind["challenger"]) for kind in (self._units, self._calls)]
        return max(found, key=lambda clustering: clustering.design_effect)


def _in_order(total: Floats, rows: Floats) -> Floats:
    """The total and then each row, added one after the other: in one go or look by look, the same to the last digit."""
    summed: Floats = np.add.accumulate(np.concatenate([total[None], rows]), axis=0)[-1]
    return summed
