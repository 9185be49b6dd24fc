"""Commands on the prediction log itself: `rollouts log`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_rollouts.cli_shared import UsageError, print_json, print_table, told, wiring

if TYPE_CHECKING:
    from model_rollouts.adapters.log_upkeep import TableUpkeep

log = typer.Typer(help="The prediction log.", no_args_is_help=True)

_COLUMNS = (
    "model",
    "table",
    "kept since",
    "days dropped",
    "rows dropped",
    "merged",
    "removed",
    "freed",
    "files",
    "size",
    "note",
)


@log.callback()
def _log() -> None:
    """The prediction log."""


@log.command("upkeep")
def upkeep(
    model: Annotated[str | None, typer.Option(help="Registered model; all when left out.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Remove what no reader needs, drop days older than MODEL_ROLLOUTS_LOG_RETENTION_DAYS, merge small files.

    Files of dropped days and merged ones stay for MODEL_ROLLOUTS_LOG_VACUUM_HOURS: a later run frees their room.
    Gateways may write on meanwhile. Days that a rollout may still be judged by stay. Exit code 1 when a table failed.
    """
    with told():
        done = wiring().log_upkeep.run(model, dry_run=dry_run)
        if as_json:
            print_json([asdict(each) for each in done])
        else:
            print_table([_row(each) for each in done], _COLUMNS)
        for each in done:
            if each.error:
                typer.echo(f"error: {each.table} of {each.model}: {each.error}", err=True)
        if any(each.error for each in done):
            raise typer.Exit(1)
        typer.echo("nothing was changed: a dry run" if dry_run else f"{len(done)} tables are cared for", err=as_json)


@log.command("backup")
def backup(
    folder: Annotated[Path, typer.Argument(help="Folder of the copy; one that is there gets what is new.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Copy the Delta tables while gateways write, each as it was at one version. PostgreSQL: pg_dump."""
    with told():
        from model_rollouts.adapters.log_backup import back_up

        settings = wiring().settings
        if settings.log_url:
            raise UsageError("the log is in PostgreSQL: use pg_dump; see docs/backup.md")
        rows = [asdict(each) for each in back_up(settings.log_dir, folder)]
        if as_json:
            print_json(rows)
        else:
            print_table(rows, ("model", "table", "version", "files", "copied", "megabytes"))


def _row(done: "TableUpkeep") -> dict[str, Any]:
    files = f"{done.files_before} -> {done.files_after}" if done.files_before else ""
    return {
        "model": done.model,
        "table": done.table,
        "kept since": done.kept_since or "all",
        "days dropped": done.days_dropped,
        "rows dropped": f"{done.rows_dropped:,}",
        "merged": done.files_merged,
        "removed": done.files_removed,
        "freed": _megabytes(done.bytes_freed),
        "files": files,
        "size": f"{_megabytes(done.bytes_before)} -> {_megabytes(done.bytes_after)}",
        "note": done.error or done.note,
    }


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
