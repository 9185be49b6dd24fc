"""A table in counts: its bins, its text form, and what is no profile."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_rollouts.core.profile import (
    LARGEST,
    STEP,
    ColumnProfile,
    Grid,
    Profile,
    ProfileError,
    column_of_numbers,
    grid_of,
)


def profile() -> Profile:
    numbers = ColumnProfile("number", 2, 1, Grid(1.5, 0.5), {-3: 2, 0: 4, 7: 1}, mean=1.4, sd=0.2, low=1.0, high=2.0)
    texts = ColumnProfile("text", 1, categories={'a "quoted" ü': 6, "b": 0}, rest=3)
    empty = ColumnProfile("number", 10)
    return Profile(10, {"distance": numbers, "carrier": texts, "seats": empty}, "January")


def test_a_profile_comes_back_as_it_was() -> None:
    assert Profile.from_json(profile().to_json()) == profile()


@given(
    st.floats(-1e9, 1e9),
    st.floats(1e-6, 1e9),
    st.floats(-LARGEST, LARGEST),
)
def test_any_number_has_a_bin_and_is_close_to_its_position(center: float, scale: float, value: float) -> None:
    grid = Grid(center, scale)
    at = grid.position(grid.index(value))
    assert abs(at - value) <= 1.01 * STEP / 2 * (scale + abs(value - center))


def test_the_middle_is_not_on_an_edge() -> None:
    grid = Grid(0.1, 1.0)
    assert {grid.index(value) for value in (0.1, 0.1 + 1e-9, 0.1 - 1e-9)} == {0}
    assert (grid.index(0.1 + STEP), grid.index(0.1 - STEP)) == (1, -1)


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], Grid(3.0, 1.0)),
        ([0.0] * 9 + [4.0], Grid(0.0, 4.0)),  # half of the values are one number
        ([7.0] * 5, Grid(7.0, 7.0)),
        ([0.0], Grid(0.0, 1.0)),
        ([1e9, 1e9 + 0.001], Grid(1e9, 1e3)),  # no finer than numbers of 32 bits can tell
    ],
)
def test_the_grid_is_where_the_values_are(values: list[float], grid: Grid) -> None:
    assert grid_of(values) == grid


def test_without_a_number_there_is_no_grid() -> None:
    with pytest.raises(ProfileError, match="needs at least one number"):
        grid_of([])


def test_numbers_of_counts_alone_are_those_of_the_positions() -> None:
    grid = Grid(0.0, 1.0)
    column = column_of_numbers(grid, {-10: 1, 0: 2, 10: 1}, 3, 1)
    away = math.expm1(10 * STEP)
    assert (column.values, column.rows, column.mean) == (4, 8, 0.0)
    assert column.sd == pytest.approx(math.sqrt(2 * away**2 / 3))
    assert (column.low, column.high) == (-away, away)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "its format must be 'model-rollouts profile'"),
        (lambda d: d.update(version=2), "version is 2, must be 1"),
        (lambda d: d.update(version=None), "version is None, must be 1"),
        (lambda d: d.pop("columns"), "broken .KeyError"),
        (lambda d: d.update(columns=[]), "broken .AttributeError"),
        (lambda d: d.update(rows=11), "counts 10 rows, must count the table's 11"),
        (lambda d: d.update(rows=-1), "rows is -1, must be a whole number"),
        (lambda d: d["columns"]["distance"].update(kind="date"), "kind is 'date', must be number or text"),
        (lambda d: d["columns"]["distance"]["counts"].append([0, 1]), "a bin is there twice"),
        (lambda d: d["columns"]["distance"]["counts"].append([9, -1]), "must be a whole number of at least 0"),
        (lambda d: d["columns"]["distance"]["counts"].append([9, 1.5]), "must be a whole number of at least 0"),
        (lambda d: d["columns"]["distance"]["counts"].append(["9", 1]), "bin is '9', must be of type int"),
        (lambda d: d["columns"]["distance"]["counts"].append([9]), "broken .ValueError"),
        (lambda d: d["columns"]["distance"].pop("missing"), "broken .KeyError"),
        (lambda d: d["columns"]["distance"].pop("center"), "has counts and no grid"),
        (lambda d: d["columns"]["distance"].update(scale=0.0), "scale is 0.0, must be at least"),
        (lambda d: d["columns"]["distance"].update(mean="1"), "mean is '1', must be a finite number"),
        (lambda d: d["columns"]["carrier"]["categories"].append(["b", 0]), "a category is there twice"),
    ],
)
def test_what_contradicts_itself_is_no_profile(change, message) -> None:
    data = json.loads(profile().to_json())
    change(data)
    with pytest.raises(ProfileError, match=message):
        Profile.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "NaN", "[" * 100_000, '{"format": "model-rollouts profile"'])
def test_what_is_no_json_of_ours_is_no_profile(text: str) -> None:
    with pytest.raises(ProfileError, match="no profile"):
        Profile.from_json(text)


def test_a_profile_cut_anywhere_is_no_profile() -> None:
    text = profile().to_json()
    for end in range(len(text)):
        with pytest.raises(ProfileError):
            Profile.from_json(text[:end])


def test_a_number_that_json_does_not_have_is_refused() -> None:
    text = profile().to_json().replace('"mean": 1.4', '"mean": NaN')
    with pytest.raises(ProfileError, match="NaN is no number of JSON"):
        Profile.from_json(text)
