"""Waits for a stage's verdict without holding a worker slot."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class WatchTrigger(BaseTrigger):
    """Looks at a stage's evidence until there is a verdict.

    The trigger keeps nothing: each look is counted from the log and kept in the store, so that a trigger that is
    started again, here or in another process, goes on with the same numbers. It fires once, with either
    {"decision": ...} (see `Decision.to_dict`) or {"ended": state} when the rollout was ended by somebody else.

    Args:
        rollout_id: The rollout.
        stage: Position of the stage; a verdict on another one is none of its business.
        poll_seconds: Time between looks.
    """

    def __init__(self, rollout_id: str, stage: int, poll_seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self.rollout_id = rollout_id
        self.stage = stage
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        return (
            "model_rollouts.triggers.watch.WatchTrigger",
            {"rollout_id": self.rollout_id, "stage": self.stage, "poll_seconds": self.poll_seconds},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, wait, look again."""
        while True:
            found = await asyncio.to_thread(look_once, self.rollout_id, self.stage)
            if found is not None:
                yield TriggerEvent(found)  # type: ignore[no-untyped-call]  # the same
                return
            await asyncio.sleep(self.poll_seconds)


def look_once(rollout_id: str, stage: int) -> dict[str, Any] | None:
    """One look: the event to fire, or None while the verdict is to wait."""
    from model_rollouts.core.decision import Verdict
    from model_rollouts.core.rollout import State
    from model_rollouts.wiring import shared

    service = shared().service
    rollout = service.store.rollout(rollout_id)
    if rollout.state is not State.BAKING or rollout.stage != stage:
        return {"ended": str(rollout.state), "stage": rollout.stage}
    decision = service.look(rollout_id)
    if decision.verdict is Verdict.WAIT:
        return None
    return {"decision": decision.to_dict()}
