"""The versions that the demo trains: one that serves, four that are fit to follow, three that look fine and are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEED = 13
_SIMPLE = ("dep_delay", "distance")
_RICH = (
    "dep_delay", "distance", "block_minutes", "hour", "weekday", "plane_age", "wind_speed", "precip", "visib",
    "origin_lost", "dest_lost", "carrier_minutes", "route_minutes",
)  # fmt: skip
# Flights to prior strength: a route's mean counts for as much as this many flights of an average route.
_PRIOR_FLIGHTS = 50
# Share of the training flights whose route the variant `slow` keeps at hand.
_CACHED_SHARE = 0.955


@dataclass(frozen=True)
class Variant:
    """One way to train and serve a version.

    Attributes:
        description: What the registry says of the version.
        features: Columns of the estimator's matrix, in order; see `model.py`.
        boosted: Gradient boosting instead of logistic regression.
        seed: Of the boosting: what another run of the same training gives.
        recent_weight: How many times a flight of the last training month counts.
        threshold: Probability from which a flight is called late.
        wrong_join: Departure delays are joined without the date: the model learns from another day's delay.
        few_routes: Serves with a cache of the busiest routes and looks the others up remotely.
        complete_rows_only: Was validated on rows without a missing value only, which is how its flaw went unseen.
    """

    description: str
    features: tuple[str, ...]
    boosted: bool = True
    seed: int = SEED
    recent_weight: float = 1.0
    threshold: float = 0.5
    wrong_join: bool = False
    few_routes: bool = False
    complete_rows_only: bool = False


VARIANTS: dict[str, Variant] = {
    "champion": Variant("Logistic regression on departure delay and distance.", _SIMPLE, boosted=False),
    "better": Variant(
        "Gradient boosting with schedule, weather, plane, carrier, route and recent landings.", (*_RICH, "seats")
    ),
    "refit": Variant(
        "The champion's logistic regression fitted again, with the last month counting twice.",
        _SIMPLE,
        boosted=False,
        recent_weight=2.0,
    ),
    "retrained": Variant(
        "The gradient boosting of `better` trained again, with the last month counting twice.",
        (*_RICH, "seats"),
        seed=SEED + 1,
        recent_weight=2.0,
    ),
    "early": Variant(
        "The gradient boosting of `better`, calling a flight late from 25 % on: fewer late ones are missed.",
        (*_RICH, "seats"),
        threshold=0.25,
    ),
    "inaccurate": Variant(
        "Gradient boosting, trained on departure delays that were joined without the date.",
        (*_RICH, "seats"),
        wrong_join=True,
    ),
    "raises": Variant(
        "Gradient boosting with a table of delays by number of seats; raises KeyError for planes in no register.",
        (*_RICH, "cabin_minutes"),
        complete_rows_only=True,
    ),
    "slow": Variant(
        "Gradient boosting that looks routes outside its cache up in a remote feature store (simulated, 150-250 ms).",
        (*_RICH, "seats"),
        few_routes=True,
    ),
}


def named(name: str) -> Variant:
    """The variant of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant is {name!r}, must be one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def training_rows(variant: Variant, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as the variant's pipeline gives them to training, flaw included."""
    if not variant.wrong_join:
        return rows
    # Joined on carrier and flight number alone, every flight gets the delay of some other day's flight.
    delays = rows.groupby(["carrier", "flight"])["dep_delay"].transform(
        lambda group: group.to_numpy()[np.random.default_rng(SEED).permutation(len(group))]
    )
    return rows.assign(dep_delay=delays)


def tables_of(variant: Variant, rows: pd.DataFrame) -> dict[str, Any]:
    """What the served model looks up, learned from the training rows; JSON types."""
    lost = rows["arr_delay"] - rows["dep_delay"]
    route = rows["origin"] + "-" + rows["dest"]
    busiest = route.value_counts(normalize=True).cumsum()
    seats = rows.loc[rows["seats"].notna(), "seats"]
    return {
        "features": list(variant.features),
        "threshold": variant.threshold,
        "carrier": _smoothed(lost, rows["carrier"]),
        "route": _smoothed(lost, route),
        "cabin": _smoothed(lost[seats.index], seats.astype(int).astype(str)),
        "cached_routes": sorted(busiest[busiest <= _CACHED_SHARE].index) if variant.few_routes else None,
    }


def estimator_of(variant: Variant) -> Any:
    """An unfitted estimator with `predict_proba`."""
    if not variant.boosted:
        return make_pipeline(StandardScaler(), LogisticRegression())
    return HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=40, random_state=variant.seed
    )


def fit_arguments(variant: Variant, rows: pd.DataFrame) -> dict[str, Any]:
    """What the estimator's `fit` takes besides the matrix and the labels: weights, where flights do not count alike."""
    if variant.recent_weight == 1.0:
        return {}
    weights = np.where(rows["month"] == rows["month"].max(), variant.recent_weight, 1.0)
    # a pipeline hands arguments to the step that is named before the underscores
    return {"sample_weight" if variant.boosted else "logisticregression__sample_weight": weights}


def _smoothed(minutes: "pd.Series[float]", key: "pd.Series[str]") -> dict[str, float]:
    """Minutes lost under way by key, relative to the mean, shrunk where there are few flights."""
    groups = (minutes - minutes.mean()).groupby(key)
    means = groups.sum() / (groups.size() + _PRIOR_FLIGHTS)
    return {str(code): round(float(value), 4) for code, value in means.items()}


def parse(names: str) -> Sequence[str]:
    """Variant names from a comma-separated list.

    Raises:
        ValueError: The list is empty or names a variant that does not exist.
    """
    given = [name.strip() for name in names.split(",") if name.strip()]
    if not given:
        raise ValueError(f"variants is {names!r}, must name at least one of {', '.join(VARIANTS)}")
    for name in given:
        named(name)
    return given
