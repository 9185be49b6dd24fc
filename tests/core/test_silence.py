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


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", ""),
        ("b" * 10, ""),
        ("b" * 7 + "ccc", ""),
        ("b" * 6 + "cccc", "challenger has no requests in the last 4 looks, at most 3 may be empty"),
        ("b" * 6 + "xxxx", "champion has no requests in the last 4 looks, at most 3 may be empty"),
        ("b" * 6 + "----", "champion has no requests in the last 4 looks, at most 3 may be empty"),
        ("ccc", ""),
        ("cccc", "challenger has no requests in the last 4 looks, at most 3 may be empty"),
        ("b" * 16 + "cccc", ""),
        ("b" * 15 + "ccccc", "challenger has no requests in the last 5 looks, at most 4 may be empty"),
        ("b" * 80 + "c" * 20, ""),
        ("b" * 79 + "c" * 21, "challenger has no requests in the last 21 looks, at most 20 may be empty"),
    ],
)
def test_a_gap_of_three_looks_or_of_a_fifth_is_ordinary_and_a_longer_one_is_not(pattern: str, said: str) -> None:
    assert silence(0, looks(pattern)) == said


@pytest.mark.parametrize("pattern", ["ccccccb", "bccccccb", "bbbccccccbccc", "-x-x-x-b"])
def test_a_gap_that_is_over_is_forgiven(pattern: str) -> None:
    assert silence(0, looks(pattern)) == ""


def test_one_request_now_and_then_is_no_silence() -> None:
    assert silence(0, looks("ccb" * 40)) == ""


def test_looks_of_other_stages_neither_excuse_nor_accuse() -> None:
    earlier = looks("b" * 100)
    assert silence(1, earlier + looks("ccc", stage=1)) == ""
    assert silence(1, earlier + looks("cccc", stage=1)) == (
        "challenger has no requests in the last 4 looks, at most 3 may be empty"
    )
    assert silence(1, looks("cccccccc") + looks("bcc", stage=1)) == ""
    assert silence(1, looks("cccccccc")) == ""
    assert silence(1, looks("cccccccc") + looks("ccc", stage=1)) == ""
