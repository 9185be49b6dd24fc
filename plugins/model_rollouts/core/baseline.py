"""Baseline: what a version did as champion before a rollout, in counts, so that a plan can be checked against it."""

from dataclasses import dataclass

from model_rollouts.core.checks import MOST_REQUESTS, count, finite

_TWO = 2  # a spread needs two values


@dataclass(frozen=True, slots=True)
class Baseline:
    """One version's answers as champion in one span of time.

    Attributes:
        requests: Requests that it was asked to answer.
        errors: Those that ended in an error or a timeout, or without a believable latency.
        seconds: Length of the span, from the first of the requests on where there are any.
        due: Answered requests old enough for their label and value to be there by the end of the span.
        labelled: Those of them that have a label.
        wrong: Labelled requests whose prediction differs from the label.
        units: Different units that made the requests. A request without a unit is a unit of its own.
        valued: Those of the due that have a value.
        value_mean: Mean of the values; None without any.
        value_sd: Their standard deviation (divisor n - 1); None with fewer than two.
    """

    requests: int
    errors: int
    seconds: float
    due: int
    labelled: int
    wrong: int
    units: int
    valued: int
    value_mean: float | None
    value_sd: float | None

    def __post_init__(self) -> None:
        """Refuse numbers that contradict each other.

        Raises:
            ValueError: The message states the value and the bound.
        """
        count("requests", self.requests, MOST_REQUESTS, "the most that a log can hold")
        count("errors", self.errors, self.requests, "all requests")
        count("due", self.due, self.requests, "all requests")
        count("labelled", self.labelled, self.due, "all that are due")
        count("wrong", self.wrong, self.labelled, "all that are labelled")
        count("units", self.units, self.requests, "all requests")
        count("valued", self.valued, self.due, "all that are due")
        finite("seconds", self.seconds)
        if self.seconds <= 0:
            raise ValueError(f"seconds is {self.seconds}, must be above 0")
        for name, value, least in (("value_mean", self.value_mean, 1), ("value_sd", self.value_sd, _TWO)):
            if (value is not None) is not (self.valued >= least):
                raise ValueError(
                    f"{name} is {value} with {self.valued} values, must be a number from {least} values on and None "
                    "with fewer"
                )
            if value is not None:
                finite(name, value)
        if self.value_sd is not None and self.value_sd < 0:
            raise ValueError(f"value_sd is {self.value_sd}, must be at least 0")
