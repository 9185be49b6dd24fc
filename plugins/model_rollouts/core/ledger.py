"""The looks of one rollout, tallied once each: a decision costs the same after ten looks as after ten thousand."""

from collections.abc import Sequence
from typing import NamedTuple

from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import Plan
from model_rollouts.core.tallies import Tally
from model_rollouts.core.tallies.agreement import AgreementTally
from model_rollouts.core.tallies.rates import RateTally
from model_rollouts.core.tallies.sample_ratio import SampleRatioTally
from model_rollouts.core.tallies.values import ValueTally


class _Kept(NamedTuple):
    tally: Tally
    taken: int


class Ledger:
    """Tallies of the gates of one stage at a time, fed with the rollout's looks.

    Looks only ever grow in number, and a look only ever gains its labels: both are what the store promises, and what
    lets each be tallied once. Labels are tallied in order of their looks, up to the first that has none yet.

    Args:
        plan: The rollout's plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.looks: Sequence[Look] = ()
        self._matured = 0
        self._stage, self._signals_from = -1, 0
        self._tallies: dict[Gate, _Kept] = {}

    def take(self, looks: Sequence[Look]) -> None:
        """Take all looks of the rollout so far, in order of stage and index; those known already are not tallied again.

        Raises:
            ValueError: Fewer looks, or fewer with labels, than before, or they are not in order, each once.
        """
        known = len(self.looks)
        if len(looks) < known:
            raise ValueError(f"{len(looks)} looks are given and {known} are tallied; start a new ledger")
        if self._matured and not looks[self._matured - 1].matured:
            raise ValueError(f"look {self._matured - 1} had labels before; start a new ledger")
        order = [(look.stage, look.index) for look in looks[max(known - 1, 0) :]]
        if order != sorted(set(order)) or any(stage >= len(self.plan.stages) for stage, _ in order):
            raise ValueError(
                f"looks must be in order, each once, none after stage {len(self.plan.stages) - 1}; got {order[:5]}..."
            )
        self.looks = looks
        while self._matured < len(looks) and looks[self._matured].matured:
            self._matured += 1

    @property
    def matured(self) -> int:
        """How many looks, from the first on, have their labels."""
        return self._matured

    def tally(self, gate: Gate, stage: int, signals_from: int) -> Tally:
        """The gate's tally over all looks so far.

        Args:
            gate: A gate of the stage.
            stage: Position of the stage that is judged.
            signals_from: How many looks, from the first on, a signal leaves out.
        """
        if (stage, signals_from) != (self._stage, self._signals_from):
            self._stage, self._signals_from, self._tallies = stage, signals_from, {}
        kept = self._tallies.get(gate) or _Kept(self._new(gate, stage), 0)
        limit = self._matured if gate.metric.matures else len(self.looks)
        # whoever resumed a stage has seen what a signal said until then
        begin = max(kept.taken, signals_from if gate.role is Role.SIGNAL else 0)
        fresh = list(self.looks[begin:limit])
        kept.tally.add(fresh)
        self._tallies[gate] = _Kept(kept.tally, max(kept.taken, limit))
        return kept.tally

    def _new(self, gate: Gate, stage: int) -> Tally:
        if gate.metric is Metric.AGREEMENT:
            return AgreementTally(gate, stage)
        if gate.metric is Metric.SAMPLE_RATIO:
            return SampleRatioTally([s.dealt_percent for s in self.plan.stages], stage)
        if gate.metric is Metric.VALUE:
            return ValueTally(gate, stage)
        return RateTally(gate, stage, len(self.plan.stages))
