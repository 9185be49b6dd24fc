"""Known drift is found and known absence is not, on real flights, from the training profile and the log to the list."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from model_rollouts.adapters.delta_drift import DeltaDriftLog, bins_of
from model_rollouts.adapters.delta_schema import SCHEMAS, table_path
from model_rollouts.core.drift_finding import DriftFinding, Sides, find_drift
from model_rollouts.core.drift_plan import Comparison, DriftPlan
from model_rollouts.core.profile import Profile
from model_rollouts.training_profile import profile_frame

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = (START, START + timedelta(days=1))

#: January against July: the month itself, the weather, and what it does to delays and to the minutes that schedules
#: and flights take. Who flies from where to where, when and in what plane stays the same.
DRIFTED = {"month", "wind_speed", "visib", "precip", "dep_delay", "block_minutes", "origin_lost", "dest_lost"}


def write_log(root: Path, arms: dict[str, Any], inputs: list[str]) -> DeltaDriftLog:
    """The flights of each arm as evidence of one stage."""
    for arm, flights in arms.items():
        count = len(flights)
        own = {"day": START.date(), "ts": START, "model": "flights", "version": "1" if arm == "champion" else "2",
            "arm": arm, "cohort": arm, "served": True, "rollout_id": "ro", "stage": 0, "status": "ok",
            "latency_ms": 1.0, "gateway_id": "g1", "traffic_revision": 1}  # fmt: skip
        columns = {
            field.name: pa.array([own.get(field.name)] * count, field.type) for field in SCHEMAS["predictions"]
        } | {"request_id": pa.array([f"{arm}-{at}" for at in range(count)])}
        for name in inputs:
            text = flights[name].dtype == object
            values = flights[name] if text else flights[name].astype(float)
            columns[f"f_{name}"] = pa.array(values.tolist(), pa.string() if text else pa.float64(), from_pandas=True)
        path = table_path(root, "flights", "predictions")
        path.mkdir(parents=True, exist_ok=True)
        write_deltalake(str(path), pa.table(columns), mode="append", partition_by=["day"])
    return DeltaDriftLog(root)


def found(log: DeltaDriftLog, training: Profile) -> DriftFinding:
    columns = {name: kind for name, kind in log.columns("flights", *WINDOW).items() if name.startswith("f_")}
    samples = [
        log.stage_sample("flights", "ro", 0, arm, WINDOW, columns, 5_000, 0) for arm in ("champion", "challenger")
    ]
    arms = log.stage_profiles("flights", "ro", 0, WINDOW, columns, bins_of(columns, samples, training))
    reference = {f"f_{name}": column for name, column in training.columns.items()}
    sides = {Comparison.TRAINING: Sides(reference, arms["challenger"], list(columns), "January")}
    if arms["champion"]["f_month"].rows:
        sides[Comparison.CHAMPION] = Sides(arms["champion"], arms["challenger"], list(columns), "beside it")
    return find_drift(DriftPlan(), sides)


def drifted(finding: DriftFinding, kind: Comparison) -> set[str]:
    columns = finding.comparisons[kind].columns
    assert len(columns) == 16
    assert [each.problem for each in columns if each.problem] == []
    return {each.column.removeprefix("f_") for each in columns if each.drifted}


@pytest.fixture
def january(flights: Any) -> Any:
    return flights[flights["month"] == 1]


def test_july_is_not_january_column_by_column(
    tmp_path: Path, project: SimpleNamespace, flights: Any, january: Any
) -> None:
    inputs = list(project.flights_data.INPUTS)
    log = write_log(tmp_path, {"challenger": flights[flights["month"] == 7]}, inputs)
    finding = found(log, profile_frame(january[inputs]))
    assert drifted(finding, Comparison.TRAINING) == DRIFTED
    assert {each.rows for each in finding.comparisons[Comparison.TRAINING].columns} == {(len(january), 28_293)}


@pytest.mark.parametrize("seed", range(3))
def test_a_random_half_of_january_is_january(tmp_path: Path, project: SimpleNamespace, january: Any, seed: int) -> None:
    inputs = list(project.flights_data.INPUTS)
    half = np.random.default_rng(seed).random(len(january)) < 0.5
    log = write_log(tmp_path, {"champion": january[half], "challenger": january[~half]}, inputs)
    finding = found(log, profile_frame(january[half][inputs]))
    assert drifted(finding, Comparison.TRAINING) == set()
    assert drifted(finding, Comparison.CHAMPION) == set()
