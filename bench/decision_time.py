"""How long one decision takes: 10,000 looks of a canary with all its gates, up to 10^9 requests in a look."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model_rollouts.core.decision import Decision, Verdict, decide, decide_from
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.gates import Metric
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import FULL_SHARE, Plan
from model_rollouts.core.unit_evidence import ClusterSums, UnitCounts

LOOKS, SEED = 10_000, 7
_FEWEST, _MOST = 3, 9  # powers of ten of the requests of a look
_BINS = 250 + 5 * np.arange(120)
_SHAPE = np.exp(-0.5 * ((_BINS - 470) / 60) ** 2)


@dataclass(frozen=True)
class Times:
    """Seconds of the processor for one decision: other work on the machine does not count.

    Attributes:
        from_nothing: With all looks to tally.
        warm: With one new look, the others having been tallied before; the stage waits.
        first_verdict: The same when the stage passes for the first time, with the confidence bounds that go on record:
            they look at all looks again.
        verdict: The same when it has passed before.
    """

    from_nothing: float
    warm: float
    first_verdict: float
    verdict: float


def measure() -> Times:
    """Time the decisions, the quick ones several times; the median counts."""
    plan = plan_canary(CanaryParameters())
    looks = _looks(plan, LOOKS + 20)
    last, baking, baked = len(plan.stages) - 1, 0.0, plan.stages[-1].bake_seconds
    _look_ahead(decide(plan, last, looks[:50] + looks[-50:], baking))
    cold = [_seconds(lambda: decide(plan, last, looks[:LOOKS], baking), Verdict.WAIT) for _ in range(2)]
    ledger = Ledger(plan)
    ledger.take(looks[:LOOKS])
    decide_from(ledger, last, baking)
    seen = iter(range(LOOKS + 1, LOOKS + 21))

    def one_more(elapsed: float) -> Decision:
        ledger.take(looks[: next(seen)])
        return decide_from(ledger, last, elapsed)

    warm = [_seconds(lambda: one_more(baking), Verdict.WAIT) for _ in range(15)]
    first_verdict, *verdict = [_seconds(lambda: one_more(baked), Verdict.PASS) for _ in range(4)]
    return Times(statistics.median(cold), statistics.median(warm), first_verdict, statistics.median(verdict))


def _look_ahead(decision: Decision) -> None:
    """The first decision pays for imports; and the looks have to be healthy ones."""
    if decision.verdict is Verdict.FAIL:
        raise ValueError(f"the looks to be timed are of a bad challenger: {decision.reason}")


def _seconds(decided: Callable[[], Decision], verdict: Verdict) -> float:
    began = time.process_time()
    decision = decided()
    took = time.process_time() - began
    if decision.verdict is not verdict:
        raise ValueError(f"verdict is {decision.verdict}, must be {verdict} for the timing: {decision.reason}")
    return took


def _looks(plan: Plan, count: int) -> list[Look]:
    """Looks of a healthy challenger, as many in each stage; the last stage takes the rest."""
    rng = np.random.default_rng(SEED)
    each = LOOKS // len(plan.stages)
    looks = []
    for position in range(count):
        stage = min(position // each, len(plan.stages) - 1)
        setting = plan.stages[stage]
        part = setting.share / FULL_SHARE
        if setting.share == FULL_SHARE:
            part -= setting.control_percent / 100
        requests = int(10 ** rng.uniform(_FEWEST, _MOST))
        challenger = int(rng.binomial(requests, part))
        arms = [_arm(rng, n) for n in (requests - challenger, challenger)]
        # units are dealt by the share also where some of their requests are answered twice
        new = 20 * np.array([100 - setting.share, setting.share])
        units = [UnitCounts(int(n), _clusters(counts.requests)) for n, counts in zip(new, arms, strict=True)]
        labels = [_labels(rng, counts) for counts in arms]
        looks.append(Look(stage, position - stage * each, *arms, *labels, *units))
    return looks


def _arm(rng: np.random.Generator, requests: int) -> RequestCounts:
    errors = int(rng.binomial(requests, 0.01))
    timed = rng.multinomial(requests - errors, _SHAPE / _SHAPE.sum())
    return RequestCounts(requests, errors, {int(b): int(n) for b, n in zip(_BINS, timed, strict=True) if n})


def _labels(rng: np.random.Generator, counts: RequestCounts) -> LabelCounts:
    due = counts.requests - counts.errors
    labelled = int(rng.binomial(due, 0.95))
    return LabelCounts(due, labelled, int(rng.binomial(labelled, 0.05)))


def _clusters(requests: int) -> dict[str, ClusterSums]:
    """Three requests a unit, alike in nothing."""
    pairs = 2.0 * requests
    return {
        metric: ClusterSums(requests, 3 * requests, 0.0, pairs * 0.02, pairs * 0.02**2)
        for metric in (Metric.ERROR_RATE, Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.LATENCY_P99)
    }
