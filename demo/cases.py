"""Which challengers the demo rolls out by which pattern, with which form, and what each must come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model_rollouts.core.plan import Pattern

# What all forms have in common. Looks and maturity are short because the clock is accelerated; the slack is wide
# because everything here shares two cores. Few golden requests leave something for the gates to find: among many there
# is one that a version which raises on some planes can't answer, and preflight would refuse it.
COMMON: dict[str, Any] = {
    "look_seconds": 1.5,
    "grace_seconds": 3.5,  # above what a mirrored request may wait and take (2 s and 1 s) and the log's half second
    "label_maturity_seconds": 4.5,
    "label_coverage": 0.8,
    "min_requests": 30,
    "latency_slack_ms": 100,
    "golden_requests": 5,
    "on_call": ["demo"],
}

FORMS: dict[str, dict[str, Any]] = {
    "canary": COMMON
    | {
        "steps": [1, 5, 25, 50, 100],
        "bake_seconds": 5,
        "deadline_seconds": 120,
        "control_percent": 30,
        "first_pass_odds": 6,
        # 1 % are some 25 aircraft: users' worth of evidence can't prove much less than 40 %
        "negligible_error_rate": 0.1,
    },
    "blue-green": COMMON
    | {
        "mirror_percent": 50,
        "green_seconds": 8,
        "green_deadline_seconds": 120,
        "bake_seconds": 8,
        "deadline_seconds": 120,
        "control_percent": 30,
        "negligible_error_rate": 0.1,
        "latency_slack_ms": 150,  # everybody is on one version, which has all the load of two busy cores then
    },
    "shadow": COMMON
    | {
        "mirror_percent": 100,
        "bake_seconds": 5,
        "deadline_seconds": 120,
        "at_deadline": "roll_back",  # nobody is there to look at what is held
        "negligible_error_rate": 0.1,
    },
    "ab-test": COMMON | {"bake_seconds": 5, "horizon_seconds": 150, "min_units": 300},
    "gradual": COMMON
    | {
        "bake_seconds": 8,
        "deadline_seconds": 120,
        "control_percent": 30,
        "negligible_error_rate": 0.1,
        "latency_slack_ms": 150,
    },
}


@dataclass(frozen=True, slots=True)
class Case:
    """One rollout of the demo.

    Attributes:
        pattern: Which pattern.
        challenger: Variant of the flights model.
        expected: The action that it must come to.
        by_registry: Started by an alias in MLflow, not by the form.
    """

    pattern: str
    challenger: str
    expected: str
    by_registry: bool = False

    @property
    def dag_id(self) -> str:
        """The pattern's DAG."""
        return Pattern(self.pattern).dag_id

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.pattern} of {self.challenger}" + (" by the registry" if self.by_registry else "")


# In an order in which each good one is fit to follow the champion before it.
CASES: tuple[Case, ...] = (
    Case("shadow", "refit", "cut_over"),
    Case("shadow", "inaccurate", "roll_back"),
    Case("ab-test", "early", "cut_over"),
    Case("ab-test", "inaccurate", "roll_back"),
    Case("canary", "better", "cut_over"),
    Case("canary", "inaccurate", "roll_back"),
    Case("blue-green", "retrained", "cut_over"),
    Case("blue-green", "slow", "roll_back"),
    Case("gradual", "better", "cut_over"),
    Case("gradual", "raises", "roll_back"),
    Case("gradual", "retrained", "cut_over", by_registry=True),
)
PATTERNS = tuple(FORMS)

# For CHALLENGERS=...: canaries of these.
CANARY_EXPECTED = {"better": "cut_over", "inaccurate": "roll_back", "raises": "roll_back", "slow": "roll_back"}


def chosen(patterns: Sequence[str], challengers: Sequence[str]) -> tuple[Case, ...]:
    """The rollouts of some patterns, or canaries of some challengers.

    Raises:
        ValueError: A name is unknown, given twice, or both are given and no canary is among the patterns.
    """
    for name, given, known in (
        ("PATTERN", patterns, PATTERNS),
        ("CHALLENGERS", challengers, tuple(CANARY_EXPECTED)),
    ):
        if unknown := [each for each in given if each not in known]:
            raise ValueError(f"{name} holds {', '.join(unknown)}, must be among {', '.join(known)}")
        if len(set(given)) != len(given):
            raise ValueError(f"{name} names one twice: {', '.join(given)}")
    if challengers:
        if patterns and patterns != ("canary",):
            raise ValueError(f"CHALLENGERS is of canaries, and PATTERN is {', '.join(patterns)}; leave one of them out")
        return tuple(Case("canary", name, CANARY_EXPECTED[name]) for name in challengers)
    if not patterns:
        return CASES
    return tuple(case for case in CASES if case.pattern in patterns and not case.by_registry)
