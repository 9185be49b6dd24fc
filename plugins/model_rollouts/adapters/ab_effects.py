"""Effects between the arms of an A/B stage, worked out by tea-tasting from sums over units.

Ratios use the delta method (Deng, Knoblich and Lu, Applying the delta method in metric analytics, 2018), intervals and
p-values are Welch's, and what is known of a unit from before takes noise out (CUPED; Deng, Xu, Kohavi and Walker,
Improving the sensitivity of online controlled experiments by utilizing pre-experiment data, 2013). The sums come from
DuckDB, so nothing of tea-tasting's own reading of data is used.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.report_facts import ArmUnits, Moments

if TYPE_CHECKING:
    from tea_tasting.metrics import MeanResult  # type: ignore[import-untyped]

CONFIDENCE = 0.95
LEAST_UNITS = 30  # in each arm: of fewer, Welch's interval for skewed values is a guess
_ROUNDING = 1e-12  # a variance below this part of the squared mean is what rounding left of none


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What is compared: the sum of one column over units, per unit or per the sum of another.

    Attributes:
        name: As in the results.
        among: Only units that have at least one of these count.
        numerator: The column.
        denominator: The other column; None: per unit.
        prior_numerator: The numerator before the rollout; None: there is none.
        prior_denominator: The denominator before the rollout.
        better: 1 where more is better, -1 where less is, 0 where it is neither.
    """

    name: str
    among: str
    numerator: str
    denominator: str | None
    prior_numerator: str | None = None
    prior_denominator: str | None = None
    better: int = 1


PRIMARY = MetricSpec("value_per_request", "valued", "value", "valued", "prior_value", "prior_valued")
METRICS = (
    PRIMARY,
    MetricSpec("value_per_request_unadjusted", "valued", "value", "valued"),
    MetricSpec("value_per_unit", "valued", "value", None, "prior_value"),
    MetricSpec("error_rate", "requests", "errors", "requests", better=-1),
    MetricSpec("accuracy", "labelled", "correct", "labelled"),
    MetricSpec("value_coverage", "due", "valued", "due", better=0),
)


@dataclass(frozen=True, slots=True)
class Effect:
    """Challenger against champion in one metric.

    Attributes:
        metric: Name of the metric.
        champion_units: Units it rests on.
        challenger_units: The same of the challenger.
        champion: The champion's mean or ratio; None without units. Adjusted for what was known before, where it says.
        challenger: The same of the challenger.
        difference: Challenger less champion.
        low: Lower end of its 95 % interval; None with a `problem`.
        high: Upper end.
        relative: The difference over the champion's; None unless both arms' are above zero.
        relative_low: Lower end of its 95 % interval.
        relative_high: Upper end.
        p_value: Two-sided; None with a `problem`.
        adjusted: Whether what was known of the units before the rollout was used.
        problem: Why there is no interval, or "".
    """

    metric: str
    champion_units: int
    challenger_units: int
    champion: float | None = None
    challenger: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    p_value: float | None = None
    adjusted: bool = False
    problem: str = ""

    @property
    def direction(self) -> int:
        """1 where the challenger's is proven larger, -1 where it is proven smaller, else 0.

        Where nothing varies in either arm there is no interval to prove by, and none is needed.
        """
        if self.low is not None and self.high is not None:
            return (self.low > 0) - (self.high < 0)
        if self.problem == _FLAT and self.difference is not None and self.champion is not None:
            noise = _ROUNDING * abs(self.champion)
            return (self.difference > noise) - (self.difference < -noise)
        return 0

    @property
    def told(self) -> bool:
        """Whether `direction` rests on anything."""
        return not self.problem or (self.problem == _FLAT and self.difference is not None)


_FLAT = "it does not vary in either arm: there is no interval"


def effects(units: ArmUnits) -> dict[str, Effect]:
    """Every metric's effect, by name. Nothing is raised for data that tell nothing: the effect has a `problem`."""
    return {spec.name: _effect(spec, units.moments.get(spec.among, {})) for spec in METRICS}


def sample_ratio_p_value(champion_units: int, challenger_units: int, dealt_percent: float) -> float | None:
    """How likely the numbers of units are to be this far from the plan, if units are dealt by it.

    Args:
        champion_units: Units in the champion's arm alone.
        challenger_units: Units in the challenger's.
        dealt_percent: The challenger's planned part of them, in percent.

    Returns:
        None where nothing is dealt, or nobody was there.
    """
    if not (0 < dealt_percent < 100 and champion_units + challenger_units):  # noqa: PLR2004 - percent
        return None
    from tea_tasting.aggr import Aggregates  # type: ignore[import-untyped]
    from tea_tasting.metrics import SampleRatio

    counts: dict[object, Any] = {
        "champion": Aggregates(count_=champion_units),
        "challenger": Aggregates(count_=challenger_units),
    }
    metric = SampleRatio(dealt_percent / (100 - dealt_percent), correction=True)
    return float(metric.analyze(counts, "champion", "challenger").pvalue)


