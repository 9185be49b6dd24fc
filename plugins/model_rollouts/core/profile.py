"""What a table's columns look like, in counts: the reference that drift and data checks compare with.

A number falls into a bin of a grid that is fine around the column's middle and ever wider away from it, so that any
finite number has a bin and a column has some hundred bins, whatever it holds. The bins have whole counts: parts of a
table, counted anywhere, add up to the same profile. Quantile bins for PSI are made of neighbouring bins of this grid
(see core/drift.py), so that one pass over a table is enough.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from model_rollouts.core.errors import RolloutError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMAT = "model-rollouts profile"
VERSION = 1
STEP = 0.01  # a bin's width: 1 % of the scale in the middle, 1 % of the distance far away from it
LARGEST = 1e100  # a number beyond it counts as not finite: no arithmetic with the others overflows
SMALLEST_SCALE = 1e-100
MOST_CATEGORIES = 50
LONGEST_CATEGORY = 200  # characters: a longer text is never a category of its own
MOST_COLUMNS = 5_000
MOST_BYTES = 64 << 20

Kind = Literal["number", "text"]


class ProfileError(RolloutError, ValueError):
    """A profile that contradicts itself, or a file that holds none."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The bins of a column of numbers.

    Bin k >= 0 is around center + scale * (exp(STEP * k) - 1), and -k as far below. No round number is on an edge.

    Attributes:
        center: The middle of bin 0; the column's median.
        scale: How far away from it the bins begin to widen; half of the column's interquartile range.
    """

    center: float
    scale: float

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            ProfileError: The message states the value and the bound.
        """
        _finite("center", self.center)
        _finite("scale", self.scale)
        if self.scale < SMALLEST_SCALE:
            raise ProfileError(f"scale is {self.scale!r}, must be at least {SMALLEST_SCALE:g}")

    def index(self, value: float) -> int:
        """The bin of a number of a size up to LARGEST."""
        away = value - self.center
        steps = math.floor(math.log(1.0 + abs(away) / self.scale) / STEP + 0.5)
        return steps if away >= 0 else -steps

    def indices(self, values: "npt.NDArray[np.float64]") -> "npt.NDArray[np.int64]":
        """The same for many of them at once."""
        import numpy as np  # takes longer to import than all that reads a profile

        away = values - self.center
        steps = np.abs(away)
        steps /= self.scale
        steps += 1.0
        np.log(steps, out=steps)
        steps /= STEP
        steps += 0.5
        np.copysign(steps, away, out=steps)
        return steps.astype(np.int64)  # cuts the fraction off, on either side

    def position(self, index: int) -> float:
        """The number that stands for a bin; no number of the bin is further away than about half a STEP."""
        away = self.scale * math.expm1(STEP * abs(index))
        return self.center + math.copysign(away, index)


