"""Deliveries that were taken, remembered for as long as a copy of one would pass for new."""

from collections import OrderedDict

from model_rollouts.web.signature import TOLERANCE_SECONDS, Delivery

_MOST = 10_000  # in ten minutes; MLflow sends one a change


class FullError(Exception):
    """So many are remembered that another one could not be told from a copy."""


class Deliveries:
    """One process's memory of them. Not for several threads.

    A signature holds for the time in it, five minutes to each side. What is signed then, and remembered until then, is
    taken once; later its signature is too old.

    Args:
        most: How many may be remembered at once. None is forgotten to make room.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._until: OrderedDict[str, float] = OrderedDict()  # by id

    def is_known(self, delivery: Delivery, now: float) -> bool:
        """Whether it was taken before.

        Args:
            delivery: One with a good signature.
            now: Seconds since 1970.

        Raises:
            FullError: It was not, and there is no room to remember it.
        """
        if delivery.id in self._until:
            return True
        if len(self._until) >= self._most:
            for each in [each for each, until in self._until.items() if until < now]:
                del self._until[each]
            if len(self._until) >= self._most:
                raise FullError(
                    f"{self._most} deliveries came within {2 * TOLERANCE_SECONDS} s; the registry is polled"
                )
        return False

    def remember(self, delivery: Delivery) -> None:
        """It is taken."""
        self._until[delivery.id] = delivery.sent + TOLERANCE_SECONDS
