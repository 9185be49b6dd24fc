"""What must hold before a rollout moves anything: nothing is deployed that can't be monitored and undone."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from model_rollouts.core.checks import choice, flag, names, number, whole
from model_rollouts.core.errors import PlanError

_MOST_GOLDEN = 1000


class Monitored(StrEnum):
    """What can be watched of a model once it serves."""

    ACCURACY = "accuracy"  # labels arrive
    LATENCY = "latency"
    ERRORS = "errors"
    DRIFT = "drift"  # inputs are logged, enough of them to compare with
    BUSINESS = "business"  # values arrive


@dataclass(frozen=True, slots=True)
class Readiness:
    """The checklist of a plan.

    Attributes:
        on_call: Who stands by: names or addresses. They are told of everything that happens.
        acknowledge: Ask them, before anything moves, whether they do; no answer in time means not now.
        may_be_missing: What of the five need not be monitored; anything else that the log can't show refuses the start.
        golden_requests: How many requests of the champion's log both versions must answer before traffic moves, the
            rollback target with the answers that it gave before. 0: none.
        golden_file: JSON lines of further requests with expected answers; see adapters/golden.py. "": none.
        golden_agreement: Least share of the golden requests that the challenger must answer as expected, 0 to 1;
            failing to answer is never accepted.
        rehearse: Flip the traffic to the challenger, for no unit, and back before anything moves, and measure it.
        drill_within_days: Refuse the start unless a rollback drill succeeded within so many days. None: no matter.
    """

    on_call: tuple[str, ...] = ()
    acknowledge: bool = False
    may_be_missing: tuple[Monitored, ...] = ()
    golden_requests: int = 20
    golden_file: str = ""
    golden_agreement: float = 0.0
    rehearse: bool = True
    drill_within_days: float | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        if not isinstance(self.on_call, tuple) or not all(
            isinstance(name, str) and name.strip() for name in self.on_call
        ):
            raise PlanError(f"on_call is {self.on_call!r}, must be a list of names or addresses")
        if not isinstance(self.may_be_missing, tuple) or not all(
            isinstance(each, Monitored) for each in self.may_be_missing
        ):
            raise PlanError(
                f"may_be_missing is {self.may_be_missing!r}, must be among {', '.join(Monitored)}; use "
                "Readiness.from_dict for plain text"
            )
        flag("acknowledge", self.acknowledge)
        flag("rehearse", self.rehearse)
        if self.acknowledge and not self.on_call:
            raise PlanError("acknowledge is set and on_call is empty: name whom to ask")
        whole("golden_requests", self.golden_requests, 0, _MOST_GOLDEN)
        number("golden_agreement", self.golden_agreement, 0, 1)
        if not isinstance(self.golden_file, str):
            raise PlanError(f"golden_file is {self.golden_file!r}, must be a path or empty")
        if self.golden_agreement > 0 and not (self.golden_requests or self.golden_file):
            raise PlanError(
                f"golden_agreement is {self.golden_agreement:g} and no golden request is asked: set golden_requests "
                "or golden_file"
            )
        if self.drill_within_days is not None:
            number("drill_within_days", self.drill_within_days, 0.001, 366)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Readiness":
        """Build from JSON types.

        Raises:
            PlanError: A name is unknown or a value is wrong.
        """
        values = dict(names("readiness", data, cls))
        if isinstance(values.get("on_call"), list):
            values["on_call"] = tuple(values["on_call"])
        if isinstance(values.get("may_be_missing"), list | tuple):
            values["may_be_missing"] = tuple(
                choice("may_be_missing", each, Monitored) for each in values["may_be_missing"]
            )
        return cls(**values)
