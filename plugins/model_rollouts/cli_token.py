"""`rollouts token`: tokens for the gateway's callers. It needs nothing but the file of tokens."""

import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from model_rollouts.cli_shared import UsageError, print_json, print_table, told

token = typer.Typer(help="Tokens for the gateway's callers.", no_args_is_help=True)

_NEW_FILE_MODE = 0o640
_LOCK_MODE = 0o660


@token.command("new")
def new(
    role: Annotated[list[str], typer.Option(help="predict, outcomes, metrics, admin or tester; several times.")],
    name: Annotated[str, typer.Option(help="What logs and metrics call it: who has it, since when.")],
    file: Annotated[
        Path | None, typer.Option(help="File of tokens to add it to; the token alone is printed then.")
    ] = None,
    from_stdin: Annotated[
        bool, typer.Option("--from-stdin", help="Take a token that somebody else has made, 32 characters or more.")
    ] = False,
) -> None:
    """Make a token. It is shown once: the file keeps its hash, and the gateway reads the file within a second."""
    with told():
        from model_rollouts.gateway.tokens import LEAST_TOKEN_CHARS, Role, Token, line_of, new_token

        unknown = sorted(set(role) - set(Role))
        if unknown:
            raise UsageError(f"the role is {unknown[0]!r}, must be one of {', '.join(Role)}")
        secret = sys.stdin.readline().strip() if from_stdin else new_token()
        if len(secret) < LEAST_TOKEN_CHARS or not secret.isascii() or any(c.isspace() for c in secret):
            raise UsageError(
                f"the token has {len(secret)} characters, must have {LEAST_TOKEN_CHARS} or more, ASCII without blanks"
            )
        line = line_of(Token.of(name, [Role(each) for each in role], secret))
        if file is None:
            shown = "" if from_stdin else f"token: {secret}\n"
            typer.echo(f"{shown}line for MODEL_ROLLOUTS_GATEWAY_TOKENS_FILE:\n{line}")
            return
        _add(file, line)
        if not from_stdin:
            typer.echo(secret)


@token.command("list")
def list_(
    file: Annotated[Path, typer.Argument(help="File of tokens.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Names and roles of the tokens in a file; fails where the gateway would not take it."""
    with told():
        from model_rollouts.gateway.token_file import read_file

        tokens, _ = read_file(file)
        rows = [{"name": each.name, "roles": ", ".join(sorted(each.roles))} for each in tokens]
        if as_json:
            print_json(rows)
        else:
            print_table(rows, ("name", "roles"))


def _add(file: Path, line: str) -> None:
    """Add a line to a file of tokens, which changes as a whole or not at all; whoever else adds one waits.

    Raises:
        TokensError: The file would be none that the gateway takes.
    """
    from model_rollouts.gateway.tokens import parse_tokens

    target = file.resolve()
    with _alone(target.with_name(f".{target.name}.lock")):
        before, mode = "", _NEW_FILE_MODE
        if target.exists():
            before, mode = target.read_text(encoding="utf-8"), target.stat().st_mode & 0o777
        text = before + ("\n" if before and not before.endswith("\n") else "") + line + "\n"
        parse_tokens(text)
        part = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with open(handle, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock. Its file stays: one that was taken away could be held twice."""
    with open(os.open(lock, os.O_RDWR | os.O_CREAT, _LOCK_MODE), "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
