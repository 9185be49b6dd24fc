"""Rollouts in the JSON that the page reads. Times are ISO 8601 in UTC; what the clock moves on is the reader's."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from model_rollouts.core.by_hand import Offer
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Advance, Plan
from model_rollouts.core.reasons import NAMES
from model_rollouts.core.rollout import ACTIVE, Event, EventKind, Rollout, State
from model_rollouts.core.traffic import Traffic
from model_rollouts.web.evidence import View

if TYPE_CHECKING:
    from model_rollouts.adapters.sql_page import Row
    from model_rollouts.airflow_ports import Question
    from model_rollouts.core.course import Point
    from model_rollouts.core.verdict import GateResult

_MOST_EVENTS = 300
#: What of an event's evidence a person reads; the rest is for machines.
_SHOWN = ("run", "verdict", "action", "checks", "breaker", "evicted", "unlogged", "by_hand", "verdict_then", "answer",
    "approval", "out_seconds", "back_seconds")  # fmt: skip
_DECIDED = {
    EventKind.CLEARED: "passed",
    EventKind.HELD: "held",
    EventKind.ROLLED_BACK: "rolled back",
    EventKind.CUT_OVER: "cut over",
    EventKind.RESUMED: "resumed",
}


def row_told(row: "Row") -> dict[str, Any]:
    """A rollout of a list."""
    stages = row.plan.get("stages") or [{}]
    setting: Mapping[str, Any] = stages[max(row.stage, 0)] if row.stage < len(stages) else {}
    return {
        "id": row.id,
        "model": row.model,
        "champion": row.champion,
        "challenger": row.challenger,
        "pattern": setting.get("pattern") or row.plan.get("pattern"),
        "state": row.state,
        "active": row.state in ACTIVE,
        "stage": row.stage + 1,
        "stages": len(stages),
        "share": row.share,
        "mirror_percent": setting.get("mirror_percent") or 0,
        "offline": bool(setting.get("offline")),
        "moved_at": _time(row.moved_at),
        "created_at": _time(row.created_at),
        "created_by": row.created_by,
        "opened_at": _time(row.opened_at),
        "judged_from": _time(row.judged_from),
        "ended_at": _time(row.ended_at),
        "look_seconds": row.plan.get("look_seconds"),
        "grace_seconds": row.plan.get("grace_seconds"),
        "bake_seconds": setting.get("bake_seconds"),
        "deadline_seconds": setting.get("deadline_seconds"),
        "reason": row.reason[:500],
    }


def rollout_told(
    rollout: Rollout,
    traffic: Traffic,
    events: Sequence[Event],
    view: View,
    offers: Sequence[Offer],
    question: "Question | None",
) -> dict[str, Any]:
    """One rollout, whole.

    Args:
        rollout: The rollout.
        traffic: Its model's traffic.
        events: Its audit, oldest first.
        view: What its looks say.
        offers: What this user may do to it; none: nothing.
        question: What its run waits for a person with.
    """
    plan = rollout.plan
    current = max(rollout.stage, 0)
    return {
        "id": rollout.id,
        "model": rollout.model,
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "pattern": plan.pattern_of(current).value,
        "state": rollout.state.value,
        "active": rollout.active,
        "stage": rollout.stage,
        "revision": rollout.revision,
        "reason": rollout.reason,
        "created_at": _time(rollout.created_at),
        "created_by": rollout.created_by,
        "opened_at": _time(rollout.opened_at),
        "judged_from": _time(rollout.judged_from),
        "ended_at": _time(rollout.ended_at),
        "look_seconds": plan.look_seconds,
        "grace_seconds": plan.grace_seconds,
        "label_maturity_seconds": plan.label_maturity_seconds,
        "keep_previous_seconds": plan.keep_previous_seconds,
        "alpha": plan.alpha,
        "advance": plan.advance.value,
        "traffic": {
            "shares": traffic.shares(),
            "champion": traffic.champion,
            "owned": traffic.rollout_id == rollout.id,
            "share": traffic.share,
            "mirror_percent": traffic.mirror_percent,
            "control_percent": traffic.control_percent,
            "previous": traffic.previous,
            "revision": traffic.revision,
        },
        "stages": _stages_told(rollout, events, view),
        "waits_for": _waits_for(rollout, view, question),
        "verdict": _verdict_told(view),
        "evidence": {"looks": view.looks, "of": view.of, "failure": view.failure, "complete": view.complete},
        "gates": [_gate_told(plan, current, gate, view) for gate in plan.stage(current).gates],
        "decided": _decided(events),
        "events": [_event_told(event) for event in events[-_MOST_EVENTS:]],
        "events_left_out": max(len(events) - _MOST_EVENTS, 0),
        "offers": [{"deed": o.deed.value, "change": o.change, "refusal": o.refusal} for o in offers],
        "question": None
        if question is None
        else {"task": question.task_id, "subject": question.subject, "body": question.body, "dag_id": question.dag_id,
              "run_id": question.run_id},
    }  # fmt: skip


def _stages_told(rollout: Rollout, events: Sequence[Event], view: View) -> list[dict[str, Any]]:
    plan = rollout.plan
    opened = {e.stage: e for e in events if e.kind is EventKind.STAGE_OPENED}
    runs: dict[int | None, Mapping[str, Any]] = {}
    for event in events:
        if run := event.evidence.get("run"):
            runs[0 if event.kind is EventKind.STARTED else event.stage] = run
    started = next((e.evidence.get("power") or [] for e in events if e.kind is EventKind.STARTED), [])
    found = []
    for position, stage in enumerate(plan.stages):
        power = started[position] if position < len(started) else {}
        at = opened.get(position)
        following = opened.get(position + 1)
        found.append(
            {
                "share": stage.share,
                "mirror_percent": stage.mirror_percent,
                "control_percent": stage.control_percent,
                "offline": stage.offline,
                "approval": stage.approval,
                "pattern": plan.pattern_of(position).value,
                "bake_seconds": stage.bake_seconds,
                "deadline_seconds": stage.deadline_seconds,
                "status": _stage_status(rollout, position),
                "opened_at": _time(at.at) if at else None,
                "left_at": _time(following.at) if following else _time(rollout.ended_at) if at else None,
                "run": runs.get(position),
                "power": power.get("summary") if isinstance(power, Mapping) else None,
                "arms": view.arms.get(position),
            }
        )
    return found


def _stage_status(rollout: Rollout, position: int) -> str:
    if rollout.state is State.PROMOTED or position < rollout.stage:
        return "passed"
    if position > rollout.stage:
        return "ahead" if rollout.active else "never"
    return {
        State.ROLLED_BACK: "rolled back",
        State.CLEARED: "passed",
        State.HOLDING: "held",
    }.get(rollout.state, "open")


def _waits_for(rollout: Rollout, view: View, question: "Question | None") -> str:
    if question is not None:
        return f"a person's answer: {question.subject}"
    match rollout.state:
        case State.PENDING:
            return "both versions to be loaded, checked, and the way back to be rehearsed; no traffic has moved"
        case State.HOLDING:
            return f"a person: {rollout.reason}"
        case State.CLEARED if rollout.stage + 1 == len(rollout.plan.stages):
            return "the cut-over"
        case State.CLEARED if rollout.plan.advance is Advance.ON_SCHEDULE:
            return (
                "the schedule: the DAG scheduled_expansion opens the next stage at its next tick that the plan allows"
            )
        case State.CLEARED:
            return "the run of the next stage, which opens once both versions are loaded and checked"
        case State.BAKING:
            return view.decision.reason if view.decision else "its looks to be added up"
        case _:
            return ""


def _verdict_told(view: View) -> dict[str, Any] | None:
    decision = view.decision
    if decision is None:
        return None
    return {
        "verdict": decision.verdict.value,
        "action": decision.action.value,
        "reason": decision.reason,
        "blind": decision.blind,
        "looks": decision.looks,
        "labelled_looks": decision.labelled_looks,
        "elapsed_seconds": round(decision.elapsed_seconds),
    }


def _gate_told(plan: Plan, stage: int, gate: Gate, view: View) -> dict[str, Any]:
    result = next((r for r in view.decision.gates if r.metric is gate.metric), None) if view.decision else None
    told: dict[str, Any] = {
        "metric": gate.metric.value,
        "name": NAMES[gate.metric],
        "role": gate.role.value,
        **_scale(gate),
        "lines": [
            {"stage": position, **_lines(own)}
            for position, setting in enumerate(plan.stages)
            if (own := setting.gate(gate.metric))
        ],
        "coverage_needed": gate.coverage,
        "min_requests": gate.min_requests,
        "points": [_point_told(point) for point in view.points.get(gate.metric, ())],
    }
    return told | (_result_told(plan, stage, gate, result) if result else {"verdict": None})


def _scale(gate: Gate) -> dict[str, Any]:
    """How the effect is drawn: its scale, the value that means no difference, and which way is worse."""
    if gate.metric is Metric.AGREEMENT:
        return {"scale": "share", "reference": None, "worse": "lower"}
    if gate.metric is Metric.VALUE:
        return {"scale": "lift", "reference": 0.0, "worse": "lower"}
    if gate.metric is Metric.SAMPLE_RATIO:
        return {"scale": "ratio", "reference": 1.0, "worse": "either"}
    return {"scale": "odds", "reference": 1.0, "worse": "higher"}


def _lines(gate: Gate) -> dict[str, float | None]:
    if gate.metric is Metric.AGREEMENT:
        return {"harm": gate.floor, "pass": gate.floor}
    if gate.metric is Metric.VALUE:
        return {"harm": gate.rollback_lift, "pass": gate.pass_lift}
    if gate.metric is Metric.SAMPLE_RATIO:
        return {"harm": None, "pass": None}
    return {"harm": gate.rollback_odds, "pass": gate.pass_odds if gate.role.must_prove else None}


def _result_told(plan: Plan, stage: int, gate: Gate, result: "GateResult") -> dict[str, Any]:
    m = result.measured
    return {
        "verdict": result.verdict.value,
        "reason": result.reason,
        "effect": _number(m.effect),
        "harm": _number(m.log_e_harm / result.harm_threshold),
        "proof": _number(m.log_e_pass / result.pass_threshold),
        "challenger_bad": m.challenger_bad,
        "challenger_n": m.challenger_n,
        "champion_bad": m.champion_bad,
        "champion_n": m.champion_n,
        "stage_n": m.stage_n,
        "stage_counts": m.stage_counts,
        "coverage": _number(m.coverage),
        "design_effect": _number(m.design_effect),
        "needed": _needed(plan, stage, gate, result),
    }


def _needed(plan: Plan, stage: int, gate: Gate, result: "GateResult") -> float | None:
    """Judged requests until a challenger as good as the champion passes; None where nothing tells it."""
    from model_rollouts.core.stage_power import needed
    from model_rollouts.core.verdict import Verdict

    if result.verdict is not Verdict.WAIT or not gate.role.holds_up:
        return None
    try:
        return _number(needed(plan, stage, gate, result))
    except ValueError:  # a share that leaves nothing to compare
        return None


def _point_told(point: "Point") -> list[float | int | None]:
    numbers = (point.effect, point.low, point.high, point.harm, point.proof)
    return [point.position, point.stage, point.look, *(_number(value) for value in numbers)]


def _decided(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Where in the course of the looks something was decided; and of the labelled ones, where that is known."""
    return [
        {
            "position": event.evidence["looks"],
            "labelled": event.evidence.get("labelled_looks"),
            "stage": event.stage,
            "what": _DECIDED[event.kind],
            "at": _time(event.at),
        }
        for event in events
        if event.kind in _DECIDED and isinstance(event.evidence.get("looks"), int)
    ]


def _event_told(event: Event) -> dict[str, Any]:
    return {
        "kind": event.kind.value,
        "at": _time(event.at),
        "actor": event.actor,
        "reason": event.reason[:2000],
        "stage": event.stage,
        "before": event.before,
        "after": event.after,
        "revision": event.traffic_revision,
        "evidence": {name: event.evidence[name] for name in _SHOWN if event.evidence.get(name) not in (None, {}, [])},
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _number(value: float | None) -> float | None:
    """Five digits are more than a picture shows; what JSON has no word for is left out."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
