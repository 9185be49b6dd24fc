"""`rollouts init`: the DAGs, the suites of checks and the settings, into an Airflow project."""

import os
from pathlib import Path
from typing import Annotated

import typer

from model_rollouts.cli_shared import print_json, print_table, told


def init(
    folder: Annotated[
        Path | None, typer.Argument(help="The Airflow project; AIRFLOW_HOME or this folder when left out.")
    ] = None,
    dags: Annotated[Path | None, typer.Option(help="Its folder of DAGs; <folder>/dags when left out.")] = None,
    store_url: Annotated[
        str, typer.Option(help="Rollout store; SQLite in the project when left out (one machine).")
    ] = "",
    mlflow: Annotated[str, typer.Option(help="MLflow server.")] = "http://127.0.0.1:5000",
    gateway: Annotated[str, typer.Option(help="Gateway processes, separated by commas.")] = "http://127.0.0.1:8600",
    airflow: Annotated[str, typer.Option(help="Airflow's API server.")] = "http://127.0.0.1:8080",
    log_dir: Annotated[Path | None, typer.Option(help="Prediction log; <folder>/predictions when left out.")] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite files that you have changed, too; each is kept as .bak."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write the DAG templates and a file of settings into an Airflow project.

    They are yours then: a file that you have changed is kept, one that an earlier version has written is updated. The
    settings, rollouts.env, are never overwritten: with --force the new ones go into rollouts.env.new.
    """
    with told():
        from model_rollouts.project_files import ENV_FILE, Outcome, write_project

        project = (folder or Path(os.environ.get("AIRFLOW_HOME") or ".")).expanduser().resolve()
        values = {
            "store_url": store_url or f"sqlite:///{project / 'rollouts.db'}",
            "mlflow": mlflow,
            "gateway": gateway,
            "airflow": airflow,
            "log_dir": str(log_dir.expanduser().resolve() if log_dir else project / "predictions"),
        }
        target = dags.expanduser().resolve() if dags else project / "dags"
        done = write_project(project, target, values, force=force, dry_run=dry_run)
        rows = [{"file": str(e.path), "outcome": str(e.outcome), "beside": e.beside and str(e.beside)} for e in done]
        if as_json:
            print_json(rows)
            return
        print_table(rows, ("file", "outcome"))
        if any(each.outcome is Outcome.KEPT for each in done):
            typer.echo("what you have changed was kept; --force replaces it and keeps it as .bak, except the settings")
        for each in done:
            if each.beside and each.outcome is Outcome.BESIDE:
                typer.echo(f"{each.path} is as it was; the new settings are in {each.beside}: take over what you need")
            elif each.beside:
                typer.echo(f"{each.path} was overwritten; what it was is in {each.beside}")
        if dry_run:
            typer.echo("nothing was written: a dry run")
            return
        env = project / ENV_FILE
        typer.echo(
            f"next:\n"
            f"  1. look {env} over, and give it to Airflow, the gateway and this shell: set -a; . {env}; set +a\n"
            f"  2. rollouts db upgrade\n"
            f"  3. MODEL_ROLLOUTS_MODELS='[\"my-model\"]' rollouts gateway\n"
            f"  4. rollouts doctor\n"
            f"  5. unpause the DAGs reconcile, monitoring and the patterns that you use; then the form of one, or\n"
            f'     rollouts start my-model --challenger 2 --reason "..."'
        )
