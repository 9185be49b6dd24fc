"""A verdict on record, made again from the counts that it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model_rollouts.core.conclusion import distrust, postponed
from model_rollouts.core.decision import ENGINE, Decision, decide
from model_rollouts.core.evidence import Look
from model_rollouts.core.exhaustion import exhaust
from model_rollouts.core.plan import Plan


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What came of it.

    Attributes:
        recorded: As it is on record.
        again: As the counts give it.
        differences: Paths of the numbers that differ, such as `gates.0.measured.log_e_harm`; empty when it is the same.
    """

    recorded: Decision
    again: Decision
    differences: tuple[str, ...]


def record_of(plan: Plan, looks: Sequence[Look], decision: Decision) -> dict[str, Any]:
    """Everything that a verdict rests on, in JSON types: the plan, the looks, the decision.

    Args:
        plan: The rollout's plan.
        looks: All its looks, in order; those that came after the decision are left out.
        decision: The decision.
    """
    return {
        "plan": plan.to_dict(),
        "looks": [look.to_dict() for look in _as_then(looks, decision)],
        "decision": decision.to_dict(),
    }


def recompute(record: Mapping[str, Any]) -> Recomputed:
    """The verdict again, from `record_of`'s record.

    Raises:
        PlanError: The plan on record is no plan.
        ValueError: The looks on record are fewer than the decision rests on, or contradict each other.
    """
    looks = [Look.from_dict(look) for look in record["looks"]]
    return recompute_from(Plan.from_dict(record["plan"]), looks, Decision.from_dict(record["decision"]))


def recompute_from(plan: Plan, looks: Sequence[Look], recorded: Decision) -> Recomputed:
    """The verdict again, from looks that may have grown, and gained labels, since.

    Raises:
        ValueError: There are fewer looks, or fewer with labels, than the decision rests on; or another engine made it.
    """
    if recorded.engine != ENGINE:
        raise ValueError(f"the decision was made by engine {recorded.engine}, this is engine {ENGINE}")
    seen = _as_then(looks, recorded)
    again = decide(plan, recorded.stage, seen, recorded.elapsed_seconds, recorded.signals_from)
    if recorded.unreadable:
        again = distrust(again, recorded.unreadable, plan)
    if recorded.waits_for:
        again = postponed(again, recorded.waits_for)
    if recorded.exhausted:
        again = exhaust(again, recorded.exhausted, plan)
    return Recomputed(recorded, again, tuple(_differences("", recorded.to_dict(), again.to_dict())))


def _as_then(looks: Sequence[Look], decision: Decision) -> list[Look]:
    if len(looks) < decision.looks or not all(look.matured for look in looks[: decision.labelled_looks]):
        labelled = sum(look.matured for look in looks)
        raise ValueError(
            f"the decision rests on {decision.looks} looks, {decision.labelled_looks} of them with labels; there are "
            f"{len(looks)} and {labelled}: restore the store's table of looks"
        )
    return [
        look if position < decision.labelled_looks else unlabelled(look)
        for position, look in enumerate(looks[: decision.looks])
    ]


def unlabelled(look: Look) -> Look:
    """The look as it was when it was closed, before its labels had matured."""
    return replace(
        look,
        champion_labels=None,
        challenger_labels=None,
        champion_label_clusters=None,
        challenger_label_clusters=None,
        values=None,
    )


def _differences(path: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return [d for key in one for d in _differences(f"{path}.{key}".lstrip("."), one[key], other[key])]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in _differences(f"{path}.{i}".lstrip("."), a, b)]
    return [] if one == other else [path]
