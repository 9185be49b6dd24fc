"""The command line: `rollouts`. It needs the rollout store alone; MLflow and Airflow may be down."""

import os
from pathlib import Path
from typing import Annotated

import typer

from model_rollouts.cli_actions import abort, approve, cut_over, expand, hold, resume, rollback
from model_rollouts.cli_batch import compare, drift, shadow_offline
from model_rollouts.cli_db import db
from model_rollouts.cli_doctor import doctor
from model_rollouts.cli_init import init
from model_rollouts.cli_log import log
from model_rollouts.cli_metrics import metrics
from model_rollouts.cli_replay import recompute, replay
from model_rollouts.cli_shared import CODES, UsageError, person, require_known, told, wiring
from model_rollouts.cli_start import start
from model_rollouts.cli_status import history, status
from model_rollouts.cli_token import token
from model_rollouts.core.errors import NotFoundError
from model_rollouts.logs import bind, format_of, log_to_stderr

app = typer.Typer(
    name="rollouts",
    help="Rollouts of ML model versions: start them, see them, undo them.",
    epilog=CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def settle(context: typer.Context) -> None:
    """Log as one JSON object a line where the environment asks for it."""
    with told():
        if format_of("text") == "json":
            log_to_stderr("json")
            bind(command=context.invoked_subcommand)


app.add_typer(db, name="db")
app.add_typer(log, name="log")
app.add_typer(token, name="token")
app.command()(init)
app.command()(start)
app.command()(status)
app.command()(history)
for _action in (hold, resume, expand, cut_over, approve, abort, rollback):
    app.command(_action.__name__.replace("_", "-"))(_action)
app.command()(replay)
app.command()(recompute)
app.command()(compare)
app.command()(drift)
app.command()(shadow_offline)
app.command()(doctor)
app.command()(metrics)


@app.command()
def drill(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    version: Annotated[str, typer.Option(help="Version or alias to flip to; the old champion when left out.")] = "",
) -> None:
    """Flip the traffic to another version, for no unit, and back; measures it. For a model without a rollout."""
    with told():
        parts = wiring()
        traffic = parts.service.adopt(model, person())
        target = parts.registry.resolve(model, version).version if version else traffic.previous
        if target is None:
            raise NotFoundError(f"no old champion of {model} is kept as previous; name a version with --version")
        typer.echo(parts.drills.drill(model, target, person(), "rollback drill").summary)


@app.command()
def sync(model: Annotated[str, typer.Argument(help="Registered model.")]) -> None:
    """Bring MLflow's aliases and tags of a model to what the store says. Harmless when they are."""
    with told():
        parts = wiring()
        require_known(parts.store, model)
        newest = next(iter(parts.store.rollouts(model, limit=1)), None)
        traffic = parts.store.traffic(model)
        if traffic is None:
            raise NotFoundError(f"traffic of {model} is gone; run the command again")
        if newest is None:  # there are no tags to bring, only aliases
            parts.service.sync_roles(traffic)
            followed = f"the traffic of {model}, which never had a rollout"
        else:
            parts.service.sync_registry(newest.id)
            traffic = parts.store.traffic(model) or traffic
            followed = f"{newest.id} of {model} ({parts.store.rollout(newest.id).state})"
        roles = {"champion": traffic.champion, "challenger": traffic.challenger, "previous": traffic.previous}
        said = ", ".join(f"{role} {'none' if version is None else version}" for role, version in roles.items())
        typer.echo(f"the registry follows {followed}: {said}")


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
            raise UsageError(f"{file} is there already; name another file, or move it away")
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
        from model_rollouts.gateway.startup import read_settings

        if processes is not None:
            os.environ["MODEL_ROLLOUTS_PROCESSES"] = str(processes)
        settings = read_settings()
        if settings.processes > 1:
            from model_rollouts.gateway.processes import supervise

            log_to_stderr("json")
            supervise(settings)
        else:
            from model_rollouts.gateway.main import run

            run()


if __name__ == "__main__":
    app()
