"""The command line: `rollouts`. It needs the rollout store alone; MLflow and Airflow may be down."""

import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_rollouts.core.errors import NotFoundError, RolloutError
from model_rollouts.core.rollout import Rollout, State

if TYPE_CHECKING:
    from model_rollouts.ports import RolloutStore
    from model_rollouts.wiring import Wiring

app = typer.Typer(
    name="rollouts",
    help="Rollouts of ML model versions: see them, undo them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The rollout store.", no_args_is_help=True)
app.add_typer(db, name="db")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@db.command("upgrade")
def upgrade() -> None:
    """Make the store's tables, or bring them to this version. Harmless when they are."""
    with _told():
        wiring = _wiring()
        wiring.store.migrate()
        typer.echo("the store is up to date")


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="Registered model; all when left out.")] = None,
    as_json: _Json = False,
) -> None:
    """Who answers each model's requests, and where its newest rollout is."""
    with _told():
        store = _wiring().store
        if model is not None:
            _require_known(store, model)
        rows = [_status_row(store, traffic.model) for traffic in store.all_traffic() if model in {None, traffic.model}]
        if as_json:
            _print_json(rows)
        else:
            _print_table(rows, ("model", "rollout", "pattern", "versions", "state", "stage", "share", "reason"))


@app.command()
def history(model: Annotated[str, typer.Argument(help="Registered model.")], as_json: _Json = False) -> None:
    """Everything that happened to a model's traffic and rollouts, oldest first."""
    with _told():
        store = _wiring().store
        _require_known(store, model)
        events = store.events(model=model)
        rows = [{name: getattr(event, name) for name in type(event).__dataclass_fields__} for event in events]
        if as_json:
            _print_json(rows)
        else:
            _print_table(rows, ("at", "rollout_id", "kind", "stage", "before", "after", "actor", "reason"))


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    reason: Annotated[str, typer.Option(help="Why; it goes on record.")],
) -> None:
    """Give the champion all the traffic, now. The registry follows if it can be reached."""
    with _told():
        if not reason.strip():
            raise RolloutError("reason is empty; say why, it goes on record")
        wiring = _wiring()
        rollout = wiring.store.active(model)
        if rollout is None:
            rollout = _rolled_back_already(wiring.store, model)
            typer.echo(f"{rollout.id} is rolled back already: {rollout.reason}")
        else:
            rollout = wiring.service.roll_back(rollout.id, _person(), reason.strip())
            typer.echo(f"rolled back {rollout.id}: version {rollout.champion} of {model} answers all requests")
        try:
            wiring.service.sync_registry(rollout.id)
        except Exception as error:  # the traffic is back, whatever MLflow has to say about it
            typer.echo(
                f"warning: MLflow's aliases and tags are not updated yet ({_message(error)}); no traffic depends on "
                "them. Run the same command again when MLflow is there",
                err=True,
            )


@app.command()
def sync(model: Annotated[str, typer.Argument(help="Registered model.")]) -> None:
    """Bring MLflow's aliases and tags of a model to what the store says. Harmless when they are."""
    with _told():
        wiring = _wiring()
        _require_known(wiring.store, model)
        newest = wiring.store.rollouts(model, limit=1)
        if not newest:
            raise NotFoundError(f"model {model} never had a rollout; there is nothing to bring to the registry")
        wiring.service.sync_registry(newest[0].id)
        traffic, rollout = wiring.store.traffic(model), wiring.store.rollout(newest[0].id)
        if traffic is None:
            raise NotFoundError(f"traffic of {model} is gone; run the command again")
        roles = {"champion": traffic.champion, "challenger": traffic.challenger, "previous": traffic.previous}
        said = ", ".join(f"{role} {'none' if version is None else version}" for role, version in roles.items())
        typer.echo(f"the registry follows {rollout.id} of {model} ({rollout.state}): {said}")


@app.command("import-outcomes")
def import_outcomes(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines: request_id, label?, value?, ts?")],
) -> None:
    """Add labels and business values from a file to the prediction log. The same file twice adds nothing."""
    with _told():
        from model_rollouts.adapters.outcomes_file import import_file

        wiring = _wiring()
        added, known = import_file(wiring.settings.log_dir, model, file)
        typer.echo(f"{added} outcomes of {model} added" + (f", {known} were added before" if known else ""))


@app.command()
def gateway() -> None:
    """Serve the models."""
    with _told():
        from model_rollouts.gateway.main import run

        run()


def _wiring() -> "Wiring":
    from model_rollouts.wiring import Wiring

    return Wiring()


def _status_row(store: "RolloutStore", model: str) -> dict[str, Any]:
    traffic = store.traffic(model)
    newest = store.rollouts(model, limit=1)
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
        "reason": None,
    }
    if newest:
        rollout = newest[0]
        stages = len(rollout.plan.stages)
        row |= {"rollout": rollout.id, "pattern": rollout.plan.pattern, "state": rollout.state}
        row |= {"stage": f"{rollout.stage + 1} of {stages}", "reason": rollout.reason}
    return row


def _require_known(store: "RolloutStore", model: str) -> None:
    if store.traffic(model) is None:
        known = ", ".join(traffic.model for traffic in store.all_traffic()) or "none"
        raise NotFoundError(f"the store knows no model {model!r}; it knows: {known}")


def _rolled_back_already(store: "RolloutStore", model: str) -> Rollout:
    """The newest rollout, if all that can be left to do for it is to tell the registry."""
    _require_known(store, model)
    newest = store.rollouts(model, limit=1)
    if newest and newest[0].state is State.ROLLED_BACK:
        return newest[0]
    ended = f"the last one, {newest[0].id}, is {newest[0].state}" if newest else "it never had one"
    raise NotFoundError(f"model {model} has no active rollout to roll back; {ended}")


def _person() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()} (command line)"


def _print_json(rows: list[dict[str, Any]]) -> None:
    def plain(value: Any) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    typer.echo(json.dumps(rows, indent=2, default=plain))


def _print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(_cell(row[column]), overflow="fold") for column in columns))
    # a pipe has no width to keep to, and cutting an id in two would spoil it for grep
    Console(width=None if sys.stdout.isatty() else 400).print(table)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}Z"
        case float():
            return f"{value:g} %"
        case Mapping():
            return ", ".join(f"{key} {_cell(item)}" for key, item in value.items() if item is not None)
        case _:
            return str(value)


def _message(error: Exception) -> str:
    """One line for a person: ours as they are, others with what kind they are."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else "no message"
    return text if isinstance(error, RolloutError | ValueError) else f"{type(error).__name__}: {text}"


@contextmanager
def _told() -> Iterator[None]:
    """Errors become one message and exit code 1; `ROLLOUTS_TRACEBACK=1` shows where they come from."""
    try:
        yield
    except Exception as error:
        if os.environ.get("ROLLOUTS_TRACEBACK") == "1":
            raise
        text = str(error) if isinstance(error, RolloutError | ValueError) else _message(error)
        typer.echo(f"error: {text}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
