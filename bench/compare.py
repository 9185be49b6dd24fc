"""Evidence, comparison and drift over a whole log, beside a bare scan of it: docs/benchmarks/compare.md.

    python -m bench.compare --rows 1000000          (a quick run; the default)
    python -m bench.compare --rows 4000000 20000000
    python -m bench.compare --full                  (20,000,000 and 100,000,000: an hour and 40 GB of disk)

Each step runs in a process of its own, with its peak memory. Sizes from 50,000,000 on have the bare scan, the evidence
and the comparison alone: a look and the drift report depend on the rows of a day, and of a stage.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare_log import bytes_of, make

FULL = (20_000_000, 100_000_000)
_BYTES_A_ROW = 400  # of the log (some 220) and of what a query puts aside
_PLACE = Path(".local") / "bench-compare"
_STEPS = ("bare", "evidence", "comparison", "bare", "look", "look_with_values", "report")
_STEPS_OF_LARGE = _STEPS[:4]
_LARGE = 50_000_000


def run(rows: int, drift_rows: int) -> dict[str, Any]:
    """Measure everything at one size; the log is deleted afterwards.

    Raises:
        OSError: The disk has too little room.
    """
    root = _PLACE.absolute() / f"log-{rows}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    free = shutil.disk_usage(root).free
    if free < rows * _BYTES_A_ROW:
        raise OSError(
            f"{root} has {free / 1e9:.0f} GB free, {rows * _BYTES_A_ROW / 1e9:.0f} GB are needed; take fewer rows"
        )
    try:
        began = time.perf_counter()
        made = make(root, rows)
        print(f"{rows:,} rows written in {time.perf_counter() - began:.0f} s", flush=True)
        steps = [_step(step, root, rows) for step in (_STEPS if rows < _LARGE else _STEPS_OF_LARGE)]
        found: dict[str, Any] = {"rows": rows, "bytes": bytes_of(made), "steps": steps}
    finally:
        shutil.rmtree(root, ignore_errors=True)
    found["drift"] = _drift(drift_rows) if drift_rows else None
    return found


def _step(step: str, root: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.compare_steps", step, str(root), str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{step} over {rows:,} rows ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{rows:,} rows, {step}: {result['seconds']:.1f} s, {result['cpu_seconds']:.1f} s of processor, "
        f"{result['peak'] / 2**20:,.0f} MiB",
        flush=True,
    )
    return result


def _drift(rows: int) -> dict[str, Any]:
    out = _PLACE / "drift.json"
    subprocess.run([sys.executable, "-m", "bench.drift", "--rows", str(rows), "--out", str(out)], check=True)
    found: dict[str, Any] = json.loads(out.read_text())[0]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page when it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="sizes of the log")
    parser.add_argument("--full", action="store_true", help="the sizes of the promises")
    parser.add_argument("--drift-rows", type=int, default=0, help="rows a side for drift; 0: without")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="write the page of these earlier results")
    given = parser.parse_args(arguments)
    from bench.compare_page import write

    _PLACE.mkdir(parents=True, exist_ok=True)
    results = [each for file in given.results for each in json.loads(file.read_text())]
    sizes = list(FULL) if given.full else given.rows
    for at, rows in enumerate(sizes if not given.results else []):
        results.append(run(rows, given.drift_rows if at == 0 else 0))
        (_PLACE / "results.json").write_text(json.dumps(results, indent=2))
    write(results)


if __name__ == "__main__":
    main()
