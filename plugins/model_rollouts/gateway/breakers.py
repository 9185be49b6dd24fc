"""Takes a challenger out, at once, when it fails in a burst; the store is told behind the caller's back."""

from collections.abc import Callable
from typing import Any

import structlog

from model_rollouts.core.breaker import Breaker
from model_rollouts.core.traffic import Traffic

_KEPT = 64  # breakers of rollouts that are over

_log = structlog.get_logger(__name__)

RollBack = Callable[[str, str, dict[str, Any]], None]


class Breakers:
    """One breaker a rollout. Used from the event loop alone.

    Args:
        burst: Failures in a row that trip one; 0: none trips.
        roll_back: Told rollout, reason and evidence when one trips.
    """

    def __init__(self, burst: int, roll_back: RollBack) -> None:
        self._burst = burst
        self._roll_back = roll_back
        self._breakers: dict[str, Breaker] = {}

    def tripped(self, rollout_id: str | None) -> bool:
        """Whether the rollout's challenger is out."""
        breaker = self._breakers.get(rollout_id) if rollout_id is not None else None
        return breaker is not None and breaker.tripped

    def saw(self, traffic: Traffic, error: str | None) -> None:
        """Take in what came of one live row that the challenger was asked for.

        Args:
            traffic: The row that it was routed by.
            error: Why the challenger failed on what the champion could answer; None: it answered.
        """
        if traffic.rollout_id is None:
            return
        breaker = self._breakers.get(traffic.rollout_id)
        if breaker is None:
            while len(self._breakers) >= _KEPT:
                self._breakers.pop(next(iter(self._breakers)))
            breaker = self._breakers[traffic.rollout_id] = Breaker(self._burst)
        if breaker.saw(failed=error is not None):
            who = f"version {traffic.challenger} of {traffic.model}"
            reason = (
                f"{who} failed in a burst: {breaker.failures} of its {breaker.calls} live answers, "
                f"where the champion answered; last: {error}"
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
            self._roll_back(traffic.rollout_id, reason, evidence)
