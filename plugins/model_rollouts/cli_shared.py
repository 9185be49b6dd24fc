"""What the commands share: the wiring, tables and JSON, and errors told in one line."""

import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_rollouts.core.errors import (
    ActiveRolloutError,
    IllegalTransitionError,
    NotFoundError,
    NotReadyError,
    PlanError,
    RolloutError,
    StaleRevisionError,
)
from model_rollouts.logs import bind

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
    bind(model=model)
    if store.traffic(model) is None:
        known = ", ".join(traffic.model for traffic in store.all_traffic()) or "none"
        raise NotFoundError(f"the store knows no model {model!r}; it knows: {known}")


def moment(text: str) -> datetime:
    """A time that a person gave; one without a zone is UTC.

    Raises:
        UsageError: It is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"time is {text!r}, must be ISO 8601, such as 2026-05-01T12:00") from error
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


class UsageError(RolloutError, ValueError):
    """Arguments that do not go together, or are none."""


class Code(IntEnum):
    """Exit codes, the same for every command; `docs/cli.md`."""

    DONE = 0
    FAILED = 1  # it was done and the answer is no, or something went wrong
    USAGE = 2  # an argument, a value or a setting
    REFUSED = 3  # the state does not allow it, or it has changed since it was seen
    NOT_FOUND = 4
    AWAY = 5  # store, MLflow, Airflow or the log does not answer
    TIME_RAN_OUT = 6


CODES = (
    "Exit codes: 0 done; 1 failed; 2 wrong argument or setting; 3 refused: the state does not allow it, or it has "
    "changed since it was seen; 4 not found; 5 a service does not answer; 6 time ran out."
)
_REFUSALS = (StaleRevisionError, IllegalTransitionError, ActiveRolloutError, NotReadyError)
_AWAY = frozenset({"OperationalError", "InterfaceError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout"})


def code_of(error: BaseException) -> Code:
    """What a script is told of an error."""
    if getattr(error, "transient", False) or isinstance(error, ConnectionError | TimeoutError):
        return Code.AWAY
    if isinstance(error, NotFoundError | FileNotFoundError):
        return Code.NOT_FOUND
    if isinstance(error, RolloutError) and isinstance(error, ValueError):
        return Code.USAGE
    if isinstance(error, _REFUSALS) or hasattr(error, "transient"):  # Airflow's no
        return Code.REFUSED
    if isinstance(error, RolloutError):
        return Code.FAILED
    if type(error).__name__ in _AWAY or _unreachable(error):
        return Code.AWAY
    return Code.USAGE if isinstance(error, ValueError) else Code.FAILED


def _unreachable(error: BaseException) -> bool:
    """Whether MLflow's client says that nobody answers."""
    return type(error).__name__ == "MlflowException" and "failed with exception" in str(error)


@contextmanager
def told() -> Iterator[None]:
    """Errors become one message and an exit code; `ROLLOUTS_TRACEBACK=1` shows where they come from."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if os.environ.get("ROLLOUTS_TRACEBACK") == "1":
            raise
        text = str(error) if isinstance(error, RolloutError | ValueError) else message(error)
        _tell(text, int(code_of(error)))
        raise typer.Exit(int(code_of(error))) from error


def _tell(text: str, code: int) -> None:
    """An error, on standard error: a line for people, or an object for machines."""
    from model_rollouts.logs import Hiding, format_of

    try:
        as_json = format_of("text") == "json"
    except ValueError:  # which is what is told
        as_json = False
    if as_json:
        import structlog

        structlog.get_logger().error("command_failed", error=text, exit_code=code)
    else:
        typer.echo(f"error: {Hiding(os.environ).text(text)}", err=True)


def person(by: str | None = None) -> str:
    """Who an event is written down to: the user of this machine, and for whom they say that they do it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        name = f"uid {os.getuid()}"
    at = f"{name}@{socket.gethostname()} (command line)"
    return f"{by.strip()} via {at}" if by and by.strip() else at


def models(incomplete: str) -> list[str]:
    """Names of models, for the shell's completion; none where the store is away."""
    try:
        return [row.model for row in wiring().store.all_traffic() if row.model.startswith(incomplete)]
    except Exception:
        return []


Model = Annotated[str, typer.Argument(help="Registered model.", autocompletion=models)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes on record.")]
By = Annotated[str | None, typer.Option(help="For whom you do it; your own user name goes on record, too.")]


def changes(texts: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE options as a mapping; values are JSON, or else plain text.

    Raises:
        PlanError: One is no such pair.
    """
    found: dict[str, Any] = {}
    for text in texts or []:
        name, given, value = text.partition("=")
        if not given:
            raise PlanError(f"--set {text!r} must be NAME=VALUE")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value  # plain text, such as a role
    return found
