"""Evidence beyond plain counts: repeat requests of a unit, new units, pairs of answers, business values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_rollouts.core.checks import MOST_REQUESTS, count, finite


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """What one look adds to the sums over pairs of requests of one unit, for one arm and one 0/1 metric.

    The pairs are ordered pairs of two requests that one unit made in one arm, in this look or in this look and an
    earlier one of the rollout. A request's residual is its outcome (0 or 1) less the mean of its arm in its look, and
    its spread is that mean's Bernoulli standard deviation (variance with the divisor n - 1; 0 where n is 1). Sums of
    several looks may be added up; `core/clustering.py` makes the correlation within units from them.

    Attributes:
        judged: Requests of this look.
        squares: Growth of the sum over units of the squared number of their requests so far.
        products: Sum over the new pairs of the product of their residuals. For a pair within the look the arm's
            variance / n is added, which is what centring on the look's own mean takes away.
        scale: Sum over the new pairs of the product of their spreads.
        noise: Sum over the new pairs of the product of their squared spreads.
    """

    judged: int = 0
    squares: int = 0
    products: float = 0.0
    scale: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sums that no log could give.

        Raises:
            ValueError: The message states the value and the bound.
        """
        count("judged", self.judged, MOST_REQUESTS, "the most that one look can hold")
        count("squares", self.squares, MOST_REQUESTS**2, "the most that one unit can add")
        for name in ("products", "scale", "noise"):
            finite(name, getattr(self, name))
        if self.scale < 0 or self.noise < 0:
            raise ValueError(f"scale is {self.scale} and noise {self.noise}, must both be at least 0")


@dataclass(frozen=True, slots=True)
class UnitCounts:
    """One arm's units in one look. A request without a unit is a unit of its own.

    Attributes:
        new: Units of this arm's cohort that the rollout sees for the first time in this look.
        clusters: Repeat requests of units, by metric: `error_rate`, `latency_p50`, `latency_p95`, `latency_p99`.
            For a latency metric the outcome is: at least as slow as the arm's own quantile of this look.
            The same sums with calls in the place of units are there under `call_error_rate`, `call_latency_p50`,
            `call_latency_p95`, `call_latency_p99`. A call is one HTTP request: its rows share latency, timeout and
            exception, and have its id with `:0`, `:1`, ... at their ends; it has no pairs across looks. A row without
            such an ending is a call of its own, and callers' own ids that end so count as rows of one call.
    """

    new: int = 0
    clusters: Mapping[str, ClusterSums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a count of new units that is none.

        Raises:
            ValueError: The message states the value and the bound.
        """
        count("new units", self.new, MOST_REQUESTS, "the most that one look can hold")


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Requests of one look that both versions answered, the champion's answer being the one to agree with.

    Attributes:
        asked: Requests that the champion answered well and that count as its own.
        paired: Those of them that the challenger was given too.
        agreed: Those of the paired that it answered like the champion. A failure is no agreement.
    """

    asked: int = 0
    paired: int = 0
    agreed: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that contradict each other.

        Raises:
            ValueError: A count is not a whole number, is negative, or is more than it can be.
        """
        count("asked", self.asked, MOST_REQUESTS, "the most that one look can hold")
        count("paired", self.paired, self.asked, "all that the champion answered")
        count("agreed", self.agreed, self.paired, "all pairs")


@dataclass(frozen=True, slots=True)
class ValueSums:
    """Business values of the requests of one look, once it is `label_maturity` old.

    Only answers that the caller got count: what came of a request that nobody saw this arm's answer to, such as a
    control request at a share of 100, came of the other arm's. A value that is no finite number or beyond +-1e9 is
    missing.

    `y` is a request's value; `x` is what is known of its unit from before the rollout: the mean value of the unit's
    requests then, or the mean over all units where the unit is new. The cross sums are over units: what this look adds
    to the sum over units of the product of two scores, a unit's score being the sum over its requests so far of
    (y - mean y of the look, both arms) * (1 if challenger else 0 - the challenger's share of the look), and the same
    with x.

    Attributes:
        champion_due: Requests of the champion's cohort that got its answer and whose value should be there by now.
        challenger_due: The same for the challenger.
        champion_n: Those that have one.
        challenger_n: The same for the challenger.
        champion_y: Sum of their values.
        challenger_y: The same for the challenger.
        champion_x: Sum of x over the requests that have a value.
        challenger_x: The same for the challenger.
        champion_units: Units of which this look has the first request with a value in this arm in the rollout. A
            unit that changes arms counts once in each.
        challenger_units: The same for the challenger.
        yy: What the look adds to the sum over units of the squared score of y.
        xy: The same for the score of x times the score of y.
        xx: The same for the squared score of x.
    """

    champion_due: int = 0
    challenger_due: int = 0
    champion_n: int = 0
    challenger_n: int = 0
    champion_y: float = 0.0
    challenger_y: float = 0.0
    champion_x: float = 0.0
    challenger_x: float = 0.0
    champion_units: int = 0
    challenger_units: int = 0
    yy: float = 0.0
    xy: float = 0.0
    xx: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sums that contradict each other.

        Raises:
            ValueError: The message states the value and the bound.
        """
        for arm in ("champion", "challenger"):
            due, n = getattr(self, f"{arm}_due"), getattr(self, f"{arm}_n")
            count(f"{arm}_due", due, MOST_REQUESTS, "the most that one look can hold")
            count(f"{arm}_n", n, due, "all that are due")
            count(f"{arm}_units", getattr(self, f"{arm}_units"), n, "all that have a value")
        for name in ("champion_y", "challenger_y", "champion_x", "challenger_x", "yy", "xy", "xx"):
            finite(name, getattr(self, name))
