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
        part: Of the run.
        ran: Whether it was tried at all; `result` says why not.
        at: When it was kept, seconds since 1970.
    """

    fault: str
    held: str
    times: int = 1
    result: str = ""
    seconds: float = 0.0
    passed: bool = False
    full: bool = field(default_factory=lambda: FULL)
    part: str = "stack"
    ran: bool = True
    at: float = field(default_factory=time.time)

    @property
    def outcome(self) -> str:
        """For the table."""
        if not self.ran:
            return "**did not run**"
        return "held" if self.passed else "**did not hold**"


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
    line.at = time.time()
    file = FOLDER / (re.sub(r"[^a-z0-9]+", "-", line.fault.lower()).strip("-") + ".json")
    file.write_text(json.dumps(vars(line), indent=1) + "\n", encoding="utf-8")


def kept() -> dict[str, Shown]:
    """Every line, by its fault."""
    found = [Shown(**json.loads(file.read_text(encoding="utf-8"))) for file in sorted(FOLDER.glob("*.json"))]
    return {line.fault: line for line in found}


def forget(part: str) -> None:
    """Remove the lines of a part, before it runs again."""
    for file in FOLDER.glob("*.json"):
        if json.loads(file.read_text(encoding="utf-8")).get("part", part) == part:
            file.unlink()
