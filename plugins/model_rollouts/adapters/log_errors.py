"""What can go wrong with reading the log, whichever it is."""

from model_rollouts.core.errors import RolloutError


class LogReadError(RolloutError):
    """The log is there and can't be read. Never to be taken for an empty log."""
