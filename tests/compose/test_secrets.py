"""deploy/make-secrets: random, for one's own eyes, never overwritten."""

import base64
import os
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "make-secrets"


def make(file: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([SCRIPT, file], env=os.environ | env, capture_output=True, text=True, check=False)


def values(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def secrets(file: Path) -> dict[str, str]:
    return {k: v for k, v in values(file).items() if k.endswith(("PASSWORD", "TOKEN", "SECRET", "KEY"))}


def test_every_secret_is_long_random_and_its_own(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert make(tmp_path / "a").returncode == make(tmp_path / "b").returncode == 0
    finally:
        os.umask(old)
    one, two = secrets(tmp_path / "a"), secrets(tmp_path / "b")
    assert len(one) == 15
    assert len({*one.values(), *two.values()}) == 2 * len(one)
    assert min(len(value) for value in one.values()) >= 20
    safe = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert {name for name, value in one.items() if set(value) - safe} <= {"AIRFLOW_FERNET_KEY"}, "they go into URLs"
    assert len(base64.urlsafe_b64decode(one["AIRFLOW_FERNET_KEY"])) == 32
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["a file", "a link to nothing"])
def test_what_is_there_is_never_overwritten(tmp_path: Path, there: str) -> None:
    file = tmp_path / "env"
    if there == "a file":
        file.write_text("POSTGRES_PASSWORD=old\n")
    else:
        file.symlink_to(tmp_path / "elsewhere")
    done = make(file)
    assert done.returncode == 1
    assert "is there already and was left as it is" in done.stderr
    assert not (tmp_path / "elsewhere").exists()
    assert there != "a file" or file.read_text() == "POSTGRES_PASSWORD=old\n"
    assert [each.name for each in tmp_path.iterdir()] == ["env"]


def test_without_random_numbers_there_is_no_file(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "base64").write_text("#!/bin/sh\nexit 1\n")
    (tools / "base64").chmod(0o755)
    done = make(tmp_path / "env", PATH=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "no random numbers" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["bin"]
