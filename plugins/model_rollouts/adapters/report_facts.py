"""What reports are made of: facts about pairs of answers and about units, as counted over all rows."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Numbers:
    """How numbers are distributed.

    Attributes:
        count: How many there are.
        mean: Their mean.
        mean_size: Mean of their absolute values.
        largest_size: The largest absolute value.
        quantiles: "p1" to "p99".
    """

    count: int
    mean: float
    mean_size: float
    largest_size: float
    quantiles: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Pairs with one answer of the champion's and one other of the challenger's; long answers are cut."""

    champion: str | None
    challenger: str | None
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Pairs that have something in common.

    Attributes:
        feature: Name of the input.
        value: What is common: a value, a range of numbers, or "(null)", "(other values)", "(not finite)".
        pairs: How many.
        agreed: Those that agree.
    """

    feature: str
    value: str
    pairs: int
    agreed: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of a stage.

    Attributes:
        asked: The champion's good answers that count as its own.
        champion_failed: Its failures: nothing to agree with.
        paired: Those of the asked that the challenger was given too.
        agreed: Those of the paired that it answered alike.
        timeouts: Those of the paired that it timed out at.
        errors: Those of the paired that it failed at otherwise.
        units: Units that the paired requests are of.
        without_champion: Requests of the control sample, or of an offline stage, that have no answer of the champion's.
        disagreements: The most frequent ones, most frequent first.
        disagreement_kinds: How many different ones there are.
        score: Challenger's score less the champion's; None where no pair has both.
        latency_ms: "champion", "challenger" and "difference" (challenger's less champion's), of pairs that both
            answered; those without any are left out.
        slices: All slices of all columns that were looked at.
        columns: How many columns were looked at.
        columns_left_out: Names of the inputs beyond the most that are looked at.
    """

    asked: int
    champion_failed: int
    paired: int
    agreed: int
    timeouts: int
    errors: int
    units: int
    without_champion: int
    disagreements: tuple[Disagreement, ...] = ()
    disagreement_kinds: int = 0
    score: Numbers | None = None
    latency_ms: Mapping[str, Numbers] | None = None
    slices: tuple[Slice, ...] = ()
    columns: int = 0
    columns_left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the units of one arm, each unit a row.

    Attributes:
        units: How many.
        with_prior: Those that had a value before the rollout.
        means: Mean by column, see `delta_ab_queries.COLUMNS`.
        covariances: Sample covariance by pair of columns; a pair of one column is its variance. Empty for one unit.
    """

    units: int
    with_prior: int
    means: Mapping[str, float]
    covariances: Mapping[tuple[str, str], float]

    def total(self, column: str) -> float:
        """Sum of a column."""
        return self.means[column] * self.units


@dataclass(frozen=True, slots=True)
class ArmUnits:
    """The units of an A/B stage.

    Attributes:
        units: All units.
        exposed_to_both: Units that were in both arms; they are in `moments` nowhere.
        requests: Requests of all units.
        requests_exposed: Requests of units that were in both arms.
        errors: Failures of all units.
        moments: By what the units have at least one of ("requests", "due", "valued", "labelled"), then by arm; arms
            without such a unit are left out.
    """

    units: int
    exposed_to_both: int
    requests: int
    requests_exposed: int
    errors: int
    moments: Mapping[str, Mapping[str, Moments]]