def grid_of(sorted_values: Sequence[float]) -> Grid:
    """The grid for a column, from a sample of it or all of it.

    Args:
        sorted_values: At least one finite number of a size up to LARGEST, increasing.

    Raises:
        ProfileError: There is none.
    """
    if not len(sorted_values):
        raise ProfileError("a grid needs at least one number; the column has none")
    last = len(sorted_values) - 1
    center = float(sorted_values[last // 2])
    scale = (float(sorted_values[3 * last // 4]) - float(sorted_values[last // 4])) / 2
    if not scale > 0:  # half of the values or more are one number: as wide as the others are away from it
        away = sorted(abs(float(value) - center) for value in sorted_values if value != center)
        scale = away[len(away) // 2] if away else abs(center) or 1.0
    # below a millionth of the size of the numbers only rounding to 32 bits is seen
    return Grid(center, max(scale, 1e-6 * abs(center), SMALLEST_SCALE))


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column in counts.

    Attributes:
        kind: "number" or "text".
        missing: Rows without a value.
        not_finite: Numbers that are infinite, no number, or of a size beyond LARGEST.
        grid: The bins' grid; None for text, and for a column without a finite number.
        counts: Numbers by bin of the grid; bins without any are left out.
        categories: Texts that were counted, at most MOST_CATEGORIES for a reference; those that were looked for and
            not found are there with 0.
        rest: Texts that are no category.
        mean: Of the finite numbers; None for text and without any.
        sd: Their standard deviation; None below two.
        low: The smallest of them.
        high: The largest of them.
    """

    kind: Kind
    missing: int = 0
    not_finite: int = 0
    grid: Grid | None = None
    counts: Mapping[int, int] = field(default_factory=dict)
    categories: Mapping[str, int] = field(default_factory=dict)
    rest: int = 0
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ProfileError: The message states the value and the bound.
        """
        if self.kind not in ("number", "text"):
            raise ProfileError(f"kind is {self.kind!r}, must be number or text")
        for name in ("missing", "not_finite", "rest"):
            _count(name, getattr(self, name))
        for name, counts, key in (("bin", self.counts, int), ("category", self.categories, str)):
            for each, count in counts.items():
                if not isinstance(each, key) or isinstance(each, bool):
                    raise ProfileError(f"{name} is {each!r}, must be of type {key.__name__}")
                _count(f"count of {name} {each!r:.60}", count)
        if self.kind == "number" and (self.categories or self.rest):
            raise ProfileError("a column of numbers has categories; it must have bins")
        if self.kind == "text" and (self.counts or self.grid is not None or self.not_finite):
            raise ProfileError("a column of text has bins; it must have categories")
        if self.counts and self.grid is None:
            raise ProfileError("a column of numbers has counts and no grid")
        for name in ("mean", "sd", "low", "high"):
            if getattr(self, name) is not None:
                _finite(name, getattr(self, name))

    @property
    def values(self) -> int:
        """Rows with a finite number or a text."""
        return sum(self.counts.values()) + sum(self.categories.values()) + self.rest

    @property
    def rows(self) -> int:
        """All rows."""
        return self.values + self.missing + self.not_finite


def column_of_numbers(grid: Grid, counts: Mapping[int, int], missing: int, not_finite: int) -> ColumnProfile:
    """A profile of counts alone: mean, standard deviation and bounds are those of the bins' positions."""
    placed = [(grid.position(index), count) for index, count in sorted(counts.items()) if count]
    total = sum(count for _, count in placed)
    mean = math.fsum(at * count for at, count in placed) / total if total else None
    sd = None
    if mean is not None and total > 1:
        sd = math.sqrt(math.fsum((at - mean) ** 2 * count for at, count in placed) / (total - 1))
    return ColumnProfile(
        "number",
        missing,
        not_finite,
        grid,
        dict(counts),
        mean=mean,
        sd=sd,
        low=placed[0][0] if placed else None,
        high=placed[-1][0] if placed else None,
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """A table in counts.

    Attributes:
        rows: Its rows.
        columns: By name. A training profile has the model's inputs under their own names, one of the log the log's
            columns.
        source: What it was made of, for a person.
    """

    rows: int
    columns: Mapping[str, ColumnProfile]
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ProfileError: The message states the value and the bound.
        """
        _count("rows", self.rows)
        if len(self.columns) > MOST_COLUMNS:
            raise ProfileError(f"the profile has {len(self.columns)} columns, must have at most {MOST_COLUMNS}")
        for name, column in self.columns.items():
            if column.rows != self.rows:
                raise ProfileError(f"column {name!r:.60} counts {column.rows} rows, must count the table's {self.rows}")

    def to_json(self) -> str:
        """The profile as text, to be kept."""
        columns = {name: _column_to_dict(column) for name, column in self.columns.items()}
        document = {"format": FORMAT, "version": VERSION, "source": self.source, "rows": self.rows, "columns": columns}
        return json.dumps(document, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """The profile that `to_json` made a text of.

        Raises:
            ProfileError: The text holds no profile, only part of one, or one of another format; says what is wrong.
        """
        if len(text) > MOST_BYTES:
            raise ProfileError(f"the profile's text has {len(text)} characters, must have at most {MOST_BYTES}")
        try:
            data = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ProfileError(f"no profile: no whole JSON ({error}); make it again from the training data") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ProfileError(f"no profile: its format must be {FORMAT!r}; make it again from the training data")
        if data.get("version") != VERSION:
            raise ProfileError(
                f"the profile's version is {data.get('version')!r:.40}, must be {VERSION}: it was written by another "
                "release; make it again from the training data"
            )
        try:
            columns = {name: _column_from_dict(column) for name, column in data["columns"].items()}
            return cls(data["rows"], columns, str(data["source"]))
        except ProfileError as error:
            raise ProfileError(f"the profile is broken: {error}; make it again from the training data") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProfileError(
                f"the profile is broken ({type(error).__name__}: {error}); make it again from the training data"
            ) from error


def _column_to_dict(column: ColumnProfile) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": column.kind, "missing": column.missing}
    if column.kind == "text":
        return told | {"categories": list(map(list, column.categories.items())), "rest": column.rest}
    if column.grid is not None:
        told |= {"center": column.grid.center, "scale": column.grid.scale}
    told |= {name: getattr(column, name) for name in ("not_finite", "mean", "sd", "low", "high")}
    return told | {"counts": [list(pair) for pair in sorted(column.counts.items())]}


def _column_from_dict(data: Mapping[str, Any]) -> ColumnProfile:
    if data["kind"] == "text":
        return ColumnProfile(
            "text", data["missing"], categories=_pairs("category", data["categories"]), rest=data["rest"]
        )
    return ColumnProfile(
        data["kind"],
        data["missing"],
        data["not_finite"],
        Grid(data["center"], data["scale"]) if "center" in data else None,
        _pairs("bin", data["counts"]),
        **{name: data[name] for name in ("mean", "sd", "low", "high")},
    )


def _pairs(what: str, listed: Sequence[Sequence[Any]]) -> dict[Any, int]:
    pairs = {key: count for key, count in listed}  # noqa: C416 - refuses what is no pair
    if len(pairs) != len(listed):
        raise ProfileError(f"a {what} is there twice")
    return pairs


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProfileError(f"{name} is {value!r:.60}, must be a whole number of at least 0")


def _finite(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ProfileError(f"{name} is {value!r:.60}, must be a finite number")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
