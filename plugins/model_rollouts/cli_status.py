"""Where rollouts are: `rollouts status` and `rollouts history`."""

import time
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_rollouts.cli_shared import (
    AsJson,
    Model,
    UsageError,
    models,
    print_json,
    print_table,
    require_known,
    told,
    wiring,
)
from model_rollouts.core.errors import NotFoundError
from model_rollouts.core.rollout import State

if TYPE_CHECKING:
    from rich.tree import Tree

    from model_rollouts.core.decision import Decision
    from model_rollouts.core.rollout import Rollout
    from model_rollouts.ports import RolloutStore
    from model_rollouts.wiring import Wiring

_MOST_LOOKS = 1000  # judged anew for the picture; a verdict takes seconds on more
_SHOWN = 160
_MARKS = {"pass": ("✔", "green"), "fail": ("✖", "red"), "wait": ("…", "cyan"), "inconclusive": ("?", "yellow")}
_COLOURS = {
    State.PENDING: "cyan",
    State.BAKING: "cyan",
    State.CLEARED: "green",
    State.HOLDING: "yellow",
    State.PROMOTED: "green",
    State.ROLLED_BACK: "red",
}


class StateCode(IntEnum):
    """Exit codes of `rollouts status MODEL --exit-code`."""

    PROMOTED = 0
    UNDER_WAY = 10
    HOLDS = 11
    ROLLED_BACK = 12
    NONE = 13


def status(
    model: Annotated[
        str | None, typer.Argument(help="Registered model; all when left out.", autocompletion=models)
    ] = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw it again and again, until it has ended.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two drawings.")] = 2.0,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="End with the state of the model's newest rollout: 0 promoted, 10 under way, 11 holds, 12 rolled "
            "back, 13 there is none.",
        ),
    ] = False,
) -> None:
    """Who answers each model's requests, and where its newest rollout is. With a model: its stages and gates."""
    with told():
        if exit_code and model is None:
            raise UsageError("--exit-code needs a model")
        parts = wiring()
        if model is not None:
            require_known(parts.store, model)
        if watch:
            watched(parts, model, every)
        elif as_json:
            print_json(_rows(parts.store, model))
        else:
            print_table(
                _rows(parts.store, model),
                ("model", "rollout", "pattern", "versions", "state", "stage", "share", "reason"),
            )
            if model is not None and (newest := _newest(parts.store, model)) is not None and newest.active:
                _console().print(tree(parts, model))
        if exit_code and model is not None:
            raise typer.Exit(int(state_code(_newest(parts.store, model))))


def history(
    model: Model,
    as_json: AsJson = False,
    rollout: Annotated[str | None, typer.Option(help="Of one rollout alone.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the newest so many.")] = None,
) -> None:
    """Everything that happened to a model's traffic and rollouts, oldest first."""
    with told():
        store = wiring().store
        require_known(store, model)
        events = [event for event in store.events(model=model) if rollout in {None, event.rollout_id}]
        if rollout is not None and not events:
            raise NotFoundError(f"model {model} has no rollout {rollout!r}; `rollouts history {model}` names them")
        events = events[-last:] if last else events
        rows = [{name: getattr(event, name) for name in type(event).__dataclass_fields__} for event in events]
        if as_json:
            print_json(rows)
        else:
            print_table(rows, ("at", "rollout_id", "kind", "stage", "before", "after", "actor", "reason"))


def watched(parts: "Wiring", model: str | None, every: float, until: float | None = None) -> None:
    """Draw until nothing that is shown is under way, or until a time (`time.monotonic`).

    Where it is no terminal, a line for each change.
    """
    from rich.console import Group
    from rich.live import Live

    def drawn() -> Group:
        shown = [row.model for row in parts.store.all_traffic() if model in {None, row.model}]
        return Group(*(tree(parts, name) for name in shown))

    console = _console()
    if console.is_terminal:
        with Live(drawn(), console=console, auto_refresh=False) as live:
            while _under_way(parts.store, model) and not _late(until):
                time.sleep(every)
                live.update(drawn(), refresh=True)
            live.update(drawn(), refresh=True)
        return
    told_last: dict[str, str] = {}
    while True:
        going = _under_way(parts.store, model)  # before the lines: the last one is of after the end
        for row in _rows(parts.store, model):
            line = f"{row['rollout'] or 'no rollout'}: {row['state'] or 'none'}, stage {row['stage'] or '-'}, "
            line += f"{row['share']:g} %: {row['reason'] or ''}"
            if told_last.get(row["model"]) != line:
                told_last[row["model"]] = line
                typer.echo(f"{datetime.now(UTC):%H:%M:%S}Z {row['model']}: {line}")
        if not going or _late(until):
            return
        time.sleep(every)


def state_code(rollout: "Rollout | None") -> StateCode:
    """What a script is told of a rollout."""
    if rollout is None:
        return StateCode.NONE
    ended = {State.PROMOTED: StateCode.PROMOTED, State.ROLLED_BACK: StateCode.ROLLED_BACK}
    held = StateCode.HOLDS if rollout.state is State.HOLDING else StateCode.UNDER_WAY
    return ended.get(rollout.state, held)


