"""What the run shows: one file a fault under .local, from which docs/faults.md is made."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

#: `make test-faults`; otherwise the same tests with little of everything.
FULL = os.environ.get("FAULTS", "full") != "small"
FOLDER = Path(__file__).resolve().parents[2] / ".local" / ("faults" if FULL else "faults-small")


@dataclass
class Shown:
    """One line of the table.

    Attributes:
        fault: What was broken.
        held: What was checked.
        times: How often it was broken.
        result: What was seen, in numbers.
        seconds: How long it took.
        passed: Whether all of it held.
        full: Whether it was done at full size.
    """

    fault: str
    held: str
    times: int = 1
    result: str = ""
    seconds: float = 0.0
    passed: bool = False
    full: bool = field(default_factory=lambda: FULL)


@contextmanager
def shown(fault: str, held: str) -> Iterator[Shown]:
    """A fault that is being tried; kept whether what must hold holds or not."""
    line, began = Shown(fault, held), time.monotonic()
    try:
        yield line
        line.passed = True
    finally:
        line.seconds = round(time.monotonic() - began, 1)
        keep(line)
        print(f"\n{'held' if line.passed else 'BROKEN'}: {fault}, {line.times} times: {line.result} ({line.seconds} s)")


def keep(line: Shown) -> None:
    """Keep a line for the page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / (re.sub(r"[^a-z0-9]+", "-", line.fault.lower()).strip("-")[:80] + ".json")
    file.write_text(json.dumps(vars(line) | {"at": time.time()}, indent=1) + "\n", encoding="utf-8")


def kept() -> list[Shown]:
    """Every line, in the order in which they were tried."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in FOLDER.glob("*.json")]
    found.sort(key=lambda line: line["at"])
    return [Shown(**{name: value for name, value in line.items() if name != "at"}) for line in found]
