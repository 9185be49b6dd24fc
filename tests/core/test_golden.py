"""Golden requests: what lets a version go on, and what does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from model_rollouts.core.errors import PlanError
from model_rollouts.core.golden import GoldenCase, judge_golden, same_answer


@dataclass(frozen=True)
class Given:
    """An answer, as a port gives it."""

    prediction: str | None = None
    score: float | None = None
    status: str = "ok"
    gateway: str = "gw-1"
    error: str = ""


def cases(*expected: str | None, **more: Any) -> list[GoldenCase]:
    return [GoldenCase({"x": n}, text, **more) for n, text in enumerate(expected)]


def answers(*texts: str | None, gateway: str = "gw-1") -> list[Given]:
    return [Given(text, gateway=gateway) for text in texts]


def test_a_rollback_target_that_answers_as_before_is_ready() -> None:
    result = judge_golden(cases("1", "0.25", "late"), [answers("1", "0.25", "late")] * 2, exact=True)
    assert (result.ok, result.asked, result.answered, result.compared, result.agreed) == (True, 3, 3, 3, 3)
    assert result.reason == "3 golden requests were answered by 2 serving processes, 3 of 3 as expected"


def test_one_wrong_answer_of_one_process_refuses_the_rollback_target() -> None:
    result = judge_golden(cases("1", "0"), [answers("1", "0"), answers("1", "1", gateway="gw-2")], exact=True)
    assert (result.ok, result.agreed) == (False, 1)
    assert result.worst == ("request 2 on gw-2: expected 0, got 1",)
    assert result.reason == "1 of 2 were not answered as expected: request 2 on gw-2: expected 0, got 1"


@pytest.mark.parametrize("answer", [Given(status="timeout"), Given("1", status="error", error="boom"), Given(None)])
@pytest.mark.parametrize("exact", [True, False])
def test_a_request_without_an_answer_refuses_every_version(answer: Given, exact: bool) -> None:
    result = judge_golden(cases("1", "1"), [[Given("1"), answer]], exact=exact)
    assert (result.ok, result.answered, result.agreed) == (False, 1, 1)
    assert "1 of 2 golden requests were not answered" in result.reason


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("asked", "given", "said"),
    [
        ([], [[]], "no golden request was asked"),
        (cases("1"), [], "no serving process"),
        (cases("1", "1"), [answers("1", "1"), answers("1")], "gave 1 answers to 2"),
        (cases("1"), [[]], "gave 0 answers to 1"),
    ],
)
def test_nothing_asked_or_half_an_answer_is_never_ready(
    asked: list[GoldenCase], given: Sequence[Sequence[Given]], said: str, exact: bool
) -> None:
    result = judge_golden(asked, given, exact=exact)
    assert result.ok is False
    assert said in result.reason


def test_a_challenger_may_answer_differently_up_to_the_share_asked_for() -> None:
    asked, given = cases("1", "1", "0", "0"), [answers("1", "1", "0", "1")]
    assert judge_golden(asked, given, exact=False, agreement=0.75).ok is True
    refused = judge_golden(asked, given, exact=False, agreement=0.76)
    assert (refused.ok, refused.agreed, refused.compared) == (False, 3, 4)
    assert refused.reason.startswith("3 of 4 were answered as expected, must be 76.0% of them")


def test_a_challenger_must_answer_what_it_must() -> None:
    asked = [*cases("1"), *cases("0", must=True)]
    result = judge_golden(asked, [answers("0", "1")], exact=False, agreement=0.0)
    assert result.ok is False
    assert "1 of 2 were not answered as expected that must be" in result.reason
    assert judge_golden(asked, [answers("0", "0")], exact=False).ok is True


def test_requests_without_expected_answers_show_nothing_of_a_rollback_target() -> None:
    asked, given = cases(None, None), [answers("1", "0")]
    assert judge_golden(asked, given, exact=False).ok is True
    assert judge_golden(asked, given, exact=False, agreement=0.5).ok is False
    refused = judge_golden(asked, given, exact=True)
    assert refused.ok is False
    assert "none of the 2 golden requests has an expected answer" in refused.reason


@pytest.mark.parametrize(
    ("score", "given", "ok"),
    [(0.5, 0.5000001, True), (0.5, 0.51, False), (0.5, None, False), (0.5, float("nan"), False), (0.0, 1e-10, True)],
)
def test_scores_are_compared_where_they_are_known(score: float, given: float | None, ok: bool) -> None:
    assert judge_golden(cases("1", score=score), [[Given("1", given)]], exact=True).ok is ok


def test_a_tolerance_is_of_the_answer_and_of_the_score() -> None:
    asked = cases("10.5", score=10.5, tolerance=0.2)
    assert judge_golden(asked, [[Given("10.69", 10.31)]], exact=True).ok is True
    assert judge_golden(asked, [[Given("10.71", 10.5)]], exact=True).ok is False
    assert judge_golden(asked, [[Given("10.5", 10.71)]], exact=True).ok is False


@pytest.mark.parametrize(
    ("expected", "given", "same"),
    [
        ("late", "late", True),
        ("late", "Late", False),
        ("1", "1.0", True),
        ("0.3333333", "0.33333331", True),
        ("1000000.5", "1000001.5", True),
        ("1000000", "1000001", False),  # names of classes
        ("0123", "123", False),  # a name, not a number
        ("nan", "nan2", False),
        ("inf", "1e999", False),
        ("1e999", "2e999", False),
        ("[0.1, 0.9]", "[0.1,0.90000001]", True),
        ("[0.1, 0.9]", "[0.1, 0.8]", False),
        ("[0.1, 0.9]", "[0.1]", False),
        ('{"a": 1, "b": [2.0]}', '{"b": [2.0000001], "a": 1}', True),
        ('{"a": 1}', '{"b": 1}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1000000}', '{"a": 1000001}', False),
        ("[1", "[1 ", False),
    ],
)
def test_answers_are_the_same_as_text_as_numbers_or_part_by_part(expected: str, given: str, same: bool) -> None:
    assert same_answer(expected, given) is same


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"inputs": {}}, "inputs"),
        ({"inputs": {1: 2}}, "inputs"),
        ({"inputs": {"x": 1}, "expected": 1}, "expected"),
        ({"inputs": {"x": 1}, "score": float("nan")}, "score"),
        ({"inputs": {"x": 1}, "expected": "1", "tolerance": -1}, "tolerance"),
        ({"inputs": {"x": 1}, "expected": "1", "must": "no"}, "must"),
        ({"inputs": {"x": 1}, "must": True}, "nothing to compare with"),
        ({"inputs": {"x": 1}, "tolerance": 1.0}, "nothing to compare with"),
    ],
)
def test_a_case_that_could_not_be_judged_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        GoldenCase(**wrong)


def test_a_share_out_of_its_bounds_is_refused() -> None:
    with pytest.raises(PlanError, match="golden_agreement is 95"):
        judge_golden(cases("1"), [answers("1")], exact=False, agreement=95)
