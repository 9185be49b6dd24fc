"""The one loop in which a traffic row is read, a change is made of it, and the store applies it."""

from collections.abc import Callable

from model_rollouts.core.errors import NotFoundError, StaleRevisionError
from model_rollouts.core.rollout import Change
from model_rollouts.core.traffic import Traffic
from model_rollouts.ports import RolloutStore

_TRIES = 5


def change_traffic(
    store: RolloutStore, model: str, change_of: Callable[[Traffic], Change | None], tries: int = _TRIES
) -> Traffic:
    """Read, change, write; read again when somebody else was faster. Gives the row afterwards.

    Args:
        store: Applies the change under the revisions that were read.
        model: Registered model name.
        change_of: Makes the change of the row as it is; None: there is nothing to do.
        tries: How often it is read at the most.

    Raises:
        NotFoundError: The model was never adopted.
        StaleRevisionError: Somebody else was faster each time.
    """
    for attempt in range(tries):
        traffic = store.traffic(model)
        if traffic is None:
            raise NotFoundError(f"the store knows no model {model!r}; it is adopted with its first rollout or gateway")
        change = change_of(traffic)
        if change is None:
            return traffic
        try:
            store.apply(change)
        except StaleRevisionError:
            if attempt == tries - 1:
                raise
        else:
            return change.traffic or traffic
    raise AssertionError("unreachable")
