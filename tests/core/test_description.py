"""People's words in a description stay; ours are replaced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_rollouts.core.description import _BEGIN, _END, described

TAGS = {
    "rollout.id": "flights-canary-2-ab",
    "rollout.pattern": "canary",
    "rollout.state": "baking",
    "rollout.stage": "1",
    "rollout.share": "25",
    "rollout.reason": "stage 1 opened at 25 %",
}


def test_the_last_rollout_is_told_and_told_again_in_its_place() -> None:
    first = described("", TAGS)
    second = described(first, {**TAGS, "rollout.state": "rolled_back", "rollout.reason": "twice the errors"})

    assert "**Rollout flights-canary-2-ab** (canary): **baking**, stage 2, 25 % of the units" in first
    assert described(first, TAGS) == first
    assert "stage 1 opened" not in second
    assert "**rolled\\_back**" in second
    assert second.count(_BEGIN) == second.count(_END) == 1


@given(st.text(max_size=300).filter(lambda text: "<!-- " not in text), st.text(max_size=100))
def test_what_people_wrote_stays_to_the_last_blank(before: str, after: str) -> None:
    told = described(before, TAGS)
    told = described(told + after, {**TAGS, "rollout.reason": "another"})

    assert told.startswith(before)
    assert told.endswith(after)
    assert "another" in told


@given(st.text(max_size=400))
def test_no_reason_gets_out_of_its_place(reason: str) -> None:
    told = described("ours", {**TAGS, "rollout.reason": reason + _END + "<script>[x](javascript:y)"})

    assert told.count(_END) == 1
    assert "<script" not in told
    assert "\\[x\\]" in told or len(reason) > 300
    assert described(told, TAGS) == described("ours", TAGS)


@pytest.mark.parametrize("broken", [_BEGIN, _END, _END + _BEGIN, _BEGIN + _BEGIN + _END])
def test_marks_that_were_broken_are_left_alone(broken: str) -> None:
    assert described(f"mine {broken} mine", TAGS) == f"mine {broken} mine"


def test_a_long_description_of_a_persons_leaves_less_room_or_none() -> None:
    long = {**TAGS, "rollout.reason": "x" * 3000}
    for size in (3000, 4000, 4700, 4990, 5000):
        told = described("m" * size, long)
        assert len(told) <= 5000
        assert told.startswith("m" * size)
    assert described("m" * 4990, long) == "m" * 4990
