"""Evidence: sufficient statistics per look and arm, nothing else.

A look is one fixed time bucket of one stage. Its counts are written once, when the look is closed, and never
change after that, so that every verdict can be computed again from them to the last digit.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from model_rollouts.core.checks import MOST_REQUESTS, count
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, UnitCounts, ValueSums

LATENCY_FLOOR_MS = 0.01
LATENCY_RATIO = 1.02  # width of a latency bin: 2 %, so a threshold is off by at most that
LATENCY_BINS = 2000  # the last bin is at 1.6e15 ms: no clock gives more


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
class ArmLabels:
    """What the labels say of one arm in one look.

    Attributes:
        counts: Answers, labels, and wrong answers.
        clusters: Repeat requests of units among the labelled ones; the outcome is that the answer is wrong.
    """

    counts: LabelCounts = field(default_factory=LabelCounts)
    clusters: ClusterSums = field(default_factory=ClusterSums)


@dataclass(frozen=True, slots=True)
class Look:
    """One closed time bucket.

    What belongs to requests is known when the look is closed, what belongs to labels once it has matured. A part that
    the plan did not ask for is None.

    Attributes:
        stage: Position of its stage in the plan.
        index: Its position in the stage, from 0.
        champion: What the champion did.
        challenger: What the challenger did.
        champion_labels: What is known of the champion's answers; None until the look has matured.
        challenger_labels: The same for the challenger; both arms mature together.
        champion_units: The champion's units.
        challenger_units: The challenger's units.
        pairs: Requests that both answered.
        pair_clusters: Repeat requests of units among them; the outcome is that they do not agree.
        champion_label_clusters: Repeat requests of the champion's units among the labelled ones.
        challenger_label_clusters: The same for the challenger.
        values: Business values.
    """

    stage: int
    index: int
    champion: RequestCounts
    challenger: RequestCounts
    champion_labels: LabelCounts | None = None
    challenger_labels: LabelCounts | None = None
    champion_units: UnitCounts | None = None
    challenger_units: UnitCounts | None = None
    pairs: PairCounts | None = None
    pair_clusters: ClusterSums | None = None
    champion_label_clusters: ClusterSums | None = None
    challenger_label_clusters: ClusterSums | None = None
    values: ValueSums | None = None

    def __post_init__(self) -> None:
        """Refuse a look that has no place, parts of one arm only, or what belongs to labels without labels.

        Raises:
            ValueError: The message states the value and the bound.
        """
        count("stage", self.stage, MOST_REQUESTS, "a position in the plan")
        count("index", self.index, MOST_REQUESTS, "a position in the stage")
        for part in ("labels", "units", "label_clusters"):
            if (getattr(self, f"champion_{part}") is None) is not (getattr(self, f"challenger_{part}") is None):
                raise ValueError(
                    f"look {self.index} of stage {self.stage} has {part} for one arm only; count both, or neither yet"
                )
        if self.champion_labels is None and (self.values is not None or self.champion_label_clusters is not None):
            raise ValueError(
                f"look {self.index} of stage {self.stage} has values or clusters of labels and no labels; all three "
                "are counted once the look has matured"
            )

    @property
    def matured(self) -> bool:
        """Whether its labels have been counted."""
        return self.champion_labels is not None

    def to_dict(self) -> dict[str, Any]:
        """The exact numbers as JSON types; parts that are None are left out."""
        data: dict[str, Any] = {"stage": self.stage, "index": self.index}
        for name in (*_REQUEST_PARTS, *_LABEL_PARTS):
            part = getattr(self, name)
            if part is not None:
                data[name] = asdict(part)
                if isinstance(part, RequestCounts):
                    data[name]["latency"] = {str(k): v for k, v in sorted(part.latency.items())}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Look":
        """The inverse of `to_dict`."""
        parts = {name: _part(kind, data[name]) for name, kind in _PARTS.items() if data.get(name) is not None}
        return cls(data["stage"], data["index"], **parts)


_REQUEST_PARTS: dict[str, type[Any]] = {
    "champion": RequestCounts,
    "challenger": RequestCounts,
    "champion_units": UnitCounts,
    "challenger_units": UnitCounts,
    "pairs": PairCounts,
    "pair_clusters": ClusterSums,
}
_LABEL_PARTS: dict[str, type[Any]] = {
    "champion_labels": LabelCounts,
    "challenger_labels": LabelCounts,
    "champion_label_clusters": ClusterSums,
    "challenger_label_clusters": ClusterSums,
    "values": ValueSums,
}
_PARTS = _REQUEST_PARTS | _LABEL_PARTS


def request_parts(look: Look) -> dict[str, Any]:
    """What of a look is known when it is closed, in JSON types."""
    return {name: part for name, part in look.to_dict().items() if name in _REQUEST_PARTS}


def label_parts(look: Look) -> dict[str, Any] | None:
    """What of a look is known once it has matured, in JSON types; None before."""
    return {name: part for name, part in look.to_dict().items() if name in _LABEL_PARTS} if look.matured else None


def _part(kind: type[Any], raw: Mapping[str, Any]) -> Any:
    values = dict(raw)
    if kind is RequestCounts:
        values["latency"] = {int(k): v for k, v in raw["latency"].items()}
    if kind is UnitCounts:
        values["clusters"] = {name: ClusterSums(**sums) for name, sums in raw["clusters"].items()}
    return kind(**values)
