"""`rollouts init` over a project that has files already."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from model_rollouts.cli import app
from model_rollouts.project_files import Outcome

DAGS = {path.name for path in (Path(__file__).parents[1] / "dags").glob("*.py")}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "my project"


def _init(project: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["init", str(project), *more])


def _outcomes(project: Path, *more: str) -> dict[str, str]:
    result = _init(project, "--json", *more)
    assert result.exit_code == 0, result.output
    return {Path(row["file"]).name: row["outcome"] for row in json.loads(result.output)}


def test_a_project_gets_dags_suites_and_settings(project: Path) -> None:
    answer = _init(project, "--mlflow", "http://mlflow.example:5000")

    assert answer.exit_code == 0, answer.output
    assert {path.name for path in (project / "dags").glob("*.py")} == DAGS
    assert (project / "expectations" / "predictions.json").is_file()
    assert json.loads((project / "grafana" / "rollouts.json").read_text())["title"] == "Model rollouts"
    assert "rollouts db upgrade" in answer.output
    env = project / "rollouts.env"
    assert env.stat().st_mode & 0o077 == 0  # there will be passwords in it
    shown = subprocess.run(
        ["/bin/sh", "-c", 'set -a; . "$1"; env', "sh", str(env)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "MLFLOW_TRACKING_URI=http://mlflow.example:5000" in shown
    assert f"MODEL_ROLLOUTS_EXPECTATIONS_DIR={project / 'expectations'}" in shown
    assert f"MODEL_ROLLOUTS_STORE_URL=sqlite:///{project / 'rollouts.db'}" in shown


def test_what_a_person_has_changed_is_kept_unless_forced(project: Path) -> None:
    _init(project)
    canary = project / "dags" / "canary.py"
    canary.write_text("# ours\n")

    kept = _outcomes(project)
    assert kept["canary.py"] == Outcome.KEPT
    assert {outcome for name, outcome in kept.items() if name != "canary.py"} == {Outcome.SAME}
    assert canary.read_text() == "# ours\n"
    assert "--force" in _init(project).output

    assert _outcomes(project, "--force")["canary.py"] == Outcome.OVERWRITTEN
    assert "Canary release" in canary.read_text()


def test_what_was_there_before_the_first_time_is_a_persons(project: Path) -> None:
    (project / "dags").mkdir(parents=True)
    (project / "dags" / "shadow.py").write_text("# theirs\n")

    assert _outcomes(project)["shadow.py"] == Outcome.KEPT
    assert (project / "dags" / "shadow.py").read_text() == "# theirs\n"


def test_what_an_earlier_version_has_written_is_updated(project: Path) -> None:
    _init(project)
    canary, record = project / "dags" / "canary.py", project / ".model-rollouts.json"
    canary.write_text("# as it was in an earlier version\n")
    digests = json.loads(record.read_text())
    digests["dags/canary.py"] = hashlib.sha256(canary.read_bytes()).hexdigest()
    record.write_text(json.dumps(digests))

    assert _outcomes(project)["canary.py"] == Outcome.UPDATED
    assert "Canary release" in canary.read_text()


def test_settings_that_were_given_once_are_not_set_back(project: Path) -> None:
    _init(project, "--gateway", "http://gateway-1:8600")

    assert _outcomes(project)["rollouts.env"] == Outcome.KEPT
    assert "MODEL_ROLLOUTS_GATEWAY_URL=http://gateway-1:8600" in (project / "rollouts.env").read_text()


def _content(project: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def test_settings_are_not_overwritten_by_force_either_the_new_ones_go_beside_them(project: Path) -> None:
    _init(project)
    env, beside = project / "rollouts.env", project / "rollouts.env.new"
    ours = env.read_text().replace("sqlite:////", "postgresql://me:secret@db/")
    env.write_text(ours)

    answer = _init(project, "--force", "--mlflow", "http://mlflow.example:5000")

    assert answer.exit_code == 0, answer.output
    assert env.read_text() == ours
    assert "MLFLOW_TRACKING_URI=http://mlflow.example:5000" in beside.read_text()
    assert beside.stat().st_mode & 0o077 == 0
    assert str(beside) in answer.output.replace("\n", "")
    assert _outcomes(project, "--force")["rollouts.env"] == Outcome.BESIDE
    assert env.read_text() == ours


def test_settings_beside_that_were_filled_in_are_not_lost_either(project: Path) -> None:
    _init(project, "--gateway", "http://gateway-1:8600")
    _init(project, "--force")
    beside = project / "rollouts.env.new"
    beside.write_text("PASSWORD=secret")

    _init(project, "--force")

    backup = project / "rollouts.env.new.bak"
    assert backup.read_text() == "PASSWORD=secret"
    assert backup.stat().st_mode & 0o077 == 0
    assert "secret" not in beside.read_text()


def test_what_force_replaces_is_kept_each_time(project: Path) -> None:
    _init(project)
    canary, live = project / "dags" / "canary.py", project / "expectations" / "live.json"
    for text in ("# first\n", "# second\n", "# second\n"):
        canary.write_text(text)
        live.write_text(text)
        answer = _init(project, "--force")
        assert answer.exit_code == 0, answer.output

    assert "canary.py.bak2" in answer.output
    for path in (canary, live):
        kept = {file.name: file.read_text() for file in path.parent.glob("*.bak*")}
        assert kept == {f"{path.name}.bak": "# first\n", f"{path.name}.bak2": "# second\n"}


def test_without_a_change_force_replaces_nothing(project: Path) -> None:
    _init(project)
    before = _content(project)

    assert set(_outcomes(project, "--force").values()) == {Outcome.SAME}
    assert _content(project) == before


def test_a_dry_run_of_force_writes_nothing(project: Path) -> None:
    _init(project)
    (project / "rollouts.env").write_text("PASSWORD=secret\n")
    (project / "dags" / "canary.py").write_text("# ours\n")
    before = _content(project)

    told = _outcomes(project, "--force", "--dry-run")

    assert (told["rollouts.env"], told["canary.py"]) == (Outcome.BESIDE, Outcome.OVERWRITTEN)
    assert _content(project) == before


def test_a_dry_run_writes_nothing(project: Path) -> None:
    assert set(_outcomes(project, "--dry-run").values()) == {Outcome.WRITTEN}
    assert not project.exists()


def test_the_project_is_airflows_home_when_none_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(project))

    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    assert (project / "rollouts.env").is_file()


def test_a_folder_that_is_none_is_told(project: Path) -> None:
    project.write_text("a file")

    answer = _init(project)

    assert answer.exit_code == 1
    assert answer.output.startswith("error: NotADirectoryError")


def test_a_record_that_is_none_makes_every_file_a_persons(project: Path) -> None:
    _init(project)
    (project / ".model-rollouts.json").write_text("{")
    (project / "dags" / "canary.py").write_text("# ours\n")

    assert _outcomes(project)["canary.py"] == Outcome.KEPT
