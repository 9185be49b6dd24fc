"""Golden requests: real requests with known answers, asked before traffic moves.

The rollback target must answer all of them as before. A challenger must answer all of them, but is there to answer
some of them differently.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from model_rollouts.core.checks import flag, number
from model_rollouts.core.errors import PlanError

RELATIVE_TOLERANCE = 1e-6  # float32 models give or take this much with the size of a batch
_ABSOLUTE_FLOOR = 1e-9  # next to zero a relative tolerance is none at all
_WORST = 5
_SHOWN = 80
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")  # "007" is a name, not seven
_WHOLE = re.compile(r"-?\d+")


class GoldenAnswer(Protocol):
    """What one process answered to one case; `ports.ProbeAnswer` is one."""

    @property
    def gateway(self) -> str:
        """Which serving process."""

    @property
    def status(self) -> str:
        """ "ok" where it answered."""

    @property
    def prediction(self) -> str | None:
        """Canonical text of the answer."""

    @property
    def score(self) -> float | None:
        """The score, where the version gives one."""

    @property
    def error(self) -> str:
        """What went wrong, or empty."""


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One request.

    Attributes:
        inputs: Value by input column, JSON types.
        expected: The answer's canonical text; None: any answer will do.
        score: The score that belongs to it; None: not compared.
        tolerance: The most that a number, answer or score, may be off. None: a millionth of it, and nothing for two
            whole numbers, which may be names of classes.
        must: Whether a challenger has to answer as expected, too.
    """

    inputs: Mapping[str, Any]
    expected: str | None = None
    score: float | None = None
    tolerance: float | None = None
    must: bool = False

    def __post_init__(self) -> None:
        """Refuse a case that could not be asked or judged.

        Raises:
            PlanError: The message states the value and what it must be.
        """
        if not isinstance(self.inputs, Mapping) or not self.inputs or not all(isinstance(n, str) for n in self.inputs):
            raise PlanError(f"inputs of a golden request is {self.inputs!r:.200}, must map names of inputs to values")
        if self.expected is not None and not isinstance(self.expected, str):
            raise PlanError(f"expected of a golden request is {self.expected!r}, must be text or None")
        if self.score is not None:
            number("score of a golden request", self.score, -1.7e308, 1.7e308)
        if self.tolerance is not None:
            number("tolerance of a golden request", self.tolerance, 0, 1e300)
        flag("must of a golden request", self.must)
        if not self.judged and (self.must or self.tolerance is not None):
            raise PlanError("a golden request has must or tolerance, and no expected or score: nothing to compare with")

    @property
    def judged(self) -> bool:
        """Whether it tells right answers from wrong ones."""
        return self.expected is not None or self.score is not None


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """What came of the golden requests.

    Attributes:
        ok: Whether the version may go on.
        asked: Cases that every process was asked.
        answered: Cases that every process answered.
        compared: Cases with an expected answer.
        agreed: Cases among these that every process answered as expected.
        worst: The first few that went wrong, each in a sentence.
        reason: One sentence for a person.
    """

    ok: bool
    asked: int
    answered: int
    compared: int
    agreed: int
    worst: tuple[str, ...]
    reason: str


