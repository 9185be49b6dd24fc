"""Waits for a stage's verdict without holding a worker slot."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from model_rollouts.logs import about
from model_rollouts.triggers.workers import Workers, workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a look.

    Attributes:
        event: What to fire; None: there is nothing to say yet.
        due: When the next look can tell anything new, in seconds since 1970; None: after the time between looks, as
            something was away.
        revision: The rollout's revision then.
    """

    event: dict[str, Any] | None = None
    due: float | None = None
    revision: int | None = None


class WatchTrigger(BaseTrigger):
    """Looks at a stage's evidence until there is a verdict.

    The trigger keeps nothing: each look is counted from the log and kept in the store, so that a trigger that is
    started again, here or in another process, goes on with the same numbers. It fires once, with either
    {"decision": ...} (see `Decision.to_dict`) or {"ended": state} when the rollout was ended by somebody else.

    Args:
        rollout_id: The rollout.
        stage: Position of the stage; a verdict on another one is none of its business.
        poll_seconds: How soon it is seen that somebody has done something to the rollout, and how soon something that
            was away is tried again. Looks are made when they are due.
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
        """Look, wait for what is due next, look again."""
        threads = workers()
        look = threads.first_look
        while True:
            looked = await look(look_once, self.rollout_id, self.stage, self.held, self.after)
            if looked.event is not None:
                yield TriggerEvent(looked.event)  # type: ignore[no-untyped-call]  # the same
                return
            await self._wait(threads, looked)
            look = threads.look

    async def _wait(self, threads: Workers, looked: Looked) -> None:
        """Until the next look is due, or somebody has done something to the rollout."""
        if looked.due is None:
            await asyncio.sleep(self.poll_seconds)
            return
        while (left := looked.due - time.time()) > 0:  # the clock that looks are closed by, and it may be set
            await asyncio.sleep(min(left, self.poll_seconds))
            if left > self.poll_seconds and await threads.ask(moved, self.rollout_id, looked.revision):
                return


def look_once(rollout_id: str, stage: int, held: bool = False, after: bool = False) -> Looked:
    """One look.

    A store or a log that is away for a while is no reason to stop watching: the next look may find it again. The
    operator's own time limit ends a watch that never does.
    """
    with about(rollout_id=rollout_id, stage=stage):
        return _look(rollout_id, stage, held, after)


def _look(rollout_id: str, stage: int, held: bool, after: bool) -> Looked:
    from model_rollouts.core.decision import Verdict
    from model_rollouts.core.rollout import State
    from model_rollouts.wiring import shared

    try:
        service = shared().service
        rollout = service.store.rollout(rollout_id)
        expected = State.PROMOTED if after else State.HOLDING if held else State.BAKING
        if rollout.state is not expected or rollout.stage != stage:
            return Looked({"ended": str(rollout.state), "stage": rollout.stage})
        decision, due = service.look_ahead(rollout_id)
        known = not (decision.unreadable or decision.waits_for)
        if after and known and decision.verdict is not Verdict.FAIL and service.matured(rollout_id):
            return Looked({"ended": "all labels have matured", "stage": rollout.stage})
    except Exception:
        logger.exception("a look at %s failed; it is tried again", rollout_id)
        return Looked()
    if decision.verdict is Verdict.FAIL or (decision.verdict is not Verdict.WAIT and not (held or after)):
        return Looked({"decision": decision.to_dict()})
    return Looked(None, due.timestamp() if due else None, rollout.revision)


def moved(rollout_id: str, revision: int | None) -> bool:
    """Whether somebody has done something to the rollout. While the store is away nobody has, as far as can be told."""
    from model_rollouts.wiring import shared

    try:
        return shared().service.store.rollout(rollout_id).revision != revision
    except Exception as error:
        logger.warning("the store can't be asked for %s; it is tried again: %s", rollout_id, error)
        return False
