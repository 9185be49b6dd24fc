"""When a rollout's stages began and ended, and for how long the open one has been judged: from its events."""

from collections.abc import Sequence
from datetime import datetime

from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.evidence import Look
from model_rollouts.core.rollout import Event, EventKind, Rollout
from model_rollouts.looks import Spans, seen_looks


def spans_of(rollout: Rollout, events: Sequence[Event]) -> dict[int, tuple[datetime, datetime | None]]:
    """When each stage's traffic moved, and when it moved on (None: it has not)."""
    opened = [
        (event.stage, event.at) for event in events if event.kind is EventKind.STAGE_OPENED and event.stage is not None
    ]
    ends = [*(at for _, at in opened[1:]), rollout.ended_at]
    return {stage: (at, end) for (stage, at), end in zip(opened, ends, strict=True)} if opened else {}


def live_part(rollout: Rollout, spans: Spans, looks: Sequence[Look]) -> tuple[Spans, list[Look]]:
    """The stages that gateways serve, and their looks."""
    live = {stage: span for stage, span in spans.items() if not rollout.plan.stage(stage).offline}
    return live, [look for look in looks if look.stage in live]


def resumed_at(events: Sequence[Event]) -> list[datetime]:
    """When the rollout was resumed."""
    return [event.at for event in events if event.kind is EventKind.RESUMED]


def judged_times(
    rollout: Rollout, spans: Spans, looks: Sequence[Look], now: datetime, resumed: Sequence[datetime]
) -> tuple[float, int]:
    """Seconds that the stage has been judged for, and how many looks a person had seen when they last resumed.

    Raises:
        NotReadyError: No stage is open.
    """
    if rollout.opened_at is None or rollout.judged_from is None:
        raise NotReadyError(f"{rollout.id} has no open stage to judge; it is {rollout.state}")
    elapsed = (now - rollout.judged_from).total_seconds()
    return elapsed, seen_looks(rollout.plan, spans, looks, resumed)
