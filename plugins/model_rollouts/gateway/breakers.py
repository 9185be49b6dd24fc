"""Takes a challenger out, at once, when it fails in a burst; the store is told behind the caller's back."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from model_rollouts.core.breaker import Breaker
from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.answers import Failure

_KEPT = 1024  # breakers; one that has tripped is never let go of

_log = structlog.get_logger(__name__)

RollBack = Callable[[str, str, dict[str, Any]], None]


@dataclass(slots=True)
class _Watched:
    breaker: Breaker
    known: float = float("-inf")  # when the last failure that counted was known


class Breakers:
    """One breaker a rollout. Used from the event loop alone.

    What the breaker's mathematics calls a call has to be one: requests that were under way together when the version
    stalled, or were refused because it is stuck, are one failure, not many.

    Args:
        burst: Failures in a row that trip one; 0: none trips.
        stuck_seconds: A version that is stuck fails once in so many seconds.
        roll_back: Told rollout, reason and evidence when one trips.
        clock: As `Call.taken` is measured.
    """

    def __init__(
        self,
        burst: int,
        stuck_seconds: float,
        roll_back: RollBack,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._burst = burst
        self._stuck_seconds = stuck_seconds
        self._roll_back = roll_back
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    def tripped(self, rollout_id: str | None) -> bool:
        """Whether the rollout's challenger is out."""
        watched = self._watched.get(rollout_id) if rollout_id is not None else None
        return watched is not None and watched.breaker.tripped

    def saw(self, traffic: Traffic, taken: float, failure: Failure | None = None) -> None:
        """Take in what came of one live request that the challenger was asked for.

        Args:
            traffic: The row that it was routed by.
            taken: When the request came.
            failure: What the challenger made of what the champion could answer; None: it answered.
        """
        if traffic.rollout_id is None:
            return
        watched = self._watched.get(traffic.rollout_id) or self._watch(traffic.rollout_id)
        breaker = watched.breaker
        if failure is None:
            breaker.saw(failed=False)
            return
        now = self._clock()
        if taken <= watched.known or (failure.overloaded and now < watched.known + self._stuck_seconds):
            return
        watched.known = now
        if breaker.saw(failed=True):
            self._report(traffic, breaker, failure)

    def _watch(self, rollout_id: str) -> _Watched:
        if len(self._watched) >= _KEPT:
            oldest = next((key for key, w in self._watched.items() if not w.breaker.tripped), None)
            if oldest is not None:
                del self._watched[oldest]
        watched = self._watched[rollout_id] = _Watched(Breaker(self._burst))
        return watched

    def _report(self, traffic: Traffic, breaker: Breaker, failure: Failure) -> None:
        reason = (
            f"version {traffic.challenger} of {traffic.model} failed in a burst: {breaker.failures} of its "
            f"{breaker.calls} live answers, where the champion answered; last: {failure.error}"
        )
        _log.error("breaker_tripped", rollout=traffic.rollout_id, reason=reason)
        evidence = {
            "breaker": {
                "calls": breaker.calls,
                "failures": breaker.failures,
                "burst": self._burst,
                "stage": traffic.stage,
                "share": traffic.share,
            }
        }
        assert traffic.rollout_id is not None  # noqa: S101  # for the type checker
        self._roll_back(traffic.rollout_id, reason, evidence)
