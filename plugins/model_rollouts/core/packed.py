"""Looks as they are kept in memory: histograms as arrays, a tenth of what dictionaries of Python numbers take."""

from array import array
from bisect import bisect_left
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from copy import copy
from sys import getsizeof

from model_rollouts.core.evidence import Look

_SMALL, _MEDIUM = 2**16, 2**32
_LOOK_BYTES = 1300  # a look's counts without histograms and clusters, as tracemalloc tells
_CLUSTER_BYTES = 240  # sums of the clusters of one metric and arm


class PackedHistogram(Mapping[int, int]):
    """Bin -> count, in order of bins. Never changes.

    Args:
        histogram: Bins from 0 to 65,535.
    """

    __slots__ = ("_bins", "_counts")

    def __init__(self, histogram: Mapping[int, int]) -> None:
        bins = sorted(histogram)
        counts = [histogram[index] for index in bins]
        most = max(counts, default=0)
        self._bins = array("H", bins)
        self._counts = array("H" if most < _SMALL else "I" if most < _MEDIUM else "Q", counts)

    def __getitem__(self, index: int) -> int:
        """The count of a bin."""
        at = bisect_left(self._bins, index)
        if at == len(self._bins) or self._bins[at] != index:
            raise KeyError(index)
        return self._counts[at]

    def __len__(self) -> int:
        """How many bins there are."""
        return len(self._bins)

    def __iter__(self) -> Iterator[int]:
        """The bins."""
        return iter(self._bins)

    def items(self) -> ItemsView[int, int]:
        """Bins with their counts, side by side: no bin is looked for."""
        return _Items(self)

    def values(self) -> ValuesView[int]:
        """The counts."""
        return _Values(self)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Each bin with its count."""
        return zip(self._bins, self._counts, strict=True)

    def counts(self) -> Iterator[int]:
        """The counts alone."""
        return iter(self._counts)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return getsizeof(self) + getsizeof(self._bins) + getsizeof(self._counts)


class _Items(ItemsView[int, int]):
    _mapping: PackedHistogram

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self._mapping.pairs()


class _Values(ValuesView[int]):
    _mapping: PackedHistogram

    def __iter__(self) -> Iterator[int]:
        return self._mapping.counts()


def packed(look: Look) -> Look:
    """The same look with packed histograms. It was checked when it was read; to check it again takes as long."""
    found = copy(look)
    for name in ("champion", "challenger"):
        arm = copy(getattr(look, name))
        object.__setattr__(arm, "latency", PackedHistogram(arm.latency))
        object.__setattr__(found, name, arm)
    return found


def bytes_of(look: Look) -> int:
    """Bytes that a packed look takes in memory, about."""
    found = _LOOK_BYTES
    for arm in ("champion", "challenger"):
        latency, units = getattr(look, arm).latency, getattr(look, f"{arm}_units")
        found += latency.nbytes if isinstance(latency, PackedHistogram) else getsizeof(latency)
        found += _CLUSTER_BYTES * (len(units.clusters) if units else 0)
        found += _CLUSTER_BYTES * (getattr(look, f"{arm}_label_clusters") is not None)
    return found
