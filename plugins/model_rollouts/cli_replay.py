"""Commands that judge the past again: `rollouts replay` and `rollouts recompute`."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_rollouts.cli_shared import (
    UsageError,
    changes,
    mapped_log,
    moment,
    print_json,
    print_table,
    require_known,
    told,
    wiring,
)
from model_rollouts.core.errors import NotFoundError, PlanError
from model_rollouts.core.gates import Gate
from model_rollouts.core.plan import Plan

if TYPE_CHECKING:
    from model_rollouts.adapters.log_places import LogRoot
    from model_rollouts.core.decision import Decision
    from model_rollouts.core.rollout import Rollout
    from model_rollouts.replay.step import Step
    from model_rollouts.wiring import Wiring

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_COLUMNS = ("at", "stage", "share", "looks", "requests", "verdict", "gates passed", "evidence of harm", "reason")


def replay(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    rollout: Annotated[str | None, typer.Option(help="Rollout to replay; the newest one when left out.")] = None,
    champion: Annotated[str | None, typer.Option(help="Version that plays the champion, over a period.")] = None,
    challenger: Annotated[str | None, typer.Option(help="Version that plays the challenger, over a period.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Begin of the period, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="End of the period, ISO 8601; now when left out.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan to play, as JSON; a canary when left out.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE, as often as wanted. For a rollout: a field of its gates (rollback_odds=1.5, or of one: "
            "latency_p95.latency_margin=0.5). For a period: a field of the canary's form (steps=[5,50,100]).",
        ),
    ] = None,
    salt: Annotated[
        str, typer.Option(help="Deals the units over a period; another one shows what is chance.")
    ] = "replay",
    mapping: Annotated[
        Path | None,
        typer.Option(help="YAML that says which columns of a team's own table are the log's (docs/batch.md)."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Judge logged predictions again, look by look, by the code that judges live ones.

    A rollout on record is counted anew from the log: with its own plan the verdicts on record have to come out again
    (exit code 1 when one does not); with other margins it shows what they would have decided on the same traffic. Over
    a period, any plan is played with two versions whose answers were logged, mirrored or split.
    """
    with told():
        parts = wiring()
        changed = changes(change)
        if champion or challenger or since:
            if rollout or not (champion and challenger and since):
                raise UsageError("a period needs --champion, --challenger and --from, and no --rollout")
            period = (moment(since), moment(until) if until else datetime.now(UTC))
            log = mapped_log(parts, mapping, model, champion, challenger) if mapping else parts.log_root
            _show(_over_period(log, model, (champion, challenger), period, plan, changed, salt), as_json)
            return
        if until or plan or mapping:
            raise UsageError(
                "--to, --plan and --mapping belong to a period; give --champion, --challenger and --from too"
            )
        require_known(parts.store, model)
        _replay_rollout(parts, _named(parts, model, rollout), changed, as_json)


def recompute(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    rollout: Annotated[str | None, typer.Option(help="Rollout; the newest one when left out.")] = None,
) -> None:
    """Compute the verdicts on record again from the counts that the store kept. Needs no prediction log.

    Exit code 1 when one does not come out the same.
    """
    with told():
        from model_rollouts.core.decision import ENGINE, Decision
        from model_rollouts.core.recompute import recompute_from

        parts = wiring()
        require_known(parts.store, model)
        found = _named(parts, model, rollout)
        looks = parts.store.looks(found.id)
        events = [e for e in parts.store.events(rollout_id=found.id) if e.evidence.get("engine") == ENGINE]
        if earlier := sum("gates" in e.evidence for e in parts.store.events(rollout_id=found.id)) - len(events):
            typer.echo(f"{earlier} verdicts are an earlier engine's and can't be made again by this one", err=True)
        different = 0
        for event in events:
            result = recompute_from(found.plan, looks, Decision.from_dict(event.evidence))
            different += bool(result.differences)
            typer.echo(_verdict_line(event.kind, result.recorded, result.differences))
        typer.echo(f"{found.id}: {len(events) - different} of {len(events)} verdicts on record come out the same")
        if different:
            raise typer.Exit(1)


def _named(parts: "Wiring", model: str, rollout_id: str | None) -> "Rollout":
    if rollout_id is not None:
        found = parts.store.rollout(rollout_id)
        if found.model != model:
            raise NotFoundError(f"rollout {rollout_id} is of model {found.model}, not of {model}")
        return found
    newest = parts.store.rollouts(model, limit=1)
    if not newest:
        raise NotFoundError(f"model {model} never had a rollout; replay a period: --champion, --challenger, --from")
    return newest[0]


