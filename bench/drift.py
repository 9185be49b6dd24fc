"""Drift scores over all rows of a log beside Evidently's DataDriftPreset on the same data, with seeded shifts.

    python -m bench.drift --rows 1000000 [--page] [--out drift.json]

Ours reads a Delta log with DuckDB; Evidently is given frames that are in memory already.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from model_rollouts.adapters.delta_drift import DeltaDriftLog, bins_of
from model_rollouts.adapters.delta_schema import SCHEMAS, table_path
from model_rollouts.core.drift_finding import Sides, find_drift
from model_rollouts.core.drift_plan import Comparison, DriftPlan

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = (START, START + timedelta(days=1))
NUMBERS, TEXTS, SEED = 7, 3, 20130101
SHIFTED = ("f_n0", "f_n1", "f_n2", "f_t0")  # in place, in width, in shape; in shares
_CHUNK = 1_000_000
_MODEL, _ROLLOUT = "bench", "ro"
_CARRIERS = np.array([f"carrier {at}" for at in range(12)])


def drift_rows(rows: int = 1_000_000, repeats: int = 3) -> list[dict[str, Any]]:
    """Seconds of both over as many rows a side, and the columns that each calls drifted.

    Args:
        rows: Of the reference, and of the current side.
        repeats: How often ours is timed; the median counts. Evidently is timed once.
    """
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        log = write_log(Path(folder), rows)
        ours = [_timed(lambda: scores(log)) for _ in range(repeats)]
    reference, current = (_frame(arm, rows) for arm in ("champion", "challenger"))
    _evidently(reference[:1_000], current[:1_000])  # its import is not counted
    theirs, their_seconds, their_cpu = _timed(lambda: _evidently(reference, current))
    seconds, cpu = (statistics.median(each[at] for each in ours) for at in (1, 2))
    return [
        {
            "work": "drift scores",
            "rows": rows,
            "columns": NUMBERS + TEXTS,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "evidently_seconds": their_seconds,
            "evidently_cpu_seconds": their_cpu,
            "ratio": their_seconds / seconds,
            "cpu_ratio": their_cpu / cpu,
            "shifted": sorted(SHIFTED),
            "drifted": ours[0][0],
            "evidently_drifted": theirs,
        }
    ]


def page_rows(rows: int) -> list[dict[str, Any]]:
    """Seconds of a stage's whole drift report, with Evidently's page, over as many rows an arm."""
    from model_rollouts.adapters.drift_report import StageDrift, drift_of_stage

    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        log = write_log(Path(folder, "log"), rows)
        of = StageDrift(_MODEL, _ROLLOUT, 0, "1", WINDOW, (START - timedelta(days=1), START))
        drift_of_stage(write_log(Path(folder, "small"), 1_000), of, None, DriftPlan(), Path(folder, "warm"))
        report, seconds, cpu = _timed(lambda: drift_of_stage(log, of, None, DriftPlan(), Path(folder, "out")))
        size = report.files[1].stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [{"work": "drift page", "rows": rows, "seconds": seconds, "cpu_seconds": cpu, "bytes": size, "peak": peak}]


def scores(log: DeltaDriftLog) -> list[str]:
    """The columns that drifted, by what a stage's report does without its picture."""
    columns = {name: kind for name, kind in log.columns(_MODEL, *WINDOW).items() if name.startswith("f_")}
    sample = log.stage_sample(_MODEL, _ROLLOUT, 0, "champion", WINDOW, columns, 5_000, SEED)
    arms = log.stage_profiles(_MODEL, _ROLLOUT, 0, WINDOW, columns, bins_of(columns, [sample], None))
    sides = Sides(arms["champion"], arms["challenger"], list(columns), "the champion")
    found = find_drift(DriftPlan(), {Comparison.CHAMPION: sides}).comparisons[Comparison.CHAMPION]
    return sorted(each.column for each in found.columns if each.drifted)


