"""The breaker: how soon it trips, and how seldom without a reason."""

import random

import pytest

from model_rollouts.core.breaker import Breaker, failures_to_trip


def calls_until_trip(breaker: Breaker, rate: float, seed: int, most: int) -> int | None:
    """How many calls it takes at an error rate; None: more than `most`."""
    rng = random.Random(seed)
    for call in range(1, most + 1):
        if breaker.saw(failed=rng.random() < rate):
            return call
    return None


def test_the_default_burst_follows_from_a_million_calls_to_a_false_alarm() -> None:
    assert failures_to_trip(1e6) == 10


def test_it_trips_at_the_last_failure_of_a_burst_and_once() -> None:
    breaker = Breaker(10)
    assert [breaker.saw(failed=True) for _ in range(12)] == [False] * 9 + [True, False, False]
    assert (breaker.tripped, breaker.failures, breaker.calls) == (True, 12, 12)
    assert breaker.saw(failed=False) is False
    assert breaker.tripped, "nothing closes it again"


def test_successes_before_a_burst_do_not_delay_it() -> None:
    breaker = Breaker(10)
    for _ in range(100_000):
        breaker.saw(failed=False)
    assert [breaker.saw(failed=True) for _ in range(10)][-1]


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.1, 0.2])
def test_what_the_gates_are_there_for_does_not_trip_it(rate: float) -> None:
    assert all(calls_until_trip(Breaker(10), rate, seed, 50_000) is None for seed in range(4))


@pytest.mark.parametrize(("rate", "most"), [(1.0, 10), (0.9, 25), (0.8, 50)])
def test_a_broken_version_is_out_within_a_few_calls(rate: float, most: int) -> None:
    needed = [calls_until_trip(Breaker(10), rate, seed, 1000) for seed in range(200)]
    assert all(n is not None for n in needed)
    assert sorted(n for n in needed if n is not None)[190] <= most


def test_zero_means_never() -> None:
    breaker = Breaker(0)
    assert not any(breaker.saw(failed=True) for _ in range(1000))
    assert not breaker.tripped


def test_a_negative_burst_is_refused() -> None:
    with pytest.raises(ValueError, match="burst is -1, must be 0 or more"):
        Breaker(-1)