def judge_golden(
    cases: Sequence[GoldenCase], answers: Sequence[Sequence[GoldenAnswer]], *, exact: bool, agreement: float = 0.0
) -> GoldenResult:
    """Judge a version by what every serving process answered.

    Args:
        cases: What was asked.
        answers: For each process, one answer a case, in order.
        exact: Whether every case must be answered as expected, as of a rollback target.
        agreement: Otherwise the least share of the cases with an expected answer that must be, 0 to 1; cases with
            `must` are always among them.

    Returns:
        Never ok when nothing was asked, when a case lacks an answer, or when nothing could be compared that had to be.

    Raises:
        PlanError: agreement is out of its bounds.
    """
    number("golden_agreement", agreement, 0, 1)
    if problem := _incomplete(cases, answers):
        return GoldenResult(ok=False, asked=0, answered=0, compared=0, agreed=0, worst=(), reason=problem)
    unanswered: list[str] = []
    forbidden: list[str] = []  # answers other than expected where there may be none
    other: list[str] = []
    agreed = 0
    for position, case in enumerate(cases):
        given = [process[position] for process in answers]
        if said := _first(position, given, _not_answered):
            unanswered.append(said)
        elif said := _first(position, given, partial(_mismatch, case)):
            (forbidden if exact or case.must else other).append(said)
        else:
            agreed += case.judged
    asked, answered = len(cases), len(cases) - len(unanswered)
    compared = sum(case.judged for case in cases)
    problems = []
    if unanswered:
        problems.append(f"{len(unanswered)} of {asked} golden requests were not answered")
    if forbidden:
        must = "" if exact else " that must be"
        problems.append(f"{len(forbidden)} of {compared} were not answered as expected{must}")
    if not compared and (exact or agreement > 0):
        problems.append(f"none of the {asked} golden requests has an expected answer to compare with; give some")
    elif not exact and agreed < agreement * compared:
        problems.append(f"{agreed} of {compared} were answered as expected, must be {agreement:.1%} of them")
    worst = tuple((unanswered + forbidden + other)[:_WORST])
    processes = f"{len(answers)} serving process" + ("" if len(answers) == 1 else "es")
    reason = "; ".join(problems) or (
        f"{asked} golden requests were answered by {processes}"
        + (f", {agreed} of {compared} as expected" if compared else "; none has an expected answer")
    )
    if problems and worst:
        reason += f": {worst[0]}"
    return GoldenResult(not problems, asked, answered, compared, agreed, worst, reason)


def same_answer(expected: str, given: str, tolerance: float | None = None) -> bool:
    """Whether two canonical texts are the same answer: as text, as numbers within the tolerance, or part by part."""
    if expected == given:
        return True
    if _NUMBER.fullmatch(expected) and _NUMBER.fullmatch(given):
        if tolerance is None and _WHOLE.fullmatch(expected) and _WHOLE.fullmatch(given):
            return False  # ids of classes may be large: no millionth of them is noise
        return _close(float(expected), float(given), tolerance)
    if expected[:1] not in ("[", "{") or expected[:1] != given[:1]:
        return False
    try:
        return _same(json.loads(expected), json.loads(given), tolerance)
    except (ValueError, RecursionError, OverflowError):
        return False


# --- inside


def _incomplete(cases: Sequence[GoldenCase], answers: Sequence[Sequence[GoldenAnswer]]) -> str:
    if not cases:
        return "no golden request was asked: record some from the log, or give a file of them"
    if not answers:
        return "no serving process was asked the golden requests"
    for process in answers:
        if len(process) != len(cases):
            who = process[0].gateway if process else "a serving process"
            return f"{who} gave {len(process)} answers to {len(cases)} golden requests"
    return ""


def _first(position: int, given: Sequence[GoldenAnswer], problem_of: Callable[[GoldenAnswer], str]) -> str:
    """What the first process that has the problem says, with whom and which case; empty when none has."""
    for answer in given:
        if problem := problem_of(answer):
            return f"request {position + 1} on {answer.gateway}: {problem}"
    return ""


def _not_answered(answer: GoldenAnswer) -> str:
    if answer.status == "ok" and answer.prediction is not None:
        return ""
    return f"{answer.status}{f', {answer.error}' if answer.error else ''}"[: 2 * _SHOWN]


def _mismatch(case: GoldenCase, answer: GoldenAnswer) -> str:
    """How an answer is not the expected one; empty when it is."""
    said = answer.prediction or ""
    if case.expected is not None and not same_answer(case.expected, said, case.tolerance):
        return f"expected {case.expected[:_SHOWN]}, got {said[:_SHOWN]}"
    if case.score is not None:
        if answer.score is None:
            return f"expected a score of {case.score:g}, got none"
        if not _close(case.score, answer.score, case.tolerance):
            return f"expected a score of {case.score:.9g}, got {answer.score:.9g}"
    return ""


def _close(one: float, other: float, tolerance: float | None) -> bool:
    if not (math.isfinite(one) and math.isfinite(other)):
        return False
    if tolerance is not None:
        return abs(one - other) <= tolerance
    return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=_ABSOLUTE_FLOOR)


def _same(one: Any, other: Any, tolerance: float | None) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    numbers = [value for value in (one, other) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2 and (tolerance is not None or any(isinstance(value, float) for value in numbers)):  # noqa: PLR2004
        return _close(float(one), float(other), tolerance)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
