"""What the flights that have just landed say about the sky: minutes lost under way lately, by airport."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

WINDOW_MINUTES = 180
# From wheels down to a number in a table: taxiing in, parking, reporting. Generous, so that nothing is known early.
_REPORT_MINUTES = 40


def recently_lost(flights: pd.DataFrame, airport: str) -> NDArray[np.float64]:
    """Mean minutes lost under way by the flights of the same airport that were reported shortly before push-back.

    Only flights that had landed by then count, so the value is known when the question is asked.

    Args:
        flights: Needs `time_hour` (UTC hour of the scheduled departure), `minute`, `dep_delay`, `arr_delay`,
            `air_time` (all minutes) and the airport's column.
        airport: `origin` or `dest`.

    Returns:
        One value a flight in the given order; NaN where no flight was reported within the window.
    """
    hours = pd.to_datetime(flights["time_hour"], utc=True).astype("int64") // 60_000_000_000
    pushed = (hours + flights["minute"] + flights["dep_delay"]).to_numpy(dtype=np.float64)
    known = pushed + flights["air_time"].to_numpy(dtype=np.float64) + _REPORT_MINUTES
    lost = (flights["arr_delay"] - flights["dep_delay"]).to_numpy(dtype=np.float64)
    result = np.full(len(flights), np.nan)
    groups: dict[Any, NDArray[np.intp]] = flights.groupby(airport).indices
    for rows in groups.values():
        order = rows[np.argsort(known[rows], kind="stable")]
        times = known[order]
        sums = np.concatenate([[0.0], np.cumsum(lost[order])])
        last = np.searchsorted(times, pushed[rows], "left")
        first = np.searchsorted(times, pushed[rows] - WINDOW_MINUTES, "left")
        counts = last - first
        some = counts > 0
        result[rows[some]] = (sums[last] - sums[first])[some] / counts[some]
    return result
