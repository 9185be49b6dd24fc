"""`rollouts db`: the store's tables."""

from pathlib import Path
from typing import Annotated

import typer

from model_rollouts.cli_shared import Code, print_json, told, wiring

db = typer.Typer(help="The rollout store.", no_args_is_help=True)


@db.command("upgrade")
def upgrade() -> None:
    """Make the store's tables, or bring them to this version. Harmless when they are; back the store up before."""
    with told():
        before, now = wiring().store.migrate()
        typer.echo(
            "the store is up to date" if before == now else f"the store is up to date: {before or 'new'} to {now}"
        )


@db.command("current")
def current(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")] = False,
) -> None:
    """Say which revision the store's tables have, and which one this version needs."""
    with told():
        schema = wiring().store.schema()
        if as_json:
            print_json([{"store": schema.where, "found": schema.found, "needed": schema.needed, "fits": schema.fits}])
        else:
            typer.echo(schema.summary)


@db.command("check")
def check() -> None:
    """End with exit code 0 where this version can work with the store's tables, and 1 where it can't."""
    with told():
        schema = wiring().store.schema()
        typer.echo(schema.summary, err=not schema.fits)
        if not schema.fits:
            raise typer.Exit(int(Code.FAILED))


@db.command("backup")
def backup(file: Annotated[Path, typer.Argument(help="The copy; must not be there yet.")]) -> None:
    """Copy a store in SQLite while others use it. PostgreSQL: pg_dump; see docs/backup.md."""
    with told():
        from model_rollouts.adapters.sql_backup import back_up

        size = back_up(wiring().settings.store_url, file)
        typer.echo(f"the store is in {file} ({size:,} bytes)")
