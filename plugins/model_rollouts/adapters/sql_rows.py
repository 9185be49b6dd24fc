"""Rows of the rollout store from and to the core's objects."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping

from model_rollouts.adapters.sql_tables import Row
from model_rollouts.core.evidence import Look, label_parts, request_parts
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Event, EventKind, Rollout, State
from model_rollouts.core.traffic import Traffic


def dumps(value: Any) -> str:
    """JSON as the store keeps it.

    Raises:
        ValueError: A number is NaN or infinite, which JSON has no word for.
        TypeError: A value is of no JSON type.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def from_rollout(rollout: Rollout) -> Row:
    """The row of a rollout."""
    row = {name: getattr(rollout, name) for name in Rollout.__dataclass_fields__}
    return {**row, "plan": rollout.plan.to_dict(), "state": rollout.state.value, "reason": _storable(rollout.reason)}


def to_rollout(row: RowMapping) -> Rollout:
    """The rollout of a row."""
    return Rollout(**{**row, "plan": Plan.from_dict(row["plan"]), "state": State(row["state"])})


def from_traffic(traffic: Traffic) -> Row:
    """The row of a model's traffic."""
    return asdict(traffic)


def to_traffic(row: RowMapping) -> Traffic:
    """The traffic of a row."""
    return Traffic(**row)


def from_event(event: Event) -> Row:
    """The row of an audit line. Evidence that JSON can't hold is kept as text.

    The audit must not be what stops a rollback, so an odd value (NaN, a date, a zero byte in an error message) is
    written down as well as it can be.
    """
    row = {name: getattr(event, name) for name in Event.__dataclass_fields__}
    return {
        **row,
        "kind": event.kind.value,
        "actor": _storable(event.actor),
        "reason": _storable(event.reason),
        "before": dict(event.before),
        "after": dict(event.after),
        "evidence": _storable(event.evidence),
    }


def to_event(row: RowMapping) -> Event:
    """The audit line of a row."""
    return Event(**{**{k: v for k, v in row.items() if k != "id"}, "kind": EventKind(row["kind"])})


def from_look(rollout_id: str, look: Look) -> Row:
    """The row of a closed look."""
    place = {"rollout_id": rollout_id, "stage": look.stage, "look": look.index}
    return {**place, "counts": request_parts(look), "labels": label_parts(look)}


def to_look(row: RowMapping) -> Look:
    """The look of a row."""
    # rows of earlier versions name the label counts by the arm alone
    labels = {
        name if "_" in name or name == "values" else f"{name}_labels": part
        for name, part in (row["labels"] or {}).items()
    }
    return Look.from_dict({"stage": row["stage"], "index": row["look"], **row["counts"], **labels})


def _storable(value: Any) -> Any:
    """The value in JSON types that both engines take; what does not fit becomes text."""
    match value:
        case bool() | int() | None:
            return value
        case str():  # lone surrogates and zero bytes are no text to PostgreSQL
            return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
        case float():
            return float(value) if math.isfinite(value) else str(float(value))
        case Mapping():
            return {_storable(str(key)): _storable(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_storable(item) for item in value]
        case _:
            return _storable(str(value))
