"""Looks at a model of the registry as soon as somebody hints that it changed, behind the caller's back."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

WATCHING_DAG = "registry_events"

logger = logging.getLogger(__name__)


class Hints:
    """Takes hints and looks at each model once, one after the other.

    A hint for a model that already waits for its turn is the same hint. What is lost with the process is found by the
    watcher that polls.

    Args:
        look: Looks at a model, and carries out what changed.
    """

    def __init__(self, look: Callable[[str], None]) -> None:
        self._look = look
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        # one thread: what it does takes milliseconds, and a registry that is away must not fill the server with threads
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry-hints")

    def take(self, model: str) -> None:
        """Look at a model soon."""
        with self._lock:
            if model in self._waiting:
                return
            self._waiting.add(model)
        self._worker.submit(self._run, model)

    def _run(self, model: str) -> None:
        with self._lock:
            self._waiting.discard(model)  # before the look: a change during it needs another one
        try:
            self._look(model)
        except Exception as error:  # the watcher that polls does it again, and tells people
            logger.warning("a hint at %s could not be followed: %s: %s", model, type(error).__name__, error)


def look_at(model: str) -> None:
    """Record what changed of a model, and make the runs that follow from it.

    What a person should hear of is left to the DAG `registry_events`, which can tell them. While that is paused, or not
    installed, the registry starts nothing by this way either.
    """
    from model_rollouts.registry_watch import look_and_carry_out
    from model_rollouts.web.dag_runs import ApiServerRuns, why_not_ready
    from model_rollouts.wiring import shared

    if closed := why_not_ready(WATCHING_DAG):
        logger.info("a hint at %s is left alone: %s", model, closed)
        return
    look_and_carry_out(shared().registry_watch, ApiServerRuns(), [model])
