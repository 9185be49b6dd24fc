"""Evidence: sufficient statistics per look and arm, nothing else.

A look is one fixed time bucket of one stage. Its counts are written once, when the look is closed, and never
change after that, so that every verdict can be computed again from them to the last digit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_rollouts.core.checks import count

LATENCY_FLOOR_MS = 0.01
LATENCY_RATIO = 1.02  # width of a latency bin: 2 %, so a threshold is off by at most that
LATENCY_BINS = 2000  # the last bin is at 1.6e15 ms: no clock gives more
MOST_REQUESTS = 10**12  # a look of more is a broken count


def latency_bin(latency_ms: float) -> int:
    """The histogram bin of a latency: floor(ln(ms / 0.01) / ln 1.02), and 0 for anything not above 0.01 ms.

    Raises:
        ValueError: It is not a finite number, so that no bin tells the truth about it.
    """
    if not math.isfinite(latency_ms):
        raise ValueError(f"latency is {latency_ms} ms, must be a finite number; count such an answer as an error")
    if not latency_ms > LATENCY_FLOOR_MS:
        return 0
    return math.floor(math.log(latency_ms / LATENCY_FLOOR_MS) / math.log(LATENCY_RATIO))


def latency_edge_ms(index: int) -> float:
    """Lower edge of a latency bin, in milliseconds."""
    return LATENCY_FLOOR_MS * LATENCY_RATIO**index


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What one arm did in one look, known as soon as the look is over.

    Attributes:
        requests: Requests of this arm's cohort that the arm was asked to answer.
        errors: Those that ended in an error or a timeout.
        latency: Histogram of the answered ones: bin (see `latency_bin`) -> count.
    """

    requests: int = 0
    errors: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse counts that contradict each other.

        Raises:
            ValueError: A count is not a whole number, is negative, or is more than it can be.
        """
        count("requests", self.requests, MOST_REQUESTS, "the most that one look can hold")
        count("errors", self.errors, self.requests, "all requests")
        for index, timed in self.latency.items():
            count("latency bin", index, LATENCY_BINS - 1, "the last bin")
            count(f"count of latency bin {index}", timed, MOST_REQUESTS, "the most that one look can hold")
        count("sum of the latency bins", sum(self.latency.values()), self.requests - self.errors, "the answered ones")


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What is known of one arm's answers of one look, once the look is `label_maturity` old.

    Attributes:
        due: Answered requests whose label should have arrived by now.
        labelled: Those that have one. The rest counts as missing.
        wrong: Labelled requests whose prediction differs from the label.
    """

    due: int = 0
    labelled: int = 0
    wrong: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that contradict each other.

        Raises:
            ValueError: A count is not a whole number, is negative, or is more than it can be.
        """
        count("due", self.due, MOST_REQUESTS, "the most that one look can hold")
        count("labelled", self.labelled, self.due, "all that are due")
        count("wrong", self.wrong, self.labelled, "all that are labelled")


@dataclass(frozen=True, slots=True)
class Look:
    """One closed time bucket.

    Attributes:
        stage: Position of its stage in the plan.
        index: Its position in the stage, from 0.
        champion: What the champion did.
        challenger: What the challenger did.
        champion_labels: What is known of the champion's answers; None until the look has matured.
        challenger_labels: The same for the challenger; both arms mature together.
    """

    stage: int
    index: int
    champion: RequestCounts
    challenger: RequestCounts
    champion_labels: LabelCounts | None = None
    challenger_labels: LabelCounts | None = None

    def __post_init__(self) -> None:
        """Refuse a look that has no place, or labels for one arm only.

        Raises:
            ValueError: The message states the value and the bound.
        """
        count("stage", self.stage, MOST_REQUESTS, "a position in the plan")
        count("index", self.index, MOST_REQUESTS, "a position in the stage")
        if (self.champion_labels is None) is not (self.challenger_labels is None):
            raise ValueError(
                f"look {self.index} of stage {self.stage} has labels for one arm only; count both, or neither yet"
            )

    def to_dict(self) -> dict[str, Any]:
        """The exact numbers as JSON types."""

        def requests(counts: RequestCounts) -> dict[str, Any]:
            latency = {str(k): v for k, v in sorted(counts.latency.items())}
            return {"requests": counts.requests, "errors": counts.errors, "latency": latency}

        def labels(counts: LabelCounts | None) -> dict[str, int] | None:
            return None if counts is None else {"due": counts.due, "labelled": counts.labelled, "wrong": counts.wrong}

        return {
            "stage": self.stage,
            "index": self.index,
            "champion": requests(self.champion),
            "challenger": requests(self.challenger),
            "champion_labels": labels(self.champion_labels),
            "challenger_labels": labels(self.challenger_labels),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Look":
        """The inverse of `to_dict`."""

        def requests(raw: Mapping[str, Any]) -> RequestCounts:
            return RequestCounts(raw["requests"], raw["errors"], {int(k): v for k, v in raw["latency"].items()})

        def labels(raw: Mapping[str, int] | None) -> LabelCounts | None:
            return None if raw is None else LabelCounts(raw["due"], raw["labelled"], raw["wrong"])

        return cls(
            data["stage"],
            data["index"],
            requests(data["champion"]),
            requests(data["challenger"]),
            labels(data["champion_labels"]),
            labels(data["challenger_labels"]),
        )
