"""Golden requests: made again from the prediction log, or read from a file.

A file has one request a line, as JSON:

    {"inputs": {"distance": 733, "carrier": "UA"}, "expected": "1", "score": 0.81, "tolerance": 0.01, "must": true}

Only `inputs` is needed; core/golden.py says what the others mean.
"""

import json
import math
import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from model_rollouts.adapters.delta_files import run_local as run
from model_rollouts.adapters.delta_queries import CHAMPION_ROWS, microseconds
from model_rollouts.adapters.log_places import LogRoot, log_table
from model_rollouts.adapters.logged_inputs import LoggedInputsError, inputs_from_row, rebuilt_inputs
from model_rollouts.core.errors import NotReadyError, PlanError
from model_rollouts.core.golden import GoldenCase
from model_rollouts.ports import ModelVersion, Registry

MOST_LINES = 10_000
_MOST_RECORDED = 10_000
_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=7))  # no further than it takes
_SPARE = 4  # rows read for each request asked for: many callers ask the same
_SEED = "golden"
_NAMED = 20  # how many wrong lines an error names
_KEYS = frozenset({"inputs", "expected", "score", "tolerance", "must"})

# Without the time, which needs a package for its zone to be read.
_RECORDED = f"""
SELECT * EXCLUDE (ts) FROM (
    SELECT * FROM {{predictions}}
    WHERE epoch_us(ts) >= $low AND epoch_us(ts) < $high AND {CHAMPION_ROWS}
        AND status = 'ok' AND prediction IS NOT NULL
    ORDER BY md5($seed || coalesce(request_id, '')), ts DESC LIMIT $limit
)
"""  # noqa: S608 - constants of this package


_Cases = tuple[list[GoldenCase], NotReadyError | None]  # why there are none though there are rows


class LoggedRequests:
    """Implements `GoldenRequests` on the Delta log.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
        registry: Tells the inputs of a version.
    """

    def __init__(self, root: LogRoot, registry: Registry) -> None:
        self.root = root
        self.registry = registry

    def recorded(self, model: str, version: str, n: int, now: datetime) -> list[GoldenCase]:
        """Recent distinct requests that a version answered as champion, with what it answered.

        The sample is drawn by a hash of the request id from the last hour, or from the last day or week where that
        holds too few.

        Args:
            model: Registered model name.
            version: Version number or alias.
            n: Most requests, 1 to 10,000.
            now: Current time, UTC.

        Returns:
            Up to n cases, the same ones each time for the same log and time.

        Raises:
            NotReadyError: The version's inputs can't be made again from the log; says why.
            NotFoundError: There is no such version.
            LogReadError: The log can't be read.
            ValueError: n is out of its bounds.
        """
        if not 1 <= n <= _MOST_RECORDED:
            raise ValueError(f"n is {n}, must be between 1 and {_MOST_RECORDED}")
        found = self.registry.resolve(model, version)
        cases: list[GoldenCase] = []
        problem: NotReadyError | None = None
        try:
            rebuilt_inputs(found)
            for back in _BACK:
                cases, problem = self._cases(found, n, now - back, now)
                if len(cases) == n:
                    break
        except NotReadyError as error:
            problem = error
        if problem is not None:
            raise NotReadyError(f"{problem}; give a golden_file and set golden_requests to 0") from problem
        return cases

    def load_file(self, path: Path) -> list[GoldenCase]:
        """See `load_file`."""
        return load_file(path)

    def _cases(self, version: ModelVersion, n: int, start: datetime, end: datetime) -> _Cases:
        where = (log_table(self.root, version.model, "predictions"), start, end)
        parameters = {
            "low": microseconds(start),
            "high": microseconds(end),
            "version": version.version,
            "seed": _SEED,
            "limit": _SPARE * n + 100,
        }
        result = run(_RECORDED, {"predictions": where}, parameters)
        if result is None:
            return [], None
        names = [column[0] for column in result.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        cases: dict[str, GoldenCase] = {}
        unfit = ""
        for row in rows:
            try:
                inputs = inputs_from_row(row, version.inputs or (), version.optional)
            except LoggedInputsError as error:
                unfit = unfit or str(error)
                continue
            score = row["score"]
            score = score if score is not None and math.isfinite(score) else None
            cases.setdefault(json.dumps(inputs, sort_keys=True), GoldenCase(inputs, row["prediction"], score))
            if len(cases) == n:
                break
        if cases or not rows:
            return list(cases.values()), None
        who = f"version {version.version} of {version.model}"
        return [], NotReadyError(f"none of {len(rows)} logged requests of {who} can be asked again: {unfit}")


# --- files


def load_file(path: Path) -> list[GoldenCase]:
    """The cases of a file of JSON lines; empty lines are left out.

    Raises:
        PlanError: It can't be read, holds no request or more than 10,000, or a line is wrong; names every such line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"golden_file {path} can't be read: {error}") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(filled) <= MOST_LINES:
        raise PlanError(f"golden_file {path} has {len(filled)} requests, must have between 1 and {MOST_LINES}")
    cases, wrong = [], []
    for number, line in filled:
        try:
            cases.append(_case(line))
        except (ValueError, RecursionError) as error:  # PlanError is a ValueError
            wrong.append(f"line {number}: {str(error)[:200]}")
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise PlanError(f"golden_file {path} is wrong in {'; '.join(wrong[:_NAMED])}{more}")
    return cases


def save_file(path: Path, cases: Iterable[GoldenCase]) -> None:
    """Write cases so that `load_file` reads them; the file is there whole, or as it was before.

    Raises:
        ValueError: An input is no JSON; nothing is written.
    """
    lines = []
    for case in cases:
        told: dict[str, Any] = {"inputs": dict(case.inputs)}
        told |= {
            name: value for name in ("expected", "score", "tolerance") if (value := getattr(case, name)) is not None
        }
        lines.append(json.dumps(told | ({"must": True} if case.must else {}), allow_nan=False, ensure_ascii=False))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    scratch.replace(path)


def _case(line: str) -> GoldenCase:
    data = json.loads(line, parse_constant=_no_number)
    if not isinstance(data, dict) or "inputs" not in data:
        raise PlanError('must be an object with "inputs"')
    if unknown := sorted(data.keys() - _KEYS):
        raise PlanError(f"has unknown {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    if "expected" in data:
        data["expected"] = _expected(data["expected"])
    return GoldenCase(**data)


def _no_number(text: str) -> float:
    raise PlanError(f"{text} is no JSON")


def _expected(value: Any) -> Any:
    """Canonical text of an answer, as the log has it, for people who write 1 and true."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value) if isinstance(value, dict | list) else value
