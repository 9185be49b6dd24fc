"""Sums over the earlier looks of units: those that whole numbers in plain Python give."""

import random
from collections import defaultdict
from itertools import groupby

import numpy as np
import pytest

from model_rollouts.adapters.running_sums import EarlierSums

Row = tuple[int, int, int, int]  # unit, side, look, class


def slow(worth: list[list[int]], rows: list[Row]) -> dict[tuple[int, int], int]:
    """By column and class."""
    found: dict[tuple[int, int], int] = defaultdict(int)
    for _, of_unit in groupby(sorted(rows), key=lambda row: row[:2]):
        before = [0] * len(worth)
        for *_, kind in of_unit:
            for column, numbers in enumerate(worth):
                found[column, kind] += before[column]
                before[column] += numbers[kind]
    return found


def counted(worth: list[list[int]], *parts: list[Row], kind: type = np.int32) -> list[list[int]]:
    sums = EarlierSums([np.array(column) for column in worth])
    for rows in parts:
        unit, *others = zip(*rows, strict=True) if rows else ((),) * 4
        sums.add(np.array(unit, np.uint64), *(np.array(each, kind) for each in others))
    found = sums.columns([f"c{at}" for at in range(len(worth))])
    return [(found[f"c{at}_high"].astype(object) * 2**32 + found[f"c{at}_low"]).tolist() for at in range(len(worth))]


def random_rows(chance: random.Random, units: int, looks: int, classes: int) -> list[Row]:
    names = [chance.getrandbits(64) for _ in range(units)]
    rows = [
        (unit, side, look, chance.randrange(classes))
        for unit in names
        for side in (0, 1)
        for look in range(looks)
        if chance.random() < 0.4
    ]
    chance.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("largest", [3, 10**10, 2**58])
@pytest.mark.parametrize("looks", [1, 9, 300])
def test_they_are_those_of_plain_python(seed: int, largest: int, looks: int) -> None:
    chance = random.Random(seed)
    units = 40 if largest < 2**50 else 3
    looks = looks if largest < 2**50 else min(looks, 9)
    classes = 7
    worth = [[chance.randint(-largest, largest) for _ in range(classes)] for _ in range(3)]
    parts = [random_rows(chance, units, looks, classes) for _ in range(2)]
    expected = slow(worth, [*parts[0], *parts[1]])
    assert counted(worth, *parts) == [[expected[column, kind] for kind in range(classes)] for column in range(3)]


def test_sums_of_many_units_go_beyond_64_bits() -> None:
    rows = [(unit, 0, look, look) for unit in range(100) for look in (0, 1)]
    assert counted([[2**60, 0]], rows) == [[0, 100 * 2**60]]


def test_arms_and_units_are_apart() -> None:
    rows = [(7, 0, 0, 0), (7, 1, 1, 0), (8, 0, 2, 0)]
    assert counted([[5]], rows) == [[0]]
    assert counted([[5]], [*rows, (7, 0, 3, 0)]) == [[5]]


def test_nothing_before_nobody() -> None:
    assert counted([[1, 2]], []) == [[0, 0]]


def test_units_are_told_apart_by_all_of_their_64_bits() -> None:
    assert counted([[5]], [(1, 0, 0, 0), (1 + 2**32, 0, 1, 0), (1 + 2**63, 0, 2, 0)]) == [[0]]


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_numbers_of_any_width(kind: type) -> None:
    assert counted([[5, 7]], [(1, 1, 3, 0), (1, 1, 8, 1)], kind=kind) == [[0, 5]]


def test_many_looks_stay_in_order() -> None:
    rows = [(1, 1, look, look % 3) for look in (40_000, 65_535, 65_536, 70_000, 131_072)]
    worth = [[1, 10, 100]]
    expected = slow(worth, rows)
    assert counted(worth, rows) == [[expected[0, kind] for kind in range(3)]]


@pytest.mark.parametrize("number", [2**61, -(2**61)])
def test_sums_of_one_unit_beyond_64_bits_are_refused_and_not_wrong(number: int) -> None:
    rows = [(1, 0, look, 0) for look in range(4)]
    with pytest.raises(OverflowError, match="4 looks of a unit with numbers up to 2305843009213693952"):
        counted([[number]], rows)
    assert counted([[number]], rows[:3]) == [[3 * number]]


def test_the_least_number_of_64_bits_is_as_large_as_it_is() -> None:
    with pytest.raises(OverflowError):
        counted([[-(2**63), 0]], [(1, 0, 0, 0), (1, 0, 1, 0), (1, 0, 2, 1)])
