"""Errors a caller can act on: each message states the value, the bound and what to do."""


class RolloutError(Exception):
    """Base of every error this package raises on purpose."""


class PlanError(RolloutError, ValueError):
    """The plan's parameters contradict a bound or each other."""


class IllegalTransitionError(RolloutError):
    """The rollout is not in a state that allows the requested step."""


class ActiveRolloutError(RolloutError):
    """Another rollout of the same model is still active."""


class StaleRevisionError(RolloutError):
    """Somebody else changed the row since it was read; read again and decide again."""


class NotFoundError(RolloutError, LookupError):
    """The named rollout, model, version or alias does not exist."""


class NotReadyError(RolloutError):
    """A precondition of the readiness checklist does not hold."""


class MissingReasonError(RolloutError, ValueError):
    """A person changes something and does not say why."""


class DataRollbackError(RolloutError):
    """Data that should have been undone with the model was not, or not within its time limit."""
