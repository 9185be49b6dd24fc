"""Waits for a stage's verdict without holding a worker slot."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

logger = logging.getLogger(__name__)


class WatchTrigger(BaseTrigger):
    """Looks at a stage's evidence until there is a verdict.

    The trigger keeps nothing: each look is counted from the log and kept in the store, so that a trigger that is
    started again, here or in another process, goes on with the same numbers. It fires once, with either
    {"decision": ...} (see `Decision.to_dict`) or {"ended": state} when the rollout was ended by somebody else.

    Args:
        rollout_id: The rollout.
        stage: Position of the stage; a verdict on another one is none of its business.
        poll_seconds: Time between looks.
        held: Watch a stage that holds, for harm alone.
        after: Watch a promoted rollout, for harm alone, until its last labels have matured.
    """

    def __init__(
        self, rollout_id: str, stage: int, poll_seconds: float, held: bool = False, after: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self.rollout_id = rollout_id
        self.stage = stage
        self.poll_seconds = poll_seconds
        self.held = held
        self.after = after

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        return (
            "model_rollouts.triggers.watch.WatchTrigger",
            {
                "rollout_id": self.rollout_id,
                "stage": self.stage,
                "poll_seconds": self.poll_seconds,
                "held": self.held,
                "after": self.after,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, wait, look again."""
        while True:
            found = await asyncio.to_thread(look_once, self.rollout_id, self.stage, self.held, self.after)
            if found is not None:
                yield TriggerEvent(found)  # type: ignore[no-untyped-call]  # the same
                return
            await asyncio.sleep(self.poll_seconds)


def look_once(rollout_id: str, stage: int, held: bool = False, after: bool = False) -> dict[str, Any] | None:
    """One look: the event to fire, or None while there is nothing to say.

    A store or a log that is away for a while is no reason to stop watching: the next look may find it again. The
    operator's own time limit ends a watch that never does.
    """
    from model_rollouts.core.decision import Verdict
    from model_rollouts.core.rollout import State
    from model_rollouts.wiring import shared

    try:
        service = shared().service
        rollout = service.store.rollout(rollout_id)
        expected = State.PROMOTED if after else State.HOLDING if held else State.BAKING
        if rollout.state is not expected or rollout.stage != stage:
            return {"ended": str(rollout.state), "stage": rollout.stage}
        decision = service.look(rollout_id)
        if after and decision.verdict is not Verdict.FAIL and not decision.unreadable and service.matured(rollout_id):
            return {"ended": "all labels have matured", "stage": rollout.stage}
    except Exception:
        logger.exception("a look at %s failed; it is tried again", rollout_id)
        return None
    if decision.verdict is Verdict.FAIL or (decision.verdict is not Verdict.WAIT and not (held or after)):
        return {"decision": decision.to_dict()}
    return None
