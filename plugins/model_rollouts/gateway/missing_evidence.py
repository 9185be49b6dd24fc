"""Holds a stage whose answers were given and not logged: what is not in the log can't be judged, and may not pass."""

import time
from collections.abc import Callable
from typing import Any

from model_rollouts.core.traffic import Traffic

_AGAIN_SECONDS = 1.0  # a stage that was resumed is held again when rows go missing again
_KEPT = 256  # stages

Hold = Callable[[str, int, str, dict[str, Any]], None]


class MissingEvidence:
    """Called from the event loop, so it does no more than put a report in a queue now and then.

    Args:
        in_force: The traffic row that a model is routed by.
        hold: Told rollout, stage, reason and evidence.
        clock: Seconds that only grow.
    """

    def __init__(
        self, in_force: Callable[[str], Traffic | None], hold: Hold, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._in_force = in_force
        self._hold = hold
        self._clock = clock
        self._told: dict[tuple[str, int], tuple[float, int]] = {}

    def unlogged(self, model: str, rows: int, reason: str) -> None:
        """Rows of a model were answered and are not in the log.

        Args:
            model: Registered model name.
            rows: How many.
            reason: Why.
        """
        traffic = self._in_force(model)
        if traffic is None or traffic.rollout_id is None or traffic.stage is None:
            return
        stage = (traffic.rollout_id, traffic.stage)
        told_at, before = self._told.get(stage, (float("-inf"), 0))
        now = self._clock()
        if now - told_at < _AGAIN_SECONDS:
            self._told[stage] = (told_at, before + rows)
            return
        if len(self._told) >= _KEPT:
            self._told.pop(next(iter(self._told)))
        missing = before + rows
        self._told[stage] = (now, missing)
        self._hold(
            *stage,
            f"{missing} answered rows of {model} are not in the log, and what is missing can't be judged: {reason}",
            {"unlogged": {"rows": missing, "stage": traffic.stage, "reason": reason}},
        )
