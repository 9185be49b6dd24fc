"""A verdict on evidence that has come to its end."""

from typing import Any

import pytest

from model_rollouts.core.decision import Action, Decision, Verdict, decide
from model_rollouts.core.evidence import Look, RequestCounts
from model_rollouts.core.exhaustion import exhaust, used_up
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow
from model_rollouts.core.plan import Plan
from model_rollouts.core.recompute import recompute_from
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts


def plan(**changes: Any) -> Plan:
    return plan_shadow(ShadowParameters(offline=True, **changes))


def look(n: int, apart: int = 0, errors: int = 0, asked: int | None = None) -> Look:
    pairs = PairCounts(n if asked is None else asked, n, n - apart)
    champion, challenger = RequestCounts(n), RequestCounts(n, errors)
    return Look(0, 0, champion, challenger, pairs=pairs, pair_clusters=ClusterSums(n, n))


def ended(looks: list[Look], made: Plan, elapsed: float = 60.0) -> Decision:
    decision = decide(made, 0, looks, elapsed)
    requests = sum(each.challenger.requests for each in looks)
    return exhaust(decision, used_up(decision, made, requests, 0), made)


@pytest.mark.parametrize(
    ("at_deadline", "action"), [("hold", Action.HOLD), ("roll_back", Action.ROLL_BACK), ("ask", Action.ASK)]
)
def test_waiting_ends_as_at_the_deadline(at_deadline: str, action: Action) -> None:
    decision = ended([look(100)], plan(at_deadline=at_deadline))
    assert (decision.verdict, decision.action) == (Verdict.INCONCLUSIVE, action)
    assert decision.reason.startswith("all 100 logged requests of the champion are scored; agreement needs about ")
    assert "error_rate needs about " in decision.reason
    assert "agreement with the champion is not yet proven" in decision.reason
    assert decision.elapsed_seconds == 60.0


def test_how_many_are_needed_grows_with_the_repeats_of_units() -> None:
    made = plan()
    alone = used_up(decide(made, 0, [look(100, 1)], 60.0), made, 100, 0)
    few = Look(
        0,
        0,
        RequestCounts(100),
        RequestCounts(100),
        pairs=PairCounts(100, 100, 99),
        pair_clusters=ClusterSums(100, 1000),
    )
    together = used_up(decide(made, 0, [few], 60.0), made, 100, 0)
    count = [int(told.split("agreement needs about ")[1].split(" ")[0].replace(",", "")) for told in (alone, together)]
    assert count[1] == pytest.approx(10 * count[0], rel=0.01)


def test_so_many_do_prove_it() -> None:
    made = plan()
    told = used_up(decide(made, 0, [look(60)], 60.0), made, 60, 0)
    needed = int(told.split("agreement needs about ")[1].split(" ")[0].replace(",", ""))
    good = look(needed, apart=round(needed * 0.005))
    assert decide(made, 0, [good], 60.0).gates[0].verdict is Verdict.PASS


def test_proof_and_harm_stay_what_they_are() -> None:
    made = plan()
    assert ended([look(3000)], made) == decide(made, 0, [look(3000)], 60.0)
    assert ended([look(3000)], made).verdict is Verdict.PASS
    assert ended([look(3000, errors=300)], made).verdict is Verdict.FAIL
    missed = ended([look(3000, apart=300)], made)
    assert (missed.verdict, missed.exhausted) == (Verdict.INCONCLUSIVE, "")


def test_what_could_not_be_asked_is_told() -> None:
    made = plan()
    decision = decide(made, 0, [look(100, asked=180)], 60.0)
    assert "all 100 logged requests of the champion are scored, 80 more could not be" in used_up(
        decision, made, 100, 80
    )
    nothing = decide(made, 0, [], 60.0)
    assert used_up(nothing, made, 0, 80).startswith("none of the champion's 80 logged requests could be scored")
    assert used_up(nothing, made, 0, 0) == "the champion has no logged requests to score"


def test_nothing_at_all_never_passes_and_a_person_can_not_go_on_by_it() -> None:
    decision = ended([], plan(at_deadline="ask"))
    assert (decision.verdict, decision.action, decision.blind) == (Verdict.INCONCLUSIVE, Action.ASK, True)


def test_it_is_made_again_from_the_record() -> None:
    made, looks = plan(), [look(100)]
    decision = ended(looks, made)
    assert Decision.from_dict(decision.to_dict()) == decision
    assert recompute_from(made, looks, decision).differences == ()
    other = recompute_from(made, [look(100, apart=1)], decision)
    assert other.differences
