"""What `bench/compare.py` measures, each in a process of its own: its seconds, processor time and peak memory as JSON.

python -m bench.compare_steps <step> <log folder> <rows>
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.compare_log import FEATURES, MATURITY, MODEL, ROLLOUT, ROWS_A_DAY, STAGE, START
from model_rollouts.adapters.delta_files import connect, current_files
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.delta_schema import TableName, table_path
from model_rollouts.adapters.unit_carry import UnitCarry
from model_rollouts.ports import StageWindow, Window

LOOK = timedelta(hours=1)
LIVE_LOOK = timedelta(minutes=1)
_PREDICTIONS = ["request_id", "ts", "rollout_id", "stage", "arm", "cohort", "served", "unit_id", "status", "latency_ms"]
_PREDICTIONS += ["prediction", "score", *FEATURES]
_OUTCOMES = ["request_id", "ts", "label", "value"]


def _looks(rows: int, length: timedelta) -> list[StageWindow]:
    span = timedelta(days=rows / ROWS_A_DAY)
    count = max(1, span // length)
    return [StageWindow(STAGE, Window(at, START + at * length, START + (at + 1) * length)) for at in range(count)]


def bare(root: Path, rows: int) -> None:
    """Count, least and greatest of every column that the others read, and nothing else."""
    end = START + timedelta(days=rows / ROWS_A_DAY + 1)
    tables: list[tuple[TableName, list[str]]] = [("predictions", _PREDICTIONS), ("outcomes", _OUTCOMES)]
    for table, columns in tables:
        files = current_files(
            table_path(root, MODEL, "predictions" if table == "predictions" else "outcomes"), START, end
        )
        asked = ", ".join(f"count({name}), min({name}), max({name})" for name in columns)
        sql = f"SELECT {asked} FROM read_parquet($files, hive_partitioning = false)"  # noqa: S608 - our own names
        connect().execute(sql, {"files": files}).fetchall()


def evidence(root: Path, rows: int) -> None:
    """All parts of all looks, counted at once: what a verdict that is computed again reads."""
    log, looks = DeltaPredictionLog(root), _looks(rows, LOOK)
    windows = [look.window for look in looks]
    with log.at_once(MODEL, ROLLOUT, looks, MATURITY) as once:
        found = once.request_counts(MODEL, ROLLOUT, STAGE, windows)
        if not sum(arm.requests for pair in found for arm in pair):
            raise ValueError(f"{root} has no request of the rollout; make the log again")
        once.unit_counts(MODEL, ROLLOUT, looks, 0)
        once.label_evidence(MODEL, ROLLOUT, looks, 0, MATURITY)
        once.value_sums(MODEL, ROLLOUT, looks, 0, MATURITY, (START - timedelta(days=30), START))


def comparison(root: Path, rows: int) -> None:
    """The stage's comparison with its slices, as JSON, table and page."""
    from model_rollouts.adapters.comparison import write_comparison
    from model_rollouts.core.decision import decide
    from model_rollouts.core.evidence import Look, RequestCounts
    from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
    from model_rollouts.core.rollout import Rollout, State

    looks = _looks(rows, LIVE_LOOK)
    plan = plan_canary(CanaryParameters(steps=(10, 50, 100), look_seconds=LIVE_LOOK.total_seconds()))
    plan = replace(plan, label_maturity_seconds=MATURITY.total_seconds())
    rollout = Rollout(
        id=ROLLOUT,
        model=MODEL,
        champion="3",
        challenger="4",
        plan=plan,
        state=State.BAKING,
        stage=STAGE,
        salt="s",
        revision=2,
        created_at=START,
        created_by="bench",
        opened_at=START,
        judged_from=START,
    )
    last = looks[-1].window
    known = [Look(STAGE, last.index, RequestCounts(), RequestCounts())]
    decision = decide(plan, STAGE, known, (last.end - START).total_seconds())
    with tempfile.TemporaryDirectory() as out:
        made = write_comparison(rollout, decision, known, DeltaPredictionLog(root), Path(out))
        told = json.loads(made.files[0].read_text())["all_rows"]
        size = made.files[1].stat().st_size
    if not told["computed"]:
        raise ValueError(f"nothing was compared: {told['reason']}")
    worst = told["slices"]["worst"][0]
    print(f"worst slice: {worst['dimension']} {worst['slice']}; page of {size:,} bytes", file=sys.stderr)


def look(root: Path, rows: int, values: bool = False) -> Callable[[], None]:
    """A new look of the live watch, after two before it: everything that it reads."""
    log, looks = DeltaPredictionLog(root, UnitCarry(root / "scratch", "bench")), _looks(rows, LIVE_LOOK)

    def of(closed: int) -> None:
        now = looks[closed - 1].window.end
        mature = [look for look in looks if look.window.end + MATURITY <= now]
        log.request_counts(MODEL, ROLLOUT, STAGE, [looks[closed - 1].window])
        log.unit_counts(MODEL, ROLLOUT, looks[:closed], closed - 1)
        if mature:
            log.label_evidence(MODEL, ROLLOUT, mature, len(mature) - 1, MATURITY)
            if values:
                log.value_sums(MODEL, ROLLOUT, mature, len(mature) - 1, MATURITY, (START - timedelta(days=30), START))

    for closed, told in ((len(looks) - 2, "nothing carried"), (len(looks) - 1, "no hashes of outcomes")):
        began = time.perf_counter()
        of(closed)
        print(f"a look before, with {told}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return lambda: of(len(looks))


def look_with_values(root: Path, rows: int) -> Callable[[], None]:
    """The same for a plan with a gate on business value."""
    return look(root, rows, values=True)


def report(root: Path, rows: int) -> None:
    """The stage's drift report with Evidently's page."""
    from model_rollouts.adapters.delta_drift import DeltaDriftLog
    from model_rollouts.adapters.drift_report import StageDrift, drift_of_stage
    from model_rollouts.core.drift_plan import DriftPlan

    window = (START, START + timedelta(days=rows / ROWS_A_DAY))
    of = StageDrift(MODEL, ROLLOUT, STAGE, "3", window, (START - timedelta(days=1), START))
    with tempfile.TemporaryDirectory() as out:
        drift_of_stage(DeltaDriftLog(root), of, None, DriftPlan(), Path(out))


STEPS: dict[str, Callable[[Path, int], Callable[[], None] | None]] = {
    "bare": bare,
    "evidence": evidence,
    "comparison": comparison,
    "look": look,
    "look_with_values": look_with_values,
    "report": report,
}


def measured(step: str, root: Path, rows: int) -> dict[str, Any]:
    """Run one step, its own imports included; what it gives back to be done is what counts then."""
    work = STEPS[step]
    began, cpu = time.perf_counter(), time.process_time()
    if after := work(root, rows):
        began, cpu = time.perf_counter(), time.process_time()
        after()
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    # Of this program alone: what the process was before it was this program does not count.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    return {"step": step, "rows": rows, "seconds": seconds, "cpu_seconds": used, "peak": peak}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