def write_log(root: Path, rows: int) -> DeltaDriftLog:
    """A log of as many rows an arm."""
    path = table_path(root, _MODEL, "predictions")
    path.mkdir(parents=True)
    for arm in ("champion", "challenger"):
        for start, size in _chunks(rows):
            columns = _columns(arm, start, size)
            fixed = {"day": START.date(), "model": _MODEL, "version": "1" if arm == "champion" else "2", "arm": arm,
                "cohort": arm, "served": True, "rollout_id": _ROLLOUT, "stage": 0, "status": "ok", "latency_ms": 3.5,
                "prediction": "1", "score": 0.5, "gateway_id": "g1", "traffic_revision": 1}  # fmt: skip
            table = {
                field.name: pa.repeat(pa.scalar(fixed.get(field.name), field.type), size)
                for field in SCHEMAS["predictions"]
            }
            table["request_id"] = pa.array(np.char.add(f"{arm}-", np.arange(start, start + size).astype(str)))
            spread = np.arange(start, start + size) * (86_400_000_000 // rows)
            at = np.datetime64(START.replace(tzinfo=None), "us") + spread
            table["ts"] = pa.array(at, pa.timestamp("us")).cast(SCHEMAS["predictions"].field("ts").type)
            write_deltalake(str(path), pa.table(table | columns), mode="append", partition_by=["day"])
    return DeltaDriftLog(root)


def _columns(arm: str, start: int, size: int) -> dict[str, Any]:
    """The inputs of some rows; the challenger's are shifted in `SHIFTED`."""
    moved = arm == "challenger"
    rng = np.random.default_rng((SEED, int(moved), start))
    made: dict[str, Any] = {f"f_n{at}": rng.normal(0, 1 + at, size) for at in range(NUMBERS - 2)}
    made["f_n5"] = rng.poisson(3, size).astype(float)
    made["f_n6"] = np.where(rng.random(size) < 0.8, 0.0, rng.exponential(5, size))
    shares = np.full(12, 1 / 12)
    if moved:
        made["f_n0"] += 0.5
        made["f_n1"] *= 1.6
        made["f_n2"] = rng.exponential(3, size) - 3
        shares = np.arange(1, 13) / 78
    made["f_t0"] = rng.choice(_CARRIERS, size, p=shares)
    made |= {f"f_t{at}": rng.choice(_CARRIERS, size) for at in range(1, TEXTS)}
    return made


def _frame(arm: str, rows: int) -> Any:
    import pandas as pd

    return pd.concat([pd.DataFrame(_columns(arm, start, size)) for start, size in _chunks(rows)], ignore_index=True)


def _chunks(rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, _CHUNK):
        yield start, min(_CHUNK, rows - start)


def _evidently(reference: Any, current: Any) -> list[str]:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name in reference.columns if name.startswith("f_n")]
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in reference.columns if name not in numbers]
    )
    before, now = (Dataset.from_pandas(frame, data_definition=definition) for frame in (reference, current))
    metrics = Report([DataDriftPreset()]).run(now, before).dict()["metrics"]
    found = []
    for metric in metrics:
        config = metric["config"]
        if config["type"].endswith("ValueDrift"):
            score, threshold = float(metric["value"]), float(config["threshold"])
            if score < threshold if "p_value" in config["method"] else score >= threshold:
                found.append(config["column"])
    return sorted(found)


def _timed(work: Any) -> tuple[Any, float, float]:
    """What it gave, its seconds on the wall and those of the processor."""
    began, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - began, time.process_time() - cpu


def _scratch() -> Path:
    folder = Path(".local")
    folder.mkdir(exist_ok=True)
    if shutil.disk_usage(folder).free < 8 << 30:
        raise OSError(f"{folder.absolute()} has less than 8 GiB free, which the log of the benchmark may need")
    return folder.absolute()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="a side")
    parser.add_argument("--page", action="store_true", help="time the stage's report with its page instead")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args(arguments)
    text = json.dumps(page_rows(given.rows) if given.page else drift_rows(given.rows), indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
