"""Tells the store what a gateway found out, from a thread of its own, again and again until the store has it.

Callers are protected before anybody is told: what is reported here has taken effect in this process already. What the
store does not have yet is in a file, and told at the next start, or by another process of the machine.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog

from model_rollouts.core.errors import IllegalTransitionError, NotFoundError
from model_rollouts.core.rollout import ACTIVE, Rollout, State

_REASON_CHARS = 1000
_LOOK_SECONDS = 60.0  # between two looks for what others left behind
_NOTHING = b"[]"

_log = structlog.get_logger(__name__)


class Rollouts(Protocol):
    """Where rollouts are looked up."""

    def rollout(self, rollout_id: str) -> Rollout:
        """See `RolloutStore.rollout`."""


class Steps(Protocol):
    """The steps of a rollout that a gateway may take: both only ever take traffic or trust away from a challenger."""

    @property
    def store(self) -> Rollouts:
        """Where rollouts are looked up."""

    def roll_back(self, rollout_id: str, actor: str, reason: str, evidence: Any = None) -> Any:
        """See `RolloutService.roll_back`."""

    def hold(self, rollout_id: str, stage: int, actor: str, reason: str, evidence: Any) -> Any:
        """See `RolloutService.hold`."""


@dataclass(frozen=True, slots=True)
class _Report:
    rollout_id: str
    stage: int | None  # None: roll back
    reason: str
    evidence: dict[str, Any]

    @property
    def key(self) -> tuple[str, int | None]:
        return self.rollout_id, self.stage


class Reporter:
    """A queue with one entry for each rollout and step.

    Args:
        steps: Opens the store; called from the thread, with each try.
        actor: Who reports.
        retry_seconds: Wait after a try that failed, for the report that did; others do not wait for it.
        file: Keeps what waits, for the next start; nobody else may write to it once this one has started.
        left_behind: Such files of processes that have ended and may not come back. They are told and removed.
    """

    def __init__(
        self,
        steps: Callable[[], Steps],
        actor: str,
        retry_seconds: float,
        file: Path,
        left_behind: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        self._steps = steps
        self._actor = actor
        self._retry_seconds = retry_seconds
        self._file = file
        self._left_behind = left_behind
        self._look_at = 0.0
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, int | None], _Report] = {}
        self._due: dict[tuple[str, int | None], float] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="reporter", daemon=True)

    def start(self) -> None:
        """Begin to tell, with what an earlier process could not."""
        with self._changed:
            self._waiting = {report.key: report for report in _kept(self._file)} | self._waiting
            if self._waiting:
                self._keep()
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """Try once more with everything that waits, and tell no more.

        Args:
            seconds: For all of it.
        """
        with self._changed:
            self._stopped = True
            self._due.clear()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if self._waiting:
            _log.error("reports_left_behind", reports=len(self._waiting), file=str(self._file))

    @property
    def waiting(self) -> int:
        """Reports that the store does not have yet."""
        return len(self._waiting)

    def roll_back(self, rollout_id: str, reason: str, evidence: dict[str, Any]) -> None:
        """Have a rollout rolled back."""
        self._add(_Report(rollout_id, None, reason[:_REASON_CHARS], evidence))

    def hold(self, rollout_id: str, stage: int, reason: str, evidence: dict[str, Any]) -> None:
        """Have a stage held, or the one the rollout is at by now, so that it can't pass until a person resumes it."""
        self._add(_Report(rollout_id, stage, reason[:_REASON_CHARS], evidence))

    def _add(self, report: _Report) -> None:
        with self._changed:
            if report.key not in self._waiting:
                self._waiting[report.key] = report
                if self._thread.ident is not None:  # else it may still hold what an earlier process could not tell
                    self._keep()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            if not self._stopped and time.monotonic() >= self._look_at:
                self._inherit()
                self._look_at = time.monotonic() + _LOOK_SECONDS
            with self._changed:
                report = self._next()
                if report is None:
                    if self._stopped:
                        return
                    due = min([self._look_at, *self._due.values()])
                    self._changed.wait(max(0.0, due - time.monotonic()))
                    continue
            told = self._tell(report)
            with self._changed:
                del self._waiting[report.key]
                self._due.pop(report.key, None)
                if told:
                    self._keep()
                else:  # behind all others
                    self._waiting[report.key] = report
                    self._due[report.key] = inf if self._stopped else time.monotonic() + self._retry_seconds

    def _inherit(self) -> None:
        """Take over what others could not tell: it is in the own file before theirs goes."""
        try:
            for file in self._left_behind():
                reports = {report.key: report for report in _kept(file)}
                with self._changed:
                    self._waiting = reports | self._waiting
                    kept = self._keep() if reports else file.read_bytes() == _NOTHING
                if kept:
                    file.unlink()
                    _log.info("reports_taken_over", reports=len(reports), file=str(file))
        except OSError as error:
            _log.error("others_reports_not_read", error=f"{type(error).__name__}: {error}"[:500])

    def _next(self) -> _Report | None:
        now = time.monotonic()
        return next((report for key, report in self._waiting.items() if self._due.get(key, 0.0) <= now), None)

    def _tell(self, report: _Report) -> bool:
        """Whether the store has it, or never will."""
        try:
            self._take(report)
        except (IllegalTransitionError, NotFoundError) as error:  # the rollout has ended, or is gone
            _log.warning("report_out_of_date", rollout=report.rollout_id, reason=report.reason, error=str(error))
        except Exception as error:  # the store is away
            _log.error("report_not_taken", rollout=report.rollout_id, error=f"{type(error).__name__}: {error}"[:500])
            return False
        else:
            _log.info("reported", rollout=report.rollout_id, reason=report.reason)
        return True

    def _take(self, report: _Report) -> None:
        steps = self._steps()
        if report.stage is None:
            steps.roll_back(report.rollout_id, self._actor, report.reason, report.evidence)
            return
        try:
            steps.hold(report.rollout_id, report.stage, self._actor, report.reason, report.evidence)
        except IllegalTransitionError as error:
            rollout = steps.store.rollout(report.rollout_id)
            if rollout.state not in ACTIVE or rollout.state is State.PENDING:
                raise
            if rollout.state is State.HOLDING:
                return  # a person decides already
            reason = f"of stage {report.stage}: {report.reason}"[:_REASON_CHARS]
            try:
                steps.hold(report.rollout_id, rollout.stage, self._actor, reason, report.evidence)
            except IllegalTransitionError as again:
                raise RuntimeError(f"the rollout moves on: {again}") from error  # another try finds it where it is then

    def _keep(self) -> bool:
        """Have the file say what waits, if it can be. A report is told without it, too."""
        fresh = self._file.with_suffix(".new")
        try:
            fresh.write_bytes(orjson.dumps([asdict(report) for report in self._waiting.values()], default=str))
            fresh.replace(self._file)
        except (OSError, TypeError) as error:
            _log.error("reports_not_kept", file=str(self._file), error=f"{type(error).__name__}: {error}"[:500])
            return False
        return True


def _kept(file: Path) -> list[_Report]:
    try:
        return [_Report(**each) for each in orjson.loads(file.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        _log.error("kept_reports_not_read", file=str(file), error=f"{type(error).__name__}: {error}"[:500])
        return []
