"""What docs/faults.md has a row of, whether it ran or not: a fault that is not tried is named as such."""

from tests.faults.gateway_lines import LINES

_PAIRS = (
    "expand and roll back",
    "expand and roll back by whatever it is",
    "cut over and roll back",
    "cut over and roll back by whatever it is",
    "hold and expand",
    "roll back and roll back",
    "start and start",
    "`rollouts expand` and `rollouts rollback`",
    "approve and roll back, by the page",
)
#: Fault -> its part of the run, in the page's order.
EXPECTED = dict.fromkeys(
    (
        *(f"kill -9 at task boundaries of a canary ({number} of 3)" for number in (1, 2, 3)),
        "60 s without PostgreSQL and MLflow in a canary's watch",
        "a challenger that takes 30 s to load",
        *(f"two people at once: {pair}" for pair in _PAIRS),
        "all deeds of two people together",
        "by hand, in the middle of a stage: alias champion moved to version 2",
        "by hand, in the middle of a stage: alias champion moved to version 3",
        "by hand, in the middle of a stage: alias challenger removed",
        "store restored from an older backup, in the middle of the next rollout",
        "the gateways' wall clock jumps (preloaded library)",
        "the clock that verdicts are made by jumps (the service's own clock)",
    ),
    "stack",
) | dict.fromkeys((line.fault for line in LINES if line.small), "gateway")
