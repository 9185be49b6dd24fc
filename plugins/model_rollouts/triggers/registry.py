"""Watches the registry for what should start, resume or end a rollout."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 60.0  # until changes that were told of and are still not handled are told of again


class RegistryTrigger(BaseEventTrigger):
    """Looks at the registry, for ever, and fires while there are changes that nobody has handled.

    Changes are kept in the rollout store and not in the event: an event that is lost, or fired twice, changes
    nothing. The payload is {"changes": [their numbers]}.

    Args:
        poll_seconds: Time between two looks; None: MODEL_ROLLOUTS_REGISTRY_POLL_SECONDS of the triggerer.
    """

    def __init__(self, poll_seconds: float | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        return "model_rollouts.triggers.registry.RegistryTrigger", {"poll_seconds": self.poll_seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, wait, look again."""
        poll = await asyncio.to_thread(_poll_seconds) if self.poll_seconds is None else self.poll_seconds
        clock = asyncio.get_running_loop().time
        told: tuple[int, ...] = ()
        again = 0.0
        while True:
            pending = await asyncio.to_thread(look_once)
            if pending and (pending != told or clock() >= again):
                told, again = pending, clock() + _AGAIN_SECONDS
                yield TriggerEvent({"changes": list(pending)})  # type: ignore[no-untyped-call]  # the same
            await asyncio.sleep(poll)


def look_once() -> tuple[int, ...]:
    """One look at the registry: numbers of the changes that wait, the new ones among them.

    A registry or a store that is away for a while is no reason to stop watching.
    """
    from model_rollouts.wiring import shared

    watch = None
    try:
        watch = shared().registry_watch
        watch.look()
    except Exception:
        logger.exception("a look at the registry failed; it is tried again")
    try:
        return tuple(change.id for change in watch.changes.pending()) if watch else ()
    except Exception:
        logger.exception("waiting changes of the registry can't be read; it is tried again")
        return ()


def _poll_seconds() -> float:
    from model_rollouts.wiring import shared

    return shared().settings.registry_poll_seconds
