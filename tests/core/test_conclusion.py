from dataclasses import replace
from itertools import product

import pytest

from model_rollouts.core.conclusion import Approval, CheckResult, CheckState, conclude, distrust
from model_rollouts.core.decision import Action, Decision, Verdict
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary

ACTIONS = {
    Verdict.PASS: (Action.EXPAND, Action.CUT_OVER),
    Verdict.FAIL: (Action.ROLL_BACK,),
    Verdict.WAIT: (Action.WAIT,),
    Verdict.INCONCLUSIVE: (Action.HOLD, Action.ROLL_BACK),
}


def decision(verdict: Verdict, action: Action, elapsed: float = 0.0) -> Decision:
    return Decision(verdict, action, "said so", (), 0, elapsed, 3)


@pytest.mark.parametrize("state", CheckState)
@pytest.mark.parametrize("approval", Approval)
@pytest.mark.parametrize("verdict", Verdict)
def test_only_a_pass_with_every_check_and_no_objection_goes_forward(verdict, approval, state):
    for action in ACTIONS[verdict]:
        checks = [CheckResult("compare", CheckState.OK, ""), CheckResult("validate_data", state, "nulls in f_dest")]
        concluded = conclude(decision(verdict, action), checks, approval, last_stage=False)
        forward = concluded.action in (Action.EXPAND, Action.CUT_OVER)
        allowed = (
            verdict is Verdict.PASS and state is CheckState.OK and approval in (Approval.NOT_ASKED, Approval.APPROVED)
        )
        assert forward == allowed


@pytest.mark.parametrize("state", CheckState)
@pytest.mark.parametrize("approval", Approval)
def test_without_proof_only_a_persons_yes_goes_forward_and_never_on_no_evidence(approval, state):
    asked = decision(Verdict.INCONCLUSIVE, Action.ASK)
    checks = [CheckResult("validate_data", state, "nulls in f_dest")]
    for last, forward in ((False, Action.EXPAND), (True, Action.CUT_OVER)):
        concluded = conclude(asked, checks, approval, last_stage=last)
        if approval is Approval.APPROVED and state is CheckState.OK:
            assert concluded.action is forward
            assert "a person decided to go on without proof" in concluded.reason
        else:
            assert concluded.action is (Action.ROLL_BACK if approval is Approval.REJECTED else Action.HOLD)
        blind = conclude(replace(asked, blind=True), checks, approval, last_stage=last)
        assert blind.action is (Action.ROLL_BACK if approval is Approval.REJECTED else Action.HOLD)


def test_no_verdict_holds():
    for approval, state in product(Approval, CheckState):
        concluded = conclude(None, [CheckResult("compare", state, "")], approval, last_stage=False)
        assert concluded.action is Action.HOLD
        assert "no verdict" in concluded.reason


def test_harm_rolls_back_whatever_a_person_or_a_check_says():
    for approval, state in product(Approval, CheckState):
        concluded = conclude(
            decision(Verdict.FAIL, Action.ROLL_BACK), [CheckResult("compare", state, "")], approval, last_stage=False
        )
        assert concluded.action is Action.ROLL_BACK


def test_a_failed_check_is_named_in_the_reason():
    checks = [CheckResult("validate_data", CheckState.FAILED, "nulls in f_dest")]
    concluded = conclude(decision(Verdict.PASS, Action.EXPAND), checks, Approval.NOT_ASKED, last_stage=False)
    assert concluded.action is Action.HOLD
    assert "validate_data failed: nulls in f_dest" in concluded.reason


def test_a_rejection_rolls_back_a_pass():
    concluded = conclude(decision(Verdict.PASS, Action.EXPAND), [], Approval.REJECTED, last_stage=False)
    assert concluded.action is Action.ROLL_BACK


def test_an_inconclusive_stage_does_what_the_plan_says():
    for action in ACTIONS[Verdict.INCONCLUSIVE]:
        assert (
            conclude(decision(Verdict.INCONCLUSIVE, action), [], Approval.NOT_ASKED, last_stage=False).action is action
        )


@pytest.mark.parametrize("at_deadline", ["hold", "roll_back"])
def test_unreadable_evidence_takes_a_pass_back_and_leaves_harm(at_deadline):
    plan = plan_canary(CanaryParameters(at_deadline=at_deadline))
    deadline = plan.stages[0].deadline_seconds

    early = distrust(decision(Verdict.PASS, Action.EXPAND), "log away", plan)
    assert (early.verdict, early.action) == (Verdict.WAIT, Action.WAIT)
    assert "log away" in early.reason

    late = distrust(decision(Verdict.PASS, Action.EXPAND, deadline), "log away", plan)
    assert (late.verdict, late.action) == (Verdict.INCONCLUSIVE, Action(at_deadline))

    harm = decision(Verdict.FAIL, Action.ROLL_BACK)
    assert distrust(harm, "log away", plan) is harm
