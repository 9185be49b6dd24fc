"""An audit that can't tell never passes: with stand-ins for pip-audit, which needs a service that CI may not reach."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.audit import check

Run = Callable[..., subprocess.CompletedProcess[str]]
BAD = {"name": "requests", "version": "2.19.0", "vulns": [{"id": "PYSEC-2018-28", "fix_versions": ["2.20.0"]}]}
GOOD = {"name": "requests", "version": "9.0.0", "vulns": []}


def told(known_bad: Any, locks: Any) -> Run:
    """pip-audit that says one thing of the known package and another of the lock files."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        lock = Path(command[command.index("--requirement") + 1])
        said = known_bad if lock.name == "known-bad.txt" else locks
        text = said if isinstance(said, str) else json.dumps({"dependencies": said})
        return subprocess.CompletedProcess(command, 0, text, "the last line says why")

    return run


@pytest.mark.parametrize(
    ("known_bad", "locks", "code"),
    [
        ([BAD], [GOOD], 0),
        ([BAD], [BAD], 1),
        ([GOOD], [GOOD], 2),  # an index without such data
        ([{"name": "requests", "skip_reason": "not found"}], [GOOD], 2),
        ([BAD], [GOOD, {"name": "other", "skip_reason": "not found"}], 2),
        ([BAD], [], 2),
        ("", [GOOD], 2),
        ([BAD], "no JSON", 2),
    ],
)
def test_only_what_was_asked_about_and_is_known_to_be_told_passes(
    known_bad: Any, locks: Any, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check.subprocess, "run", told(known_bad, locks))
    assert check.main() == code


def test_a_tool_that_does_not_run_or_hangs_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (FileNotFoundError("uv"), subprocess.TimeoutExpired("uv", 900)):

        def fails(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(check.subprocess, "run", fails)
        assert check.main() == 2