def _effect(spec: MetricSpec, arms: Mapping[str, Moments]) -> Effect:
    champion, challenger = arms.get("champion"), arms.get("challenger")
    units = (champion.units if champion else 0, challenger.units if challenger else 0)
    ours, theirs = _mean(spec, champion), _mean(spec, challenger)
    known = Effect(spec.name, *units, champion=ours, challenger=theirs)
    if ours is None or theirs is None or champion is None or challenger is None:
        return _problem(known, "an arm has no unit with any")
    if min(units) < LEAST_UNITS:
        return _problem(known, f"units are {units[0]:,} and {units[1]:,}, must be at least {LEAST_UNITS} in each arm")
    if _flat(spec, champion) and _flat(spec, challenger):
        return _problem(known, _FLAT)
    result = _analyze(spec, champion, challenger, adjusted=True) if _can_adjust(spec, champion, challenger) else None
    adjusted = result is not None
    result = result or _analyze(spec, champion, challenger, adjusted=False)
    if result is None:
        return _problem(known, "no finite interval comes out of it")
    positive = result.control > 0 and result.treatment > 0
    relative = (result.rel_effect_size, result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper)
    shown = [float(each) for each in relative] if positive and all(map(math.isfinite, relative)) else [None] * 3
    return Effect(
        spec.name,
        *units,
        champion=float(result.control),
        challenger=float(result.treatment),
        difference=float(result.effect_size),
        low=float(result.effect_size_ci_lower),
        high=float(result.effect_size_ci_upper),
        relative=shown[0],
        relative_low=shown[1],
        relative_high=shown[2],
        p_value=float(result.pvalue),
        adjusted=adjusted,
    )


def _problem(known: Effect, problem: str) -> Effect:
    difference = None
    if known.champion is not None and known.challenger is not None:
        difference = known.challenger - known.champion
    return Effect(
        known.metric,
        known.champion_units,
        known.challenger_units,
        known.champion,
        known.challenger,
        difference,
        problem=problem,
    )


def _mean(spec: MetricSpec, arm: Moments | None) -> float | None:
    if arm is None:
        return None
    below = 1.0 if spec.denominator is None else arm.means[spec.denominator]
    mean = arm.means[spec.numerator] / below if below else math.nan
    return mean if math.isfinite(mean) else None


def _flat(spec: MetricSpec, arm: Moments) -> bool:
    mean = _mean(spec, arm) or 0.0
    return not _aggregates(arm).ratio_var(spec.numerator, spec.denominator) > _ROUNDING * mean * mean


def _can_adjust(spec: MetricSpec, champion: Moments, challenger: Moments) -> bool:
    """Whether enough is known from before, and it differs from unit to unit."""
    if spec.prior_numerator is None or min(champion.with_prior, challenger.with_prior) < LEAST_UNITS:
        return False
    together = _aggregates(champion) + _aggregates(challenger)
    below = together.mean(spec.prior_denominator)
    mean = together.mean(spec.prior_numerator) / below if below else math.nan
    return bool(together.ratio_var(spec.prior_numerator, spec.prior_denominator) > _ROUNDING * mean * mean)


def _analyze(spec: MetricSpec, champion: Moments, challenger: Moments, *, adjusted: bool) -> "MeanResult | None":
    """tea-tasting's result; None where the interval is not finite."""
    from tea_tasting.metrics import RatioOfMeans

    prior = (spec.prior_numerator, spec.prior_denominator) if adjusted else (None, None)
    metric = RatioOfMeans(
        spec.numerator,
        spec.denominator,
        *prior,
        alternative="two-sided",
        confidence_level=CONFIDENCE,
        equal_var=False,
        use_t=True,
    )
    try:
        result = metric.analyze_aggregates(_aggregates(champion), _aggregates(challenger))
    except (ArithmeticError, ValueError):  # a mean of almost nothing, a variance that rounding made negative
        return None
    ends = (result.effect_size, result.effect_size_ci_lower, result.effect_size_ci_upper, result.pvalue)
    return result if all(map(math.isfinite, ends)) else None


def _aggregates(arm: Moments) -> Any:
    from tea_tasting.aggr import Aggregates

    variances = {one: value for (one, other), value in arm.covariances.items() if one == other}
    covariances = {pair: value for pair, value in arm.covariances.items() if pair[0] != pair[1]}
    return Aggregates(count_=arm.units, mean_=dict(arm.means), var_=variances, cov_=covariances)
