"""Rows of the prediction log, as docs/contracts.md has them."""

from dataclasses import dataclass
from typing import Any

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.privacy import EVERYTHING, Privacy
from model_rollouts.gateway.routing import Arm

_ERROR_CHARS = 500


@dataclass(slots=True)
class Context:
    """What the rows of one request have in common.

    Attributes:
        gateway_id: The process.
        traffic: The row it was routed by.
        taken_us: When the gateway took the request: microseconds since 1970, UTC.
        request_ids: The id of each row.
        units: The unit of each row.
        privacy: What of it the log may know.
    """

    gateway_id: str
    traffic: Traffic
    taken_us: int
    request_ids: tuple[str, ...]
    units: tuple[str | None, ...]
    privacy: Privacy = EVERYTHING


def record(
    context: Context,
    index: int,
    arm: Arm,
    cohort: Arm | None,
    result: Answer | Failure,
    latency_ms: float,
    *,
    served: bool,
    features: tuple[Payload, int] | None,
) -> dict[str, Any]:
    """One row of `predictions`.

    Args:
        context: The request.
        index: Row of the request.
        arm: Who answered, or failed to.
        cohort: The group that the row counts for; None: it is no evidence.
        result: What came of it.
        latency_ms: From taking the request to the result.
        served: Whether the caller gets this answer.
        features: The inputs as this version read them, and the row's place in them; None when it could not.
    """
    traffic = context.traffic
    answer = result if isinstance(result, Answer) else None
    return {
        "request_id": context.request_ids[index],
        "ts": context.taken_us,
        "model": traffic.model,
        "version": traffic.challenger if arm is Arm.CHALLENGER else traffic.champion,
        "arm": arm.value,
        "cohort": cohort.value if cohort else None,
        "served": served,
        "rollout_id": traffic.rollout_id,
        "stage": traffic.stage,
        "unit_id": context.privacy.unit(context.units[index]),
        "status": result.status if isinstance(result, Failure) else "ok",
        "error": result.error[:_ERROR_CHARS] if isinstance(result, Failure) else None,
        "latency_ms": latency_ms,
        "prediction": answer.prediction if answer else None,
        "score": answer.score if answer else None,
        "gateway_id": context.gateway_id,
        "traffic_revision": traffic.revision,
        "features": context.privacy.features(traffic.model, features[0].features(features[1])) if features else {},
    }
