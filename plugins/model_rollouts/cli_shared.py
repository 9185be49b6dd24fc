"""What the commands share: the wiring, tables and JSON, and errors told in one line."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from model_rollouts.core.errors import NotFoundError, RolloutError

if TYPE_CHECKING:
    from model_rollouts.adapters.mapped_log import MappedLog
    from model_rollouts.ports import RolloutStore
    from model_rollouts.wiring import Wiring


def wiring() -> "Wiring":
    """Adapters from the environment."""
    from model_rollouts.wiring import Wiring

    return Wiring()


def require_known(store: "RolloutStore", model: str) -> None:
    """Refuse a model that the store does not know, naming those that it does."""
    if store.traffic(model) is None:
        known = ", ".join(traffic.model for traffic in store.all_traffic()) or "none"
        raise NotFoundError(f"the store knows no model {model!r}; it knows: {known}")


def moment(text: str) -> datetime:
    """A time that a person gave; one without a zone is UTC.

    Raises:
        RolloutError: It is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise RolloutError(f"time is {text!r}, must be ISO 8601, such as 2026-05-01T12:00") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def mapped_log(
    parts: "Wiring", mapping: Path, model: str, champion: str, challenger: str, *, answered: bool = True
) -> "MappedLog":
    """A team's own tables as a log; `answered` when the challenger has rows in them.

    Raises:
        MappingError: The mapping is wrong, of another model, or its tables do not have what it says.
    """
    from model_rollouts.adapters.batch_mapping import MappingError, load_mapping
    from model_rollouts.adapters.mapped_log import MappedLog

    loaded = load_mapping(mapping)
    if loaded.model != model:
        raise MappingError(f"{mapping} is of model {loaded.model!r}, not of {model!r}; name that one")
    url = parts.settings.batch_url
    return MappedLog(loaded, champion, challenger, url.get_secret_value() if url else "", answered=answered)


def print_json(rows: list[dict[str, Any]]) -> None:
    """Rows as JSON on standard output."""

    def plain(value: Any) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    typer.echo(json.dumps(rows, indent=2, default=plain))


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Rows as a table on standard output; wide enough for everything where it is no terminal."""
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


def message(error: Exception) -> str:
    """One line for a person: ours as they are, others with what kind they are."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else "no message"
    return text if isinstance(error, RolloutError | ValueError) else f"{type(error).__name__}: {text}"


@contextmanager
def told() -> Iterator[None]:
    """Errors become one message and exit code 1; `ROLLOUTS_TRACEBACK=1` shows where they come from."""
    try:
        yield
    except Exception as error:
        if os.environ.get("ROLLOUTS_TRACEBACK") == "1":
            raise
        text = str(error) if isinstance(error, RolloutError | ValueError) else message(error)
        typer.echo(f"error: {text}", err=True)
        raise typer.Exit(1) from error
