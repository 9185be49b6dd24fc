import pytest

from model_rollouts.core.evidence import Look, RequestCounts
from model_rollouts.core.silence import silence


def looks(pattern: str, stage: int = 0) -> list[Look]:
    """One look a letter: b both arms asked, c only the champion, x only the challenger, - nobody."""
    asked, not_asked = RequestCounts(5), RequestCounts()
    return [
        Look(stage, i, asked if letter in "bc" else not_asked, asked if letter in "bx" else not_asked)
        for i, letter in enumerate(pattern)
    ]


CHAMPION, CHALLENGER = "champion has no requests in this stage", "challenger has no requests in this stage"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", CHAMPION),
        ("---", CHAMPION),
        ("xxx", CHAMPION),
        ("ccc", CHALLENGER),
        ("b", ""),
        ("b" * 10, ""),
        ("b" * 7 + "ccc", ""),
        ("b" * 6 + "cccc", "challenger has no requests in the last 4 looks, at most 3 may be empty"),
        ("b" * 6 + "xxxx", "champion has no requests in the last 4 looks, at most 3 may be empty"),
        ("b" * 6 + "----", "champion has no requests in the last 4 looks, at most 3 may be empty"),
        ("b" * 200 + "cccc", "challenger has no requests in the last 4 looks, at most 3 may be empty"),
    ],
)
def test_a_gap_of_three_looks_is_ordinary_and_a_longer_one_of_a_busy_arm_is_not(pattern: str, said: str) -> None:
    assert silence(0, looks(pattern)) == said


def test_an_arm_that_is_asked_now_and_then_may_be_silent_for_as_long_as_chance_makes_it() -> None:
    """Five requests in every hundredth look: silences of 139 looks come by chance once in a thousand."""
    sparse = looks(("c" * 99 + "b") * 10)
    assert silence(0, sparse) == ""
    for more, said in ((139, ""), (140, "challenger has no requests in the last 140 looks, at most 139 may be empty")):
        assert silence(0, looks(("c" * 99 + "b") * 10 + "c" * more)) == said


@pytest.mark.parametrize("pattern", ["ccccccb", "bccccccb", "bbbccccccbccc", "-x-x-x-b"])
def test_a_gap_that_is_over_is_forgiven(pattern: str) -> None:
    assert silence(0, looks(pattern)) == ""


def test_looks_of_other_stages_neither_excuse_nor_accuse() -> None:
    earlier = looks("b" * 100)
    assert silence(1, earlier + looks("bccc", stage=1)) == ""
    assert silence(1, earlier + looks("bcccc", stage=1)).startswith("challenger has no requests in the last 4 looks")
    assert silence(1, looks("cccccccc") + looks("bcc", stage=1)) == ""
    assert silence(1, earlier) == CHAMPION
