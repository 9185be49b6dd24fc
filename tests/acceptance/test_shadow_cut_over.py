"""A shadow rollout cuts over where the versions agree, and never where they agree a little too seldom.

Through the plan of the form, with its gates on errors and latency, someone looking after every look of a week.
"""

from collections import Counter
from typing import Any

from tests.core.looks import Simulation, Traffic, Version

from model_rollouts.core.decision import Action, Verdict
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow

RUNS = 20
#: Two hours a look, 500 pairs in each: 42,000 in the week that the plan has by default.
PLAN = plan_shadow(ShadowParameters(look_seconds=7200.0))
SAME = Version(errors=0.002, wrong=0.1)


def mirrored(agreement: float) -> dict[str, Any]:
    return {"traffic": Traffic(500, 500, agreement), "champion": SAME, "challenger": SAME}


def test_with_a_true_agreement_of_97_and_a_half_percent_no_look_of_a_week_passes() -> None:
    fooled = 0
    for seed in range(RUNS):
        decisions = list(Simulation(seed, PLAN).stage(0, **mirrored(0.975)))
        assert len(decisions) == 84
        assert Verdict.PASS not in {decision.verdict for decision in decisions}
        assert not {Action.EXPAND, Action.CUT_OVER} & {decision.action for decision in decisions}
        assert decisions[-1].gates[0].measured.challenger_n > 40_000
        fooled += any((decision.gates[0].measured.effect or 0) >= 0.98 for decision in decisions)
    assert fooled > 1, "(control) the estimate itself reaches 98 % in some look of some runs"


def test_with_a_true_agreement_of_99_and_a_half_percent_every_run_cuts_over() -> None:
    ends = Counter(Simulation(seed, PLAN).outcome(0, **mirrored(0.995)).action for seed in range(RUNS))
    assert ends == {Action.CUT_OVER: RUNS}


def test_agreement_alone_does_not_cut_over_a_version_that_fails_more_often() -> None:
    ends: Counter[Action] = Counter()
    for seed in range(RUNS):
        values = mirrored(0.995) | {"challenger": Version(errors=0.03)}
        ends[Simulation(seed, PLAN).outcome(0, **values).action] += 1
    assert ends == {Action.ROLL_BACK: RUNS}
