"""Tells the store what a gateway found out, from a thread of its own, again and again until the store has it.

Callers are protected before anybody is told: what is reported here has taken effect in this process already.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from model_rollouts.core.errors import IllegalTransitionError, NotFoundError

_REASON_CHARS = 1000

_log = structlog.get_logger(__name__)


class Steps(Protocol):
    """The steps of a rollout that a gateway may take: both only ever take traffic or trust away from a challenger."""

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


class Reporter:
    """A queue with one entry for each rollout and step.

    Args:
        steps: Opens the store; called from the thread, with each try.
        actor: Who reports.
        retry_seconds: Wait after a try that failed.
    """

    def __init__(self, steps: Callable[[], Steps], actor: str, retry_seconds: float) -> None:
        self._steps = steps
        self._actor = actor
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, int | None], _Report] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="reporter", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tell no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Reports that the store does not have yet."""
        return len(self._waiting)

    def roll_back(self, rollout_id: str, reason: str, evidence: dict[str, Any]) -> None:
        """Have a rollout rolled back."""
        self._add(_Report(rollout_id, None, reason[:_REASON_CHARS], evidence))

    def hold(self, rollout_id: str, stage: int, reason: str, evidence: dict[str, Any]) -> None:
        """Have an open stage held, so that it can't pass until a person resumes it."""
        self._add(_Report(rollout_id, stage, reason[:_REASON_CHARS], evidence))

    def _add(self, report: _Report) -> None:
        with self._changed:
            self._waiting.setdefault((report.rollout_id, report.stage), report)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                key, report = next(iter(self._waiting.items()))
            if self._tell(report):
                with self._changed:
                    self._waiting.pop(key, None)
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, self._retry_seconds)

    def _tell(self, report: _Report) -> bool:
        """Whether the store has it, or never will."""
        try:
            steps = self._steps()
            if report.stage is None:
                steps.roll_back(report.rollout_id, self._actor, report.reason, report.evidence)
            else:
                steps.hold(report.rollout_id, report.stage, self._actor, report.reason, report.evidence)
        except (IllegalTransitionError, NotFoundError) as error:  # the rollout has moved on, or is gone
            _log.warning("report_out_of_date", rollout=report.rollout_id, reason=report.reason, error=str(error))
        except Exception as error:  # the store is away
            _log.error("report_not_taken", rollout=report.rollout_id, error=f"{type(error).__name__}: {error}"[:500])
            return False
        else:
            _log.info("reported", rollout=report.rollout_id, reason=report.reason)
        return True