def tree(parts: "Wiring", model: str) -> "Tree":
    """A model's newest rollout: stages, gates, counts, what is waited for."""
    from rich.text import Text
    from rich.tree import Tree

    store, now = parts.store, datetime.now(UTC)
    traffic = store.traffic(model)
    if traffic is None:
        raise NotFoundError(f"traffic of {model} is gone; run the command again")
    head = Text(model, style="bold")
    head.append(f"  {', '.join(f'version {v} {share:g} %' for v, share in traffic.shares().items())}", style="default")
    root = Tree(head, guide_style="dim")
    rollout = _newest(store, model)
    if rollout is None:
        root.add(Text("no rollout yet: `rollouts start`, or the DAGs' forms in Airflow", style="dim"))
        return root
    title = Text(f"{rollout.plan.pattern} {rollout.id}  ")
    title.append(str(rollout.state), style=f"bold {_COLOURS[rollout.state]}")
    title.append(f"  revision {rollout.revision}, by {rollout.created_by}, {_span(now - rollout.created_at)} ago")
    branch = root.add(title)
    branch.add(Text(rollout.reason))
    decision, counts = _verdict(parts, rollout, now)
    for position, stage in enumerate(rollout.plan.stages):
        mark, style = _stage_mark(rollout, position)
        share = f"{stage.share:g} %" + (f", {stage.mirror_percent:g} % mirrored" if stage.mirror_percent else "")
        line = branch.add(
            Text(f"{mark} stage {position + 1}  {share}{_time_left(rollout, position, now)}", style=style)
        )
        if position != rollout.stage or not rollout.active:
            continue
        if counts:
            line.add(Text(counts))
        for gate in decision.gates if decision else ():
            sign, colour = _MARKS[gate.verdict]
            line.add(Text.assemble((f"{sign} {gate.metric}", colour), f"  {gate.role}  {gate.reason}"))
    for event in store.events(rollout_id=rollout.id)[-3:]:
        branch.add(Text(f"{event.at:%H:%M:%S}Z {event.kind} by {event.actor}: {_cut(event.reason)}", style="dim"))
    return root


# --- inside


def _console() -> Any:
    from rich.console import Console

    return Console()


def _newest(store: "RolloutStore", model: str) -> "Rollout | None":
    return next(iter(store.rollouts(model, limit=1)), None)


def _under_way(store: "RolloutStore", model: str | None) -> bool:
    names = [row.model for row in store.all_traffic()] if model is None else [model]
    return any(store.active(name) is not None for name in names)


def _late(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _verdict(parts: "Wiring", rollout: "Rollout", now: datetime) -> "tuple[Decision | None, str]":
    """The open stage's verdict on the looks that are kept, and its counts as a sentence; nothing is counted anew."""
    if not rollout.active or rollout.judged_from is None:
        return None, ""
    looks = parts.store.looks(rollout.id)
    own = [look for look in looks if look.stage == rollout.stage]
    arms = []
    for arm in ("champion", "challenger"):
        counts = [getattr(look, arm) for look in own]
        requests, errors = sum(each.requests for each in counts), sum(each.errors for each in counts)
        rate = f", {100 * errors / requests:.3g} % failed" if requests else ""
        arms.append(f"{arm} {requests:,} requests{rate}")
    told_as = f"{len(own)} looks: {'; '.join(arms)}"
    if len(looks) > _MOST_LOOKS:
        return None, f"{told_as}; too many looks to judge here, see the page or `rollouts replay {rollout.model}`"
    return parts.service.judge(rollout, looks, now), told_as


def _stage_mark(rollout: "Rollout", position: int) -> tuple[str, str]:
    if position < rollout.stage or (position == rollout.stage and rollout.state in (State.CLEARED, State.PROMOTED)):
        return "✔", "green"
    if position > rollout.stage:
        return "○", "dim"
    marks = {State.BAKING: ("▶", "cyan"), State.HOLDING: ("⏸", "yellow"), State.ROLLED_BACK: ("✖", "red")}
    return marks.get(rollout.state, ("○", "dim"))


def _time_left(rollout: "Rollout", position: int, now: datetime) -> str:
    if position != rollout.stage or rollout.state is not State.BAKING or rollout.judged_from is None:
        return ""
    stage, spent = rollout.plan.stage(position), now - rollout.judged_from
    left = timedelta(seconds=stage.deadline_seconds) - spent
    deadline = f"deadline in {_span(left)}" if left > timedelta(0) else f"deadline was {_span(-left)} ago"
    return f"  {_span(spent)} of {_span(timedelta(seconds=stage.bake_seconds))} at least, {deadline}"


def _cut(text: str) -> str:
    """As much as a glance takes; `rollouts history` has all of it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN].rstrip()} ..."


def _span(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds} s"


def _rows(store: "RolloutStore", model: str | None) -> list[dict[str, Any]]:
    return [_status_row(store, row.model) for row in store.all_traffic() if model in {None, row.model}]


def _status_row(store: "RolloutStore", model: str) -> dict[str, Any]:
    traffic, rollout = store.traffic(model), _newest(store, model)
    if traffic is None:
        raise NotFoundError(f"traffic of {model} is gone; run the command again")
    row: dict[str, Any] = {
        "model": model,
        "rollout": None,
        "pattern": None,
        "versions": {"champion": traffic.champion, "challenger": traffic.challenger, "previous": traffic.previous},
        "state": None,
        "stage": None,
        "share": traffic.share,
        "revision": traffic.revision,
        "rollout_revision": None,
        "created_by": None,
        "since": None,
        "ended_at": None,
        "reason": None,
    }
    if rollout is not None:
        stages = len(rollout.plan.stages)
        row |= {"rollout": rollout.id, "pattern": rollout.plan.pattern, "state": rollout.state}
        row |= {"stage": f"{rollout.stage + 1} of {stages}", "reason": rollout.reason}
        row |= {"rollout_revision": rollout.revision, "created_by": rollout.created_by}
        row |= {"since": rollout.opened_at or rollout.created_at, "ended_at": rollout.ended_at}
    return row
