"""Business value per request, by unit, with CUPED."""

import math

from model_rollouts.core.confidence_sequence import Scores, bound_of_total, log_e_positive, tuned_rho2
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate
from model_rollouts.core.tallies.coverage import CoverageTally
from model_rollouts.core.unit_evidence import ValueSums
from model_rollouts.core.verdict import Measured

# The boundary is tightest when the variance has grown to this many times what the first `min_units` units bring.
_HORIZON = 4.0
_TUNED_AT = 0.05


class ValueTally:
    """Challenger's mean value a request against the champion's, over all looks of the rollout.

    Unlike the rates, the proof is over all stages too: a unit's requests of one stage resemble those of another, and a
    test that starts anew with known units would have to take them for new ones.

    Args:
        gate: The gate; `rollback_lift` and `pass_lift` are its margins, relative to the champion's mean.
        stage: Position of the stage that is judged.
    """

    def __init__(self, gate: Gate, stage: int) -> None:
        self._gate, self._stage = gate, stage
        self._scores = Scores()
        self._sum = {"champion": 0.0, "challenger": 0.0}
        self._n = {"champion": 0, "challenger": 0}
        self._units = {"champion": 0, "challenger": 0}
        self._reference = 0.0
        self._rho2: float | None = None
        self._stage_n = 0
        self._coverage = CoverageTally()

    def add(self, looks: list[Look]) -> None:
        """Take further looks."""
        for look in looks:
            own = look.stage == self._stage
            if (v := look.values) is None:
                if look.champion_labels and look.challenger_labels:  # matured, and its values could not be counted
                    due = (look.champion_labels.due, look.challenger_labels.due)
                    self._coverage.add([(0, n) for n in due], own=own)
                continue
            self._coverage.add([(v.champion_n, v.champion_due), (v.challenger_n, v.challenger_due)], own=own)
            self._stage_n += v.challenger_n if own and v.champion_n else 0
            self._add_sums(v)

    def _add_sums(self, v: ValueSums) -> None:
        for arm in self._n:
            self._sum[arm] += getattr(v, f"{arm}_y")
            self._n[arm] += getattr(v, f"{arm}_n")
            self._units[arm] += getattr(v, f"{arm}_units")
        n = v.champion_n + v.challenger_n
        if not n:
            return
        share, s = v.challenger_n / n, self._scores
        # The difference weighs a look by n_challenger * n_champion / n; so must what it is relative to.
        self._reference += share * v.champion_y
        self._scores = Scores(
            y=s.y + v.challenger_y - share * (v.champion_y + v.challenger_y),
            x=s.x + v.challenger_x - share * (v.champion_x + v.challenger_x),
            yy=s.yy + v.yy,
            xy=s.xy + v.xy,
            xx=s.xx + v.xx,
            information=s.information + v.champion_n * share,
        )
        if self._rho2 is None and min(self._units.values()) >= self._gate.min_units and self._scores.variance > 0:
            self._rho2 = tuned_rho2(_HORIZON * self._scores.variance, _TUNED_AT)

    def measure(self) -> Measured:
        """The gate's numbers over the looks so far."""
        return Measured(
            effect=self._scores.adjusted / self._reference if self._reference > 0 else None,
            log_e_harm=self._log_e(self._gate.rollback_lift, -1),
            log_e_pass=self._log_e(self._gate.pass_lift, 1),
            challenger_bad=0,
            challenger_n=self._n["challenger"],
            champion_bad=0,
            champion_n=self._n["champion"],
            stage_n=self._stage_n,
            coverage=self._coverage.least(),
            short=self._short(),
            detail={
                "champion_mean": self._sum["champion"] / max(self._n["champion"], 1),
                "difference": self._scores.difference or 0.0,
                "standard_error": self._scores.variance**0.5 / (self._scores.information or math.inf),
                "cuped_theta": self._scores.theta,
                "cuped_variance_explained": self._scores.variance_explained,
                "champion_units": self._units["champion"],
                "challenger_units": self._units["challenger"],
            },
        )

    def _log_e(self, lift: float, sign: int) -> float:
        """Log e-value that the lift is above (sign 1) or below (sign -1) the given one; 0 while it can't be told."""
        if self._rho2 is None or not self._reference > 0:
            return 0.0
        shifted = self._scores.adjusted - lift * self._reference
        return log_e_positive(sign * shifted, self._scores.variance, self._rho2)

    def _short(self) -> str:
        units = min(self._units.values())
        if units < self._gate.min_units:
            return f"{units:,} units with a value in the smaller arm, needed {self._gate.min_units:,}"
        if not self._reference > 0:
            return "the champion's mean value is not above 0, which a relative margin needs"
        return ""

    def bounds(self, log_harm: float, log_pass: float) -> tuple[float | None, float | None]:
        """(low, high) of the relative lift, each with the confidence of its side."""
        return self._bound(log_pass, -1), self._bound(log_harm, 1)

    def _bound(self, log_threshold: float, sign: int) -> float | None:
        if self._rho2 is None or not self._reference > 0:
            return None
        reach = bound_of_total(self._scores.variance, self._rho2, log_threshold)
        return (self._scores.adjusted + sign * reach) / self._reference
