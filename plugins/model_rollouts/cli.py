"""The command line: `rollouts`. It needs the rollout store alone; MLflow and Airflow may be down."""

import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_rollouts.cli_batch import compare, drift, shadow_offline
from model_rollouts.cli_doctor import doctor
from model_rollouts.cli_log import log
from model_rollouts.cli_replay import recompute, replay
from model_rollouts.cli_shared import message, print_json, print_table, require_known, told, wiring
from model_rollouts.core.errors import NotFoundError, RolloutError
from model_rollouts.core.rollout import State

if TYPE_CHECKING:
    from model_rollouts.ports import RolloutStore

app = typer.Typer(
    name="rollouts",
    help="Rollouts of ML model versions: see them, undo them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The rollout store.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(log, name="log")
app.command()(replay)
app.command()(recompute)
app.command()(compare)
app.command()(drift)
app.command()(shadow_offline)
app.command()(doctor)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@db.command("upgrade")
def upgrade() -> None:
    """Make the store's tables, or bring them to this version. Harmless when they are."""
    with told():
        parts = wiring()
        parts.store.migrate()
        typer.echo("the store is up to date")


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="Registered model; all when left out.")] = None,
    as_json: _Json = False,
) -> None:
    """Who answers each model's requests, and where its newest rollout is."""
    with told():
        store = wiring().store
        if model is not None:
            require_known(store, model)
        rows = [_status_row(store, traffic.model) for traffic in store.all_traffic() if model in {None, traffic.model}]
        if as_json:
            print_json(rows)
        else:
            print_table(rows, ("model", "rollout", "pattern", "versions", "state", "stage", "share", "reason"))


@app.command()
def history(model: Annotated[str, typer.Argument(help="Registered model.")], as_json: _Json = False) -> None:
    """Everything that happened to a model's traffic and rollouts, oldest first."""
    with told():
        store = wiring().store
        require_known(store, model)
        events = store.events(model=model)
        rows = [{name: getattr(event, name) for name in type(event).__dataclass_fields__} for event in events]
        if as_json:
            print_json(rows)
        else:
            print_table(rows, ("at", "rollout_id", "kind", "stage", "before", "after", "actor", "reason"))


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    reason: Annotated[str, typer.Option(help="Why; it goes on record.")],
) -> None:
    """Give the champion all the traffic, now; after a promotion, the old champion while it is kept.

    The registry follows if it can be reached, and the data that the plan names is undone.
    """
    with told():
        if not reason.strip():
            raise RolloutError("reason is empty; say why, it goes on record")
        parts = wiring()
        require_known(parts.store, model)
        before = parts.service.to_roll_back(model)
        rollout = parts.service.roll_back(before.id, _person(), reason.strip())
        if before.state is State.ROLLED_BACK:
            typer.echo(f"{rollout.id} is rolled back already: {rollout.reason}")
        else:
            typer.echo(f"rolled back {rollout.id}: version {rollout.champion} of {model} answers all requests")
        try:
            parts.service.sync_registry(rollout.id)
        except Exception as error:  # the traffic is back, whatever MLflow has to say about it
            typer.echo(
                f"warning: MLflow's aliases and tags are not updated yet ({message(error)}); no traffic depends on "
                "them. Run the same command again when MLflow is there",
                err=True,
            )
        for result in parts.data_rollbacks.run(rollout.id, _person()):
            typer.echo(f"data: {result.get('detail') or result}")


@app.command()
def drill(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    version: Annotated[str, typer.Option(help="Version or alias to flip to; the old champion when left out.")] = "",
) -> None:
    """Flip the traffic to another version, for no unit, and back; measures it. For a model without a rollout."""
    with told():
        parts = wiring()
        traffic = parts.service.adopt(model, _person())
        target = parts.registry.resolve(model, version).version if version else traffic.previous
        if target is None:
            raise NotFoundError(f"no old champion of {model} is kept as previous; name a version with --version")
        typer.echo(parts.drills.drill(model, target, _person(), "rollback drill").summary)


@app.command()
def sync(model: Annotated[str, typer.Argument(help="Registered model.")]) -> None:
    """Bring MLflow's aliases and tags of a model to what the store says. Harmless when they are."""
    with told():
        parts = wiring()
        require_known(parts.store, model)
        newest = parts.store.rollouts(model, limit=1)
        if not newest:
            raise NotFoundError(f"model {model} never had a rollout; there is nothing to bring to the registry")
        parts.service.sync_registry(newest[0].id)
        traffic, rollout = parts.store.traffic(model), parts.store.rollout(newest[0].id)
        if traffic is None:
            raise NotFoundError(f"traffic of {model} is gone; run the command again")
        roles = {"champion": traffic.champion, "challenger": traffic.challenger, "previous": traffic.previous}
        said = ", ".join(f"{role} {'none' if version is None else version}" for role, version in roles.items())
        typer.echo(f"the registry follows {rollout.id} of {model} ({rollout.state}): {said}")


@app.command("record-golden")
def record_golden(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    file: Annotated[Path, typer.Argument(help="JSON lines to write; must not be there yet.")],
    requests: Annotated[int, typer.Option(help="How many logged requests.", min=1, max=1000)] = 50,
) -> None:
    """Write logged requests of the champion, with its answers, as a golden file to look over and keep."""
    with told():
        from datetime import UTC, datetime

        from model_rollouts.adapters.golden import save_file

        parts = wiring()
        if file.exists():
            raise RolloutError(f"{file} is there already; name another file, or move it away")
        version = parts.service.champion(model)
        cases = parts.golden.recorded(model, version, requests, datetime.now(UTC))
        if not cases:
            raise NotFoundError(f"the log has no answers of version {version} of {model} to record")
        save_file(file, cases)
        typer.echo(f"{len(cases)} requests of version {version} of {model} are in {file}")


@app.command("import-outcomes")
def import_outcomes(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines: request_id, label?, value?, ts?")],
) -> None:
    """Add labels and business values from a file to the prediction log. The same file twice adds nothing."""
    with told():
        from model_rollouts.adapters.outcomes_file import import_file

        parts = wiring()
        added, known = import_file(parts.log_root, model, file)
        typer.echo(f"{added} outcomes of {model} added" + (f", {known} were added before" if known else ""))


@app.command()
def gateway(
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes on the port, each with an address of its own: port + 1, + 2, ..."),
    ] = None,
) -> None:
    """Serve the models."""
    with told():
        from model_rollouts.gateway.startup import log_as_json, read_settings

        if processes is not None:
            os.environ["MODEL_ROLLOUTS_PROCESSES"] = str(processes)
        settings = read_settings()
        if settings.processes > 1:
            from model_rollouts.gateway.processes import supervise

            log_as_json()
            supervise(settings)
        else:
            from model_rollouts.gateway.main import run

            run()


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


def _person() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()} (command line)"


if __name__ == "__main__":
    app()
