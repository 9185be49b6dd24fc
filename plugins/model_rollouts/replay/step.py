"""One moment of a replay."""

from dataclasses import dataclass
from datetime import datetime

from model_rollouts.core.decision import Decision


@dataclass(frozen=True, slots=True)
class Step:
    """The verdict at one look.

    Attributes:
        at: When the look was closed, UTC.
        stage: Position of the stage.
        share: The challenger's share of it, in percent.
        decision: What was, or would have been, decided then.
    """

    at: datetime
    stage: int
    share: float
    decision: Decision
