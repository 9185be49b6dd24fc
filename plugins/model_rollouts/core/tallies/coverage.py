"""Label coverage, in the stage and in all."""

from collections.abc import Sequence


class CoverageTally:
    """Least share of what was due that arrived, of the two arms, in the stage and in all.

    Of the stage as well, or labels that stop arriving late in a rollout would hide behind those that came before.
    """

    def __init__(self) -> None:
        self._sums = [[0, 0] for _ in range(4)]

    def add(self, arms: Sequence[tuple[int, int]], *, own: bool) -> None:
        """Take a look's (arrived, due) of each arm; `own`: the look is of the judged stage."""
        for arm, (arrived, due) in enumerate(arms):
            for position in (arm, arm + 2) if own else (arm,):
                self._sums[position][0] += arrived
                self._sums[position][1] += due

    def least(self) -> float:
        """The coverage; 0 while nothing is due in one of them."""
        return min(arrived / due if due else 0.0 for arrived, due in self._sums)
