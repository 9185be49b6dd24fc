"""What units did before each look, added up for those that did the same in it, with numpy.

A query engine finds the earlier looks of a unit by a window or by pairs of looks, which takes seconds for a million
rows. Here the rows are put in order by unit once, and each sum is a running one over all of them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_rollouts.adapters.delta_cluster_queries import HALF

Ints = npt.NDArray[np.int64]


class EarlierSums:
    """Sums over the earlier looks of units, by the class of what a unit did in a look.

    Args:
        worth: For each column a number for each class, shape (columns, classes): what a row of the class adds to the
            sums of its unit's later looks.
    """

    def __init__(self, worth: Sequence[Ints]) -> None:
        self._worth = [np.ascontiguousarray(column, np.int64) for column in worth]
        ends = [int(end) for column in self._worth for end in (column.min(initial=0), column.max(initial=0))]
        self._most = max(map(abs, ends), default=0)
        shape = (len(self._worth), len(self._worth[0]) if self._worth else 0)
        self._high, self._low = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def add(self, unit: npt.NDArray[np.uint64], side: Ints, look: Ints, kind: Ints) -> None:
        """Take all rows of some units; one row for each unit, side and look.

        Args:
            unit: Whose it is, shape (rows,).
            side: What has sums of its own, from 0: an arm.
            look: When, from 0.
            kind: Its class.

        Raises:
            OverflowError: A unit's sums could be beyond 64 bits.
        """
        if not len(unit):
            return
        looks = int(look.max()) + 1
        when = side * looks + look
        by_time = np.argsort(when.astype(np.min_scalar_type(int(when.max()))), kind="stable")
        order = by_time[np.argsort(unit[by_time], kind="stable")]
        unit, side, kind = unit[order], side[order], kind[order]
        begins = np.flatnonzero(np.concatenate(([True], (unit[1:] != unit[:-1]) | (side[1:] != side[:-1]))))
        lengths = np.diff(np.append(begins, len(unit)))
        if self._most * int(lengths.max()) >= 2**63:
            raise OverflowError(f"{lengths.max()} looks of a unit with numbers up to {self._most} are beyond 64 bits")
        for at, column in enumerate(self._worth):
            here = column[kind]
            until = np.cumsum(here) - here  # of all rows; what runs over comes back with the difference
            earlier = until - np.repeat(until[begins], lengths)
            np.add.at(self._high[at], kind, earlier >> HALF)
            np.add.at(self._low[at], kind, earlier & (2**HALF - 1))

    def columns(self, names: Sequence[str]) -> dict[str, Ints]:
        """For each column `<name>_high` and `<name>_low`, a number for each class: high * 2**32 + low is the sum."""
        return {
            f"{name}_{half}": sums[at]
            for at, name in enumerate(names)
            for half, sums in (("high", self._high), ("low", self._low))
        }
