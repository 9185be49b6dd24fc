"""Looks of a simulated rollout, drawn from rates that a test plants, and someone who judges after each of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_rollouts.core.decision import Action, Decision, decide_from
from model_rollouts.core.evidence import LATENCY_RATIO, LabelCounts, Look, RequestCounts, latency_bin
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.plan import Plan
from model_rollouts.core.recompute import unlabelled
from model_rollouts.core.unit_evidence import PairCounts, UnitCounts, ValueSums

# Log-normal latencies around 20 ms, in bins of 10 %.
_WIDTH = 5
_BINS = latency_bin(20.0) + _WIDTH * np.arange(-20, 31)
_ODDS = np.exp(-0.5 * ((_BINS - latency_bin(20.0)) * math.log(LATENCY_RATIO) / 0.4) ** 2)
_SHARES = _ODDS / _ODDS.sum()


@dataclass(frozen=True)
class Version:
    """How a version truly is.

    Attributes:
        errors: Share of its requests that fail.
        wrong: Share of its answers that are wrong.
        slower: Factor on the latency of all answers.
        value: Mean of what an answer is worth; its standard deviation is as large.
    """

    errors: float = 0.01
    wrong: float = 0.1
    slower: float = 1.0
    value: float = 10.0


@dataclass(frozen=True)
class Traffic:
    """Requests of one look in each arm. Every request is of a new unit.

    Attributes:
        champion: Requests of the champion.
        challenger: The same for the challenger.
        agreement: Share of the challenger's answers that are the champion's; None: no request is answered by both.
        labelled: Share of the answers that have a label, once they are due.
        valued: Whether answers have a value, too.
    """

    champion: int
    challenger: int
    agreement: float | None = None
    labelled: float = 0.95
    valued: bool = False


class Simulation:
    """A rollout whose truth is known.

    Args:
        seed: Of the generator.
        plan: What it goes through.
    """

    def __init__(self, seed: int, plan: Plan) -> None:
        self._rng = np.random.default_rng(seed)
        self.plan = plan
        self.looks: list[Look] = []

    def stage(self, stage: int, traffic: Traffic, champion: Version, challenger: Version) -> Iterator[Decision]:
        """What is decided after each look of a stage, up to the first that comes after the deadline.

        Labels are there when they are due. Nothing is judged between looks, so a deadline is seen at the next one.
        """
        ledger = Ledger(self.plan)
        setting, length = self.plan.stage(stage), self.plan.look_seconds
        due = math.ceil(self.plan.label_maturity_seconds / length)
        before = list(self.looks)
        own: list[Look] = []
        while True:
            own.append(self._look(stage, len(own), traffic, champion, challenger))
            ripe = max(len(own) - due, 0)
            self.looks = before + own
            ledger.take(before + own[:ripe] + [unlabelled(look) for look in own[ripe:]])
            elapsed = len(own) * length + self.plan.grace_seconds
            yield decide_from(ledger, stage, elapsed)
            if elapsed >= setting.deadline_seconds:
                return

    def outcome(self, stage: int, traffic: Traffic, champion: Version, challenger: Version) -> Decision:
        """The first decision that is not to wait."""
        for decision in self.stage(stage, traffic, champion, challenger):
            if decision.action is not Action.WAIT:
                return decision
        raise AssertionError(f"nothing was decided by the deadline: {decision.reason}")

    def _look(self, stage: int, index: int, traffic: Traffic, champion: Version, challenger: Version) -> Look:
        a, a_labels = self._arm(traffic.champion, champion, traffic.labelled)
        b, b_labels = self._arm(traffic.challenger, challenger, traffic.labelled)
        look = Look(
            stage,
            index,
            a,
            b,
            a_labels,
            b_labels,
            champion_units=UnitCounts(new=a.requests),
            challenger_units=UnitCounts(new=b.requests),
        )
        if traffic.agreement is not None:
            asked = a.requests - a.errors
            paired = min(asked, b.requests)
            look = replace(look, pairs=PairCounts(asked, paired, int(self._rng.binomial(paired, traffic.agreement))))
        if traffic.valued:
            seen = 0 if traffic.agreement is not None else b_labels.labelled  # what nobody saw was worth nothing
            look = replace(look, values=self._values(a_labels.labelled, champion, seen, challenger))
        return look

    def _arm(self, n: int, version: Version, labelled: float) -> tuple[RequestCounts, LabelCounts]:
        errors = int(self._rng.binomial(n, version.errors))
        counts = self._rng.multinomial(n - errors, _SHARES)
        bins = _BINS + round(math.log(version.slower) / math.log(LATENCY_RATIO))
        histogram = {int(k): int(v) for k, v in zip(bins, counts, strict=True) if v}
        known = int(self._rng.binomial(n - errors, labelled))
        wrong = int(self._rng.binomial(known, version.wrong))
        return RequestCounts(n, errors, histogram), LabelCounts(n - errors, known, wrong)

    def _values(self, a_n: int, champion: Version, b_n: int, challenger: Version) -> ValueSums:
        """The sums that the docstring of `ValueSums` defines, where every request is of a new unit."""
        if not a_n + b_n:
            return ValueSums()
        a, b = self._rng.exponential(champion.value, a_n), self._rng.exponential(challenger.value, b_n)
        y: npt.NDArray[np.float64] = np.concatenate([a, b])
        arm = np.repeat([0.0, 1.0], [a_n, b_n])
        scores = (y - y.mean()) * (arm - arm.mean())
        return ValueSums(
            champion_due=a_n,
            challenger_due=b_n,
            champion_n=a_n,
            challenger_n=b_n,
            champion_y=float(a.sum()),
            challenger_y=float(b.sum()),
            champion_units=a_n,
            challenger_units=b_n,
            yy=float((scores**2).sum()),
        )
