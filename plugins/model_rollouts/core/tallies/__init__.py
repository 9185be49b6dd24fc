"""One tally a kind of metric: takes looks in order, once each, and gives the gate's numbers at any time."""

from typing import Protocol

from model_rollouts.core.evidence import Look
from model_rollouts.core.verdict import Measured


class Tally(Protocol):
    """Running sums of one gate."""

    def add(self, looks: list[Look]) -> None:
        """Take further looks, in order."""

    def measure(self) -> Measured:
        """The gate's numbers over the looks so far."""

    def bounds(self, log_harm: float, log_pass: float) -> tuple[float | None, float | None]:
        """(low, high) that the effect is proven to be above and below, at any time.

        Args:
            log_harm: Natural log of 1 / (1 - confidence) on the side of harm.
            log_pass: The same on the side of the proof.
        """
