"""Which version answers a row, and which randomised group the row counts for. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from model_rollouts.core.bucketing import in_share, position
from model_rollouts.core.traffic import Traffic

_EVERYBODY = 100.0


class Arm(StrEnum):
    """The role of the version that answers."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


@dataclass(frozen=True, slots=True)
class Route:
    """Where one row goes.

    Attributes:
        arm: Who answers it.
        cohort: The group it counts for, or None when it is no evidence.
        control: Whether the champion scores it too, unseen by the caller, for the control sample.
        mirror: Whether the challenger scores it too, unseen by the caller.
    """

    arm: Arm
    cohort: Arm | None
    control: bool = False
    mirror: bool = False


_NO_EVIDENCE = Route(Arm.CHAMPION, None)
_TO_CHAMPION = Route(Arm.CHAMPION, Arm.CHAMPION)
_MIRRORED = Route(Arm.CHAMPION, Arm.CHAMPION, mirror=True)
_TO_CHALLENGER = Route(Arm.CHALLENGER, Arm.CHALLENGER)
_CONTROL = Route(Arm.CHALLENGER, Arm.CHAMPION, control=True)


_ASKED_FOR = {Arm.CHAMPION: _NO_EVIDENCE, Arm.CHALLENGER: Route(Arm.CHALLENGER, None)}


def asked_for(arm: Arm) -> Route:
    """The route of a tester's request: the arm is its wish, and it is no evidence."""
    return _ASKED_FOR[arm]


def route(traffic: Traffic, unit: str | None, request_id: str, *, challenger_ready: bool) -> Route:
    """Assign one row.

    Args:
        traffic: The row of the traffic table to route by.
        unit: Who the request is for; a request of nobody is dealt by its id.
        request_id: The row's id.
        challenger_ready: Whether the challenger is loaded. Until it is, the champion answers everybody and no row
            counts for either group: the champion's would come from times and gateways that have none of the
            challenger's to compare them with.
    """
    if traffic.rollout_id is None or traffic.stage is None or traffic.challenger is None or not challenger_ready:
        return _NO_EVIDENCE  # without a stage: the lease is taken, and nothing is judged yet
    if traffic.share == 0:
        return _MIRRORED if in_share(f"{traffic.salt}:mirror", request_id, traffic.mirror_percent) else _TO_CHAMPION
    place = position(traffic.salt, unit or request_id)
    if place >= traffic.share:
        # A group as large as the challenger's, from the other end of the line: up to a share of 50 no unit is ever in
        # both, and both grow with the share without losing anybody.
        counts = not traffic.control_group or place >= _EVERYBODY - traffic.share
        return _TO_CHAMPION if counts else _NO_EVIDENCE
    if traffic.share >= _EVERYBODY and in_share(f"{traffic.salt}:control", request_id, traffic.control_percent):
        return _CONTROL
    return _TO_CHALLENGER
