"""How far the log is whole: rows that a gateway still holds are missing in it, and a look is closed only once."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from model_rollouts.core.errors import NotReadyError

Backlog = Callable[[str], Mapping[str, float]]
"""Of a model: gateway -> seconds for which its oldest row has been waiting for the log. Raises NotReadyError."""

_ON_ITS_WAY = 10.0  # what waits for less is about to be committed
_HANGS = 1.0  # a refusal takes less
_AGAIN = 5.0
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LoggedUntil:
    """What is known of the rows that are not in the log.

    Attributes:
        time: What was answered before it is in the log, UTC.
        missing: What is not, in a sentence; "" when nothing is missing.
        late: Whether more is wrong than that it is about to be committed.
    """

    time: datetime
    missing: str = ""
    late: bool = False


def logged_until(backlog: Backlog | None, model: str, now: datetime) -> LoggedUntil:
    """Ask every gateway what it holds. One that does not answer may hold anything.

    Args:
        backlog: Asks them; None: there are none, and the log is what there is.
        model: Registered model name.
        now: UTC.
    """
    if backlog is None:
        return LoggedUntil(now)
    try:
        waiting = backlog(model)
        gateway, seconds = max(waiting.items(), key=lambda item: item[1])
    except Exception as error:  # whatever it is, harm can still be seen in what is there
        return LoggedUntil(_NEVER, f"what gateways have not logged is not known: {error}"[:500], late=True)
    if seconds == 0:
        return LoggedUntil(now)
    held = f"gateway {gateway} has rows of {model} that are {seconds:.1f} s old and not in the log yet"
    late = seconds > _ON_ITS_WAY
    return LoggedUntil(now - timedelta(seconds=seconds), f"{held}; look at its /status" if late else held, late)


class PatientBacklog:
    """Asks gateways, but for a while not again after one of them hung: looks of all rollouts would wait in turn.

    Args:
        ask: Asks them.
        clock: Seconds that only grow.
    """

    def __init__(self, ask: Backlog, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._hung: tuple[float, str] = (float("-inf"), "")

    def __call__(self, model: str) -> Mapping[str, float]:
        """See `Backlog`."""
        with self._lock:
            until, why = self._hung
        began = self._clock()
        if began < until:
            raise NotReadyError(why)
        try:
            return self._ask(model)
        except NotReadyError as error:
            if (now := self._clock()) - began > _HANGS:
                with self._lock:
                    self._hung = (now + _AGAIN, str(error))
            raise
