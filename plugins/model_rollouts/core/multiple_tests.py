"""Corrections for how many tests were looked at."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values by Holm's step-down procedure (1979), in the order given.

    Calling what is at most 5 % a finding makes one false finding or more in at most 5 % of the cases, however the tests
    depend on each other. Slices of one log do: a bad slice of one feature shows in the slices of others.

    Raises:
        ValueError: A p-value is not between 0 and 1.
    """
    for at, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise ValueError(f"p-value {at} is {p}, must be between 0 and 1")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = running
    return adjusted
