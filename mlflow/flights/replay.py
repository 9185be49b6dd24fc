"""Write the traffic months as requests that are ready to be sent, one a line.

A line is unit, true label and request body (MLflow's dataframe_split), separated by tabs, in order of departure. JSON
has no raw tab, so the three parts need no quoting.
"""

import argparse
import os
from pathlib import Path

import flights_data
import numpy as np
import orjson


def write(out: Path) -> int:
    """Write the file in one step, so that a reader never finds half of it.

    Returns:
        How many requests it holds.
    """
    flights = flights_data.load()
    traffic = flights[flights["month"].isin(flights_data.TRAFFIC_MONTHS)]
    columns = list(flights_data.INPUTS)
    # Missing values are null on the wire: JSON has no NaN.
    rows = traffic[columns].astype(object).replace(np.nan, None).itertuples(index=False, name=None)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        for unit, label, row in zip(traffic["tailnum"], traffic["late"], rows, strict=True):
            body = orjson.dumps({"dataframe_split": {"columns": columns, "data": [row]}})
            file.write(b"%s\t%d\t%s\n" % (unit.encode(), label, body))
    unfinished.replace(out)
    return len(traffic)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(f"{write(arguments.out):,} requests in {arguments.out}")  # noqa: T201 - this is its answer


if __name__ == "__main__":
    main()
