"""`rollouts doctor`: is everything there that a rollout needs?"""

from typing import Annotated

import typer

from model_rollouts.cli_shared import print_json, print_table, told, wiring


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Time for each connection.")] = 30.0,
) -> None:
    """Check every connection, and say what is wrong and how to mend it. Exit code 1: rollouts can't work."""
    with told():
        from model_rollouts.doctor import Health, examine

        rows = [finding.to_dict() for finding in examine(wiring(), seconds)]
        if as_json:
            print_json(rows)
        else:
            print_table(rows, ("what", "health", "detail", "remedy"))
        if any(row["health"] is Health.FAILED for row in rows):
            raise typer.Exit(1)
