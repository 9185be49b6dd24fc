"""`rollouts token`: what it makes is what the gateway takes, and a token is shown once."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_rollouts.cli import app
from model_rollouts.cli_token import _add
from model_rollouts.gateway.callers import Callers
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.token_file import read_file
from model_rollouts.gateway.tokens import Role, Token, line_of

run = CliRunner().invoke


def test_a_token_is_made_shown_once_and_let_in(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    made = []
    for name, role in (("shop", "predict"), ("airflow", "admin")):
        done = run(app, ["token", "new", "--role", role, "--name", name, "--file", str(file)])
        assert done.exit_code == 0, done.output
        made.append(done.stdout.strip())
    assert file.stat().st_mode & 0o777 == 0o640
    assert not any(token in file.read_text() for token in made)
    callers = Callers.of(GatewaySettings(gateway_tokens_file=file))
    assert callers.known(f"Bearer {made[0]}".encode()).roles == {Role.PREDICT}
    assert callers.known(f"Bearer {made[1]}".encode()).name == "airflow"
    listed = run(app, ["token", "list", str(file), "--json"])
    assert json.loads(listed.stdout) == [
        {"name": "shop", "roles": "predict"},
        {"name": "airflow", "roles": "admin"},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tokens.lock", "tokens"]


def test_a_file_keeps_its_notes_mode_and_link(tmp_path: Path) -> None:
    real, file = tmp_path / "real", tmp_path / "tokens"
    run(app, ["token", "new", "--role", "admin", "--name", "a", "--file", str(real)])
    real.write_text("# ours\n" + real.read_text().rstrip("\n"))
    real.chmod(0o600)
    file.symlink_to(real)
    assert run(app, ["token", "new", "--role", "admin", "--name", "b", "--file", str(file)]).exit_code == 0
    assert file.is_symlink()
    assert real.read_text().startswith("# ours\n")
    assert real.stat().st_mode & 0o777 == 0o600
    assert [token.name for token in read_file(file)[0]] == ["a", "b"]


def test_tokens_that_are_made_at_once_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    lines = [line_of(Token.of(f"t{number}", [Role.ADMIN], f"{number:032}")) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(_add, file), lines))
    assert {token.name for token in read_file(file)[0]} == {f"t{number}" for number in range(40)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tokens.lock", "tokens"]


def test_what_another_is_writing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    monkeypatch.setattr("secrets.token_hex", lambda _: str(os.getpid()))
    theirs = tmp_path / f".tokens.{os.getpid()}"
    theirs.write_text("theirs")
    with pytest.raises(FileExistsError):
        _add(file, line_of(Token.of("a", [Role.ADMIN], "x" * 32)))
    assert theirs.read_text() == "theirs"
    assert not file.exists()


def test_what_would_break_the_file_leaves_it_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    run(app, ["token", "new", "--role", "admin", "--name", "a", "--file", str(file)])
    before = file.read_text()
    for arguments in (
        ["--role", "admin", "--name", "a"],
        ["--role", "root", "--name", "b"],
        ["--role", "admin", "--name", "two words"],
    ):
        done = run(app, ["token", "new", *arguments, "--file", str(file)])
        assert done.exit_code == 2, done.output
    assert file.read_text() == before
    file.write_text("broken\n")
    assert run(app, ["token", "new", "--role", "admin", "--name", "b", "--file", str(file)]).exit_code == 2
    assert file.read_text() == "broken\n"
    assert run(app, ["token", "list", str(file)]).exit_code == 2


def test_a_token_of_ones_own_is_taken_from_standard_input_and_not_shown(tmp_path: Path) -> None:
    own = "x" * 32
    done = run(app, ["token", "new", "--role", "tester", "--name", "t", "--from-stdin"], input=f"{own}\n")
    assert done.exit_code == 0
    assert own not in done.output
    file = tmp_path / "tokens"
    file.write_text(done.stdout.splitlines()[-1])
    assert Callers.of(GatewaySettings(gateway_tokens_file=file)).is_tester(own.encode())
    for bad in ("short", "x" * 31, "ü" * 40, "a b" * 20):
        refused = run(app, ["token", "new", "--role", "tester", "--name", "t", "--from-stdin"], input=bad)
        assert refused.exit_code == 2
        assert "must have 32 or more" in refused.output
