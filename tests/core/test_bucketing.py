import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from model_rollouts.core import bucketing
from model_rollouts.core.bucketing import in_share, position

any_text = st.text(st.characters(codec=None, exclude_categories=()))
shares = st.floats(0, 100)


@pytest.mark.parametrize(
    ("salt", "unit", "expected"),
    [
        ("", "", 35.48498508203196),
        ("a1b2c3d4e5f60718", "user-1", 49.3833594075932),
        ("a1b2c3d4e5f60718", "user-2", 70.09291248687197),
        ("flights-2", "user-1", 77.79269686830726),
        ("s", "日本語", 73.0725302328265),
        ("s", "x" * 1000, 84.98462384968867),
    ],
)
def test_positions_never_change_between_releases(salt: str, unit: str, expected: float) -> None:
    assert position(salt, unit) == pytest.approx(expected, abs=1e-12)


@given(any_text, any_text, shares, shares)
def test_a_unit_only_ever_moves_towards_the_challenger_as_the_share_grows(
    salt: str, unit: str, one: float, other: float
) -> None:
    small, large = sorted((one, other))
    assert in_share(salt, unit, large) or not in_share(salt, unit, small)


@given(any_text, any_text)
def test_share_0_takes_nobody_and_share_100_everybody(salt: str, unit: str) -> None:
    assert not in_share(salt, unit, 0)
    assert in_share(salt, unit, 100)
    assert 0 <= position(salt, unit) < 100


def test_the_highest_digest_is_still_below_100() -> None:
    assert bucketing._percent(b"\xff" * 8) < 100
    assert bucketing._percent(b"\x00" * 8) == 0


def test_a_share_that_is_no_number_takes_nobody() -> None:
    assert not any(in_share("salt", f"unit-{i}", math.nan) for i in range(200))


@pytest.mark.parametrize("unit", ["", "ü", "日本語", "😀", "\ud800", "e\u0301", "\x00", "x" * 1_000_000])
def test_any_text_has_a_position(unit: str) -> None:
    assert 0 <= position("salt", unit) < 100
    assert position("salt", unit) == position("salt", unit)


def test_look_alike_units_are_different_units() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    assert len({position("s", u) for u in (composed, decomposed, "e", "", " ", "\x00")}) == 6


def test_positions_are_uniform() -> None:
    n, cells = 50_000, 100
    counts = [0] * cells
    for i in range(n):
        counts[int(position("uniform", f"user-{i}"))] += 1
    expected = n / cells
    statistic = sum((c - expected) ** 2 / expected for c in counts)
    assert chi2.sf(statistic, cells - 1) > 0.001


def test_salts_deal_independently_of_each_other() -> None:
    n, cells = 40_000, 10
    counts = [[0] * cells for _ in range(cells)]
    for i in range(n):
        a, b = position("rollout-1", f"user-{i}"), position("rollout-2", f"user-{i}")
        counts[int(a / 10)][int(b / 10)] += 1
    expected = n / cells**2
    statistic = sum((c - expected) ** 2 / expected for row in counts for c in row)
    assert chi2.sf(statistic, cells**2 - 1) > 0.001


def test_the_salt_is_not_simply_put_before_the_unit() -> None:
    assert position("ab", "c") != position("a", "bc")


@given(any_text, any_text)
def test_the_share_is_counted_up_to_the_unit_and_without_it(salt: str, unit: str) -> None:
    own = position(salt, unit)
    assert not in_share(salt, unit, own)
    assert in_share(salt, unit, math.nextafter(own, 101))
