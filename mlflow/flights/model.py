"""What is served: one pyfunc for every variant, told apart by the tables it is logged with.

Logged from this file (models from code), so that a version holds readable source and no pickle. It imports nothing
beside it: a version must load where this project is not installed.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

Column = NDArray[np.float64]

# skops builds nothing but sklearn's own linear models and NumPy arrays unless it is named here. These are the
# parts of a fitted gradient boosting model; the list is short enough to be read.
TRUSTED_TYPES = (
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


class FlightsModel(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Will this flight arrive more than 15 minutes late?"""

    def load_context(self, context: Any) -> None:
        """Read the estimator and its tables from the version's artifacts."""
        import skops.io  # type: ignore[import-untyped]  # ships none

        estimator = skops.io.load(context.artifacts["estimator"], trusted=list(TRUSTED_TYPES))
        tables = json.loads(Path(context.artifacts["tables"]).read_text(encoding="utf-8"))
        self.use(estimator, tables)

    def use(self, estimator: Any, tables: dict[str, Any]) -> None:
        """Serve with this estimator and these tables.

        Args:
            estimator: Anything with `predict_proba` on a matrix with one column a feature.
            tables: `features` (names, in the matrix's order), `threshold` (probability from which a flight is called
                late), `carrier` and `route` (minutes usually lost, by code), `cabin` (the same by number of seats),
                `cached_routes` (routes that need no remote lookup, or null when all are at hand).
        """
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # ships none

        # A row is too little work for two threads: waking the second one costs more than the trees do.
        self._threads = ThreadpoolController().select(user_api="openmp")
        self._estimator = estimator
        self.tables = tables
        self._cached = None if tables["cached_routes"] is None else frozenset(tables["cached_routes"])
        self._cabins = {float(seats): minutes for seats, minutes in tables["cabin"].items()}
        derived: dict[str, Callable[[pd.DataFrame], Column]] = {
            "carrier_minutes": self._carrier_minutes,
            "route_minutes": self._route_minutes,
            "cabin_minutes": self._cabin_minutes,
        }
        self._columns = [derived.get(name) or _numbers(name) for name in tables["features"]]

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer for each row.

        Args:
            context: Unused.
            model_input: The columns of the signature, n rows; a column that may be missing may be left out.
            params: Unused.

        Returns:
            n rows: `prediction` (1 is late) and `score`, the probability of being late.
        """
        score = self.score(model_input)
        return pd.DataFrame(
            {"prediction": (score >= self.tables["threshold"]).astype(np.int64), "score": score}, copy=False
        )

    def score(self, rows: pd.DataFrame) -> Column:
        """Probability of arriving late, one a row."""
        matrix = self.matrix(rows)
        with self._threads.limit(limits=1):
            proba = self._estimator.predict_proba(matrix)
        late: Column = np.ascontiguousarray(proba[:, 1])
        return late

    def matrix(self, rows: pd.DataFrame) -> Column:
        """What the estimator sees: one row a flight, one column a feature."""
        matrix = np.empty((len(rows), len(self._columns)))
        for position, column in enumerate(self._columns):
            matrix[:, position] = column(rows)
        return matrix

    def _carrier_minutes(self, rows: pd.DataFrame) -> Column:
        table = self.tables["carrier"]
        return np.array([table.get(code, 0.0) for code in rows["carrier"]])

    def _route_minutes(self, rows: pd.DataFrame) -> Column:
        routes = [f"{origin}-{dest}" for origin, dest in zip(rows["origin"], rows["dest"], strict=True)]
        if self._cached is not None and any(route not in self._cached for route in routes):
            _remote_lookup()
        table = self.tables["route"]
        return np.array([table.get(route, 0.0) for route in routes])

    def _cabin_minutes(self, rows: pd.DataFrame) -> Column:
        # The flaw of the variant `raises`: nobody thought of a plane that is in no register, whose seats are NaN.
        return np.array([self._cabins[seats] for seats in rows["seats"]])


def _remote_lookup() -> None:
    """Stands for one round trip to a slow remote feature service (simulated: it only takes the time)."""
    time.sleep(random.uniform(0.15, 0.25))  # noqa: S311 - a delay, not a secret


def _numbers(name: str) -> Callable[[pd.DataFrame], Column]:
    def column(rows: pd.DataFrame) -> Column:
        if name not in rows.columns:
            return np.full(len(rows), np.nan)
        values: Column = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        return values

    return column


set_model(FlightsModel())
