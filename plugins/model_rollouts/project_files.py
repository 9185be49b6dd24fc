"""What `rollouts init` writes into an Airflow project. What a person has changed is theirs and stays."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from shutil import copy2

from model_rollouts.core.errors import NotFoundError

ENV_FILE = "rollouts.env"
_RECORD = ".model-rollouts.json"  # what was written, by digest: tells a person's change from an older template
_FOLDERS = {"dags": "*.py", "expectations": "*.json", "reports/grafana": "*.json"}

_SETTINGS = """\
# Settings of model-rollouts. Airflow's scheduler, DAG processor, triggerer and API server, the gateway and the command
# line all need them in their environment:  set -a; . {file}; set +a
# Everything that can be set: model_rollouts/settings.py. There are passwords in here: keep it to yourself.

# Rollouts, traffic and audit. `rollouts db upgrade` makes the tables.
MODEL_ROLLOUTS_STORE_URL={store_url}
# The registry.
MLFLOW_TRACKING_URI={mlflow}
# The log of predictions: a folder of Delta tables that the gateway and Airflow both reach ...
MODEL_ROLLOUTS_LOG_DIR={log_dir}
# ... or a database: MODEL_ROLLOUTS_LOG_URL=postgresql://...
# The own address of each gateway process, separated by commas.
MODEL_ROLLOUTS_GATEWAY_URL={gateway}
# Suites of the data checks; yours to extend.
MODEL_ROLLOUTS_EXPECTATIONS_DIR={expectations}
# Airflow, for `rollouts start`, `approve` and data rollbacks; and MODEL_ROLLOUTS_AIRFLOW_TOKEN, or _USER with _PASSWORD
MODEL_ROLLOUTS_AIRFLOW_URL={airflow}
"""


class Outcome(StrEnum):
    """What became of a file."""

    WRITTEN = "written"
    UPDATED = "updated"  # it was as an earlier version had written it
    SAME = "unchanged"
    KEPT = "kept: changed by hand"
    OVERWRITTEN = "overwritten; the old one is kept"
    BESIDE = "kept: the new one is beside it"  # settings: a person's passwords are in there


@dataclass(frozen=True, slots=True)
class Written:
    """One file.

    Attributes:
        path: Where it is.
        outcome: What became of it.
        beside: Where the old content is that was overwritten, or the new settings where the old ones were kept.
    """

    path: Path
    outcome: Outcome
    beside: Path | None = None


def templates() -> Path:
    """The folder with `dags`, `expectations` and `reports`: in the package, or beside it in a checkout.

    Raises:
        NotFoundError: They are in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "templates", here.parents[1]):
        if all((folder / name).is_dir() for name in _FOLDERS):
            return folder
    raise NotFoundError(f"the templates are neither in {here / 'templates'} nor in {here.parents[1]}; install it again")


def write_project(
    project: Path, dags: Path, values: Mapping[str, str], *, force: bool = False, dry_run: bool = False
) -> list[Written]:
    """Write templates and settings; files that a person has changed are kept, settings always.

    Args:
        project: The Airflow project.
        dags: Its folder of DAGs.
        values: Of the settings: store_url, mlflow, log_dir, gateway, airflow.
        force: Overwrite also what was changed by hand, and keep it as `.bak`; new settings go into `rollouts.env.new`.
        dry_run: Only say what would become of each file.
    """
    record_file = project / _RECORD
    record = _read(record_file)
    done = []
    for path, content in _files(project, dags, values):
        key, outcome = str(path.relative_to(project) if path.is_relative_to(project) else path), Outcome.WRITTEN
        if path.exists():
            have = path.read_bytes()
            if have == content:
                outcome = Outcome.SAME
            elif path.name == ENV_FILE:
                outcome = Outcome.BESIDE if force else Outcome.KEPT  # its values are a person's in any case
            elif _digest(have) == record.get(key):
                outcome = Outcome.UPDATED
            else:
                outcome = Outcome.OVERWRITTEN if force else Outcome.KEPT
        beside = _beside(path, outcome)
        done.append(Written(path, outcome, beside))
        if outcome is Outcome.KEPT or dry_run:
            continue
        if beside and outcome is Outcome.BESIDE:
            _write_beside(beside, content)
            continue
        if beside:
            copy2(path, beside)
        record[key] = _digest(content)
        if outcome is not Outcome.SAME:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name == ENV_FILE:
                path.touch(mode=0o600)  # there will be passwords in it
            path.write_bytes(content)
    if not dry_run:
        project.mkdir(parents=True, exist_ok=True)
        record_file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return done


def _beside(path: Path, outcome: Outcome) -> Path | None:
    """Where what must not be lost, or must not replace it, goes."""
    match outcome:
        case Outcome.OVERWRITTEN:
            return _backup(path)
        case Outcome.BESIDE:
            return path.with_name(f"{path.name}.new")
        case _:
            return None


def _backup(path: Path) -> Path:
    """The first name that is free, or has the same content already."""
    names = (f"{path.name}.bak{number if number > 1 else ''}" for number in count(1))
    backups = (path.with_name(name) for name in names)
    return next(file for file in backups if not file.exists() or file.read_bytes() == path.read_bytes())


def _write_beside(path: Path, content: bytes) -> None:
    """Settings that are for a person to compare; what the person has made of earlier ones is kept, too."""
    if path.exists() and path.read_bytes() != content:
        copy2(path, _backup(path))
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(content)


def _files(project: Path, dags: Path, values: Mapping[str, str]) -> Iterator[tuple[Path, bytes]]:
    source = templates()
    targets = {"dags": dags, "expectations": project / "expectations", "reports/grafana": project / "grafana"}
    for name, pattern in _FOLDERS.items():
        for file in sorted((source / name).glob(pattern)):
            yield targets[name] / file.name, file.read_bytes()
    env = project / ENV_FILE
    told = {name: _quoted(value) for name, value in values.items()}
    text = _SETTINGS.format(file=env, expectations=_quoted(str(project / "expectations")), **told)
    yield env, text.encode()


def _quoted(value: str) -> str:
    """As a shell and an env file take it."""
    plain = all(char.isalnum() or char in "/:._-+@,=" for char in value)
    return value if plain else "'" + value.replace("'", "'\\''") + "'"


def _read(file: Path) -> dict[str, str]:
    """What was written before; without a record every file that is there counts as a person's."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
