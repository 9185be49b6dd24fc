"""What people do to a rollout: `rollouts hold`, `resume`, `expand`, `cut-over`, `approve`, `abort` and `rollback`.

Each asks for a reason and shows what it changes. The store comes first: a hold and a rollback need neither Airflow nor
MLflow.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from model_rollouts.cli_shared import By, Model, Reason, message, person, require_known, told, wiring
from model_rollouts.core.by_hand import Deed, offer
from model_rollouts.core.errors import IllegalTransitionError, MissingReasonError, NotFoundError
from model_rollouts.core.rollout import State

if TYPE_CHECKING:
    from model_rollouts.by_hand import Done
    from model_rollouts.core.rollout import Rollout
    from model_rollouts.wiring import Wiring

_Seen = Annotated[
    int | None,
    typer.Option("--revision", help="Refuse when the rollout is at another revision (`rollouts status --json`)."),
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; nobody is asked where this is no terminal.")]


def hold(model: Model, reason: Reason, by: By = None, revision: _Seen = None, yes: _Yes = False) -> None:
    """Keep the share and stop expanding, until the stage is resumed. Works while Airflow and MLflow are down."""
    _do(Deed.HOLD, model, reason, by, revision, yes)


def resume(model: Model, reason: Reason, by: By = None, revision: _Seen = None, yes: _Yes = False) -> None:
    """Judge a held stage again; its time starts anew."""
    _do(Deed.RESUME, model, reason, by, revision, yes)


def expand(model: Model, reason: Reason, by: By = None, revision: _Seen = None, yes: _Yes = False) -> None:
    """Go on to the next stage without proof, on your word. Refused when harm is proven."""
    _do(Deed.EXPAND, model, reason, by, revision, yes)


def cut_over(model: Model, reason: Reason, by: By = None, revision: _Seen = None, yes: _Yes = False) -> None:
    """Make the challenger the champion at the last stage without proof, on your word. Refused when harm is proven."""
    _do(Deed.CUT_OVER, model, reason, by, revision, yes)


def approve(model: Model, reason: Reason, by: By = None, revision: _Seen = None, yes: _Yes = False) -> None:
    """Answer what the rollout waits for a person with: yes. (No is `rollouts hold` or `rollouts abort`.)"""
    with told():
        parts = wiring()
        rollout = _active(parts, model)
        question = parts.by_hand.question(rollout)
        if question is not None:
            _confirmed(rollout, f"{question.subject} {question.body}".strip(), yes)
        done = parts.by_hand.approve(rollout.id, person(by), reason, _seen(rollout, revision))
        _tell(done, f"approved: {rollout.id}")


def abort(model: Model, reason: Reason, by: By = None, revision: _Seen = None, yes: _Yes = False) -> None:
    """Give a rollout that is under way up: the champion answers all requests at once. Works while Airflow is down."""
    with told():
        parts = wiring()
        rollout = _active(parts, model)
        _change(parts, Deed.ROLL_BACK, rollout, reason, by, _seen(rollout, revision), yes)


def rollback(model: Model, reason: Reason, by: By = None, revision: _Seen = None) -> None:
    """Give the champion all the traffic, now; after a promotion, the old champion while it is kept.

    The registry follows if it can be reached, and the data that the plan names is undone. Asks nothing, and works while
    Airflow and MLflow are down.
    """
    with told():
        if not reason.strip():
            raise MissingReasonError("reason is empty; say why, it goes on record")
        parts = wiring()
        require_known(parts.store, model)
        before = parts.service.to_roll_back(model)
        if before.state is State.ROLLED_BACK:
            typer.echo(f"{before.id} is rolled back already: {before.reason}")
            _sync(parts, before.id)
            _undo(parts, before.id, by)
        else:
            _change(parts, Deed.ROLL_BACK, before, reason, by, revision, yes=True)


# --- inside


def _do(deed: Deed, model: str, reason: str, by: str | None, revision: int | None, yes: bool) -> None:
    with told():
        parts = wiring()
        rollout = _active(parts, model)
        _change(parts, deed, rollout, reason, by, _seen(rollout, revision), yes)


def _change(
    parts: "Wiring", deed: Deed, rollout: "Rollout", reason: str, by: str | None, seen: int | None, yes: bool
) -> None:
    traffic = parts.store.traffic(rollout.model)
    if traffic is None:
        raise NotFoundError(f"traffic of {rollout.model} is gone; run the command again")
    offered = offer(deed, rollout, traffic)
    if offered.refusal:
        raise IllegalTransitionError(offered.refusal)
    _confirmed(rollout, offered.change, yes)
    done = parts.by_hand.do(deed, rollout.id, person(by), reason, seen)
    now = done.rollout
    _tell(
        done,
        f"rolled back {now.id}: version {now.champion} of {now.model} answers all requests"
        if deed is Deed.ROLL_BACK
        else f"{now.id} is {now.state}: {offered.change}",
    )
    if deed is Deed.ROLL_BACK:
        _undo(parts, now.id, by)


def _active(parts: "Wiring", model: str) -> "Rollout":
    require_known(parts.store, model)
    found = parts.store.active(model)
    if found is None:
        newest = parts.store.rollouts(model, limit=1)
        last = f"; the last one, {newest[0].id}, is {newest[0].state}" if newest else ""
        raise NotFoundError(f"no rollout of {model} is under way{last}")
    return found


def _seen(rollout: "Rollout", revision: int | None) -> int:
    """What the person saw: what they say, or else what is shown to them now."""
    return rollout.revision if revision is None else revision


def _confirmed(rollout: "Rollout", change: str, yes: bool) -> None:
    if yes or not sys.stdin.isatty():
        return
    typer.echo(f"{rollout.id} is {rollout.state}, revision {rollout.revision}: {rollout.reason}")
    typer.confirm(f"{change}. Do it?", abort=True)


def _tell(done: "Done", said: str) -> None:
    typer.echo(said)
    for each in done.follows:
        typer.echo(each)
    for each in done.warnings:
        typer.echo(f"warning: {each}", err=True)


def _sync(parts: "Wiring", rollout_id: str) -> None:
    try:
        parts.service.sync_registry(rollout_id)
    except Exception as error:  # the traffic is back, whatever MLflow has to say about it
        typer.echo(
            f"warning: MLflow's aliases and tags are not updated yet ({message(error)}); no traffic depends on them. "
            "Run the same command again when MLflow is there",
            err=True,
        )


def _undo(parts: "Wiring", rollout_id: str, by: str | None) -> None:
    for result in parts.data_rollbacks.run(rollout_id, person(by)):
        typer.echo(f"data: {result.get('detail') or result}")