def _replay_rollout(parts: "Wiring", rollout: "Rollout", changes: dict[str, Any], as_json: bool) -> None:
    from model_rollouts.replay.recorded import replay_recorded

    other = _with_changed_gates(rollout.plan, changes) if changes else None
    result = replay_recorded(parts.service, rollout, other)
    if as_json:
        print_json(
            [
                {
                    "rollout": rollout.id,
                    "steps": [_step_json(step) for step in result.steps],
                    "changed_looks": result.changed_looks,
                    "compared": [
                        {"event": c.event, "verdict": c.recorded.verdict, "differences": c.differences}
                        for c in result.comparisons
                    ],
                }
            ]
        )
    else:
        _print_steps(result.steps)
        for comparison in result.comparisons:
            typer.echo(_verdict_line(comparison.event, comparison.recorded, comparison.differences))
    if result.changed_looks:
        typer.echo(
            f"warning: {len(result.changed_looks)} looks have other counts in the log than when they were closed (rows "
            f"or labels came later; grace_seconds is {rollout.plan.grace_seconds:g}): "
            + ", ".join(f"stage {stage} look {index}" for stage, index in result.changed_looks[:5]),
            err=True,
        )
    if other is not None:
        return
    same = sum(not c.differences for c in result.comparisons)
    typer.echo(f"{rollout.id}: {same} of {len(result.comparisons)} live decisions are reproduced exactly", err=as_json)
    if same < len(result.comparisons):
        raise typer.Exit(1)


def _over_period(
    log: "LogRoot",
    model: str,
    versions: tuple[str, str],
    period: tuple[datetime, datetime],
    plan_file: Path | None,
    changes: dict[str, Any],
    salt: str,
) -> "Iterable[Step]":
    from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
    from model_rollouts.replay.simulated import simulate

    if plan_file is not None:
        plan = _with_changed_gates(Plan.from_dict(json.loads(plan_file.read_text(encoding="utf-8"))), changes)
    else:
        plan = plan_canary(CanaryParameters.from_dict(changes))
    return simulate(log, model, *versions, plan, *period, salt=salt)


def _with_changed_gates(plan: Plan, changes: dict[str, Any]) -> Plan:
    """The plan with fields of its gates changed: of every gate that has the field, or of one metric's."""
    known = {field.name for field in fields(Gate)} - {"metric"}
    for name in changes:
        if name.rpartition(".")[2] not in known:
            raise PlanError(f"--set {name}: gates have no such field; they have {', '.join(sorted(known))}")
    used: set[str] = set()

    def changed(gate: Gate) -> Gate:
        data = gate.to_dict()
        for name, value in changes.items():
            metric, _, field = name.rpartition(".")
            if field in data and metric in ("", gate.metric):
                data[field] = value
                used.add(name)
        return Gate.from_dict(data)

    stages = tuple(replace(stage, gates=tuple(changed(gate) for gate in stage.gates)) for stage in plan.stages)
    if unused := sorted(set(changes) - used):
        raise PlanError(f"--set {unused[0]}: no gate of the plan has it")
    return replace(plan, stages=stages)


def _show(steps: "Iterable[Step]", as_json: bool) -> None:
    taken = list(steps)
    if as_json:
        print_json([_step_json(step) for step in taken])
        return
    _print_steps(taken)
    last = taken[-1].decision if taken else None
    typer.echo(f"ends with {last.verdict}, {last.action}: {last.reason}" if last else "the period has no look")


def _print_steps(steps: "Sequence[Step]") -> None:
    print_table([_row(step) for step in steps], _COLUMNS)


def _row(step: "Step") -> dict[str, Any]:
    d = step.decision
    worst = max(d.gates, key=lambda g: g.measured.log_e_harm - g.harm_threshold)
    needed = [gate for gate in d.gates if gate.role.must_prove]
    final = d.verdict != "wait"
    return {
        "at": step.at,
        "stage": step.stage + 1,
        "share": step.share,
        "looks": d.looks,
        "requests": max(gate.measured.challenger_n for gate in d.gates),
        "verdict": d.verdict,
        "gates passed": f"{sum(gate.verdict == 'pass' for gate in needed)} of {len(needed)}",
        "evidence of harm": f"{_power(worst.measured.log_e_harm)} of {_power(worst.harm_threshold)} ({worst.metric})",
        "reason": d.reason if final else "",
    }


def _power(log_e: float) -> str:
    return f"{math.exp(log_e):.3g}" if abs(log_e) < 20 else f"1e{log_e / math.log(10):.0f}"  # noqa: PLR2004


def _step_json(step: "Step") -> dict[str, Any]:
    return {"at": step.at, "stage": step.stage, "share": step.share, "decision": step.decision.to_dict()}


def _verdict_line(kind: str, recorded: "Decision", differences: Sequence[str]) -> str:
    what = f"stage {recorded.stage + 1}, {kind}: {recorded.verdict} on {recorded.looks} looks"
    if not differences:
        return f"{what}: the same"
    return f"{what}: DIFFERS in {', '.join(differences[:5])}" + (" and more" if len(differences) > 5 else "")  # noqa: PLR2004
