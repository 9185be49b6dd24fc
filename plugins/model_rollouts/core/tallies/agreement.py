"""Agreement of the two versions' answers to the same requests."""

import math

from model_rollouts.core.clustering import ClusterTotals, as_independent, clustering_of_one
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate
from model_rollouts.core.proportion import highest_rate, log_e_rate_above, log_e_rate_below, lowest_rate
from model_rollouts.core.verdict import Measured


class AgreementTally:
    """Pairs and equal answers: harm over all looks, proof over the stage's own.

    Args:
        gate: The gate; `floor` is what must be proven.
        stage: Position of the stage that is judged.
    """

    def __init__(self, gate: Gate, stage: int) -> None:
        self._gate, self._stage = gate, stage
        self._asked = self._own_asked = 0
        self._paired = self._own_paired = 0
        self._apart = self._own_apart = 0
        self._clusters = ClusterTotals()

    def add(self, looks: list[Look]) -> None:
        """Take further looks."""
        for look in looks:
            if look.pair_clusters is not None:
                self._clusters.add(look.pair_clusters)
            if look.pairs is None:
                continue
            apart = look.pairs.paired - look.pairs.agreed
            self._asked += look.pairs.asked
            self._paired += look.pairs.paired
            self._apart += apart
            if look.stage == self._stage:
                self._own_asked += look.pairs.asked
                self._own_paired += look.pairs.paired
                self._own_apart += apart

    def measure(self) -> Measured:
        """The gate's numbers over the looks so far."""
        ceiling = 1 - self._gate.floor
        clustering = clustering_of_one(self._clusters)
        effect = clustering.design_effect
        return Measured(
            effect=1 - self._apart / self._paired if self._paired else None,
            log_e_harm=log_e_rate_above(*as_independent(self._apart, self._paired, effect), ceiling),
            log_e_pass=log_e_rate_below(*as_independent(self._own_apart, self._own_paired, effect), ceiling),
            challenger_bad=self._apart,
            challenger_n=self._paired,
            champion_bad=0,
            champion_n=self._paired,
            stage_n=self._own_paired,
            coverage=min(
                self._paired / self._asked if self._asked else 0.0,
                self._own_paired / self._own_asked if self._own_asked else 0.0,
            ),
            design_effect=effect,
            requests_per_unit=clustering.requests_per_unit,
            correlation=clustering.correlation,
        )

    def bounds(self, log_harm: float, log_pass: float) -> tuple[float | None, float | None]:
        """(low, high) of the agreement: at least, by the stage's pairs; at most, by all pairs."""
        effect = clustering_of_one(self._clusters).design_effect
        low = 1 - highest_rate(*as_independent(self._own_apart, self._own_paired, effect), log_pass)
        high = 1 - lowest_rate(*as_independent(self._apart, self._paired, effect), log_harm)
        return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)
