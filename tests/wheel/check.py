"""The wheel in an environment of its own: what a team gets that installs it into its Airflow (`make test-wheel`).

Builds the sdist and of it the wheel, installs it with the versions of requirements.txt, and looks from outside the
checkout: plugin, provider, commands, `rollouts init` into a new AIRFLOW_HOME, DAGs as Airflow reads them, the page from
its API server.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from shutil import rmtree
from typing import Any

REPO = Path(__file__).resolve().parents[2]
DAGS = {path.stem for path in (REPO / "dags").glob("*.py")}
TEMPLATES = {"dags": "*.py", "expectations": "*.json", "reports/grafana": "*.json"}
UV = str(Path(sys.executable).with_name("uv"))
_STEP_SECONDS = 300
_SERVER_SECONDS = 90


class Checked:
    """The environment, and what is run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.venv, self.home = folder, folder / "venv", folder / "airflow"
        kept = ("AIRFLOW", "MODEL_ROLLOUTS_", "MLFLOW_", "PYTHON", "VIRTUAL_ENV")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(kept)}
        self.env |= {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "PATH": f"{self.venv / 'bin'}:{self.env.get('PATH', '')}",
        }
        self.began = time.monotonic()

    def run(self, *command: str, ok: tuple[int, ...] = (0,)) -> str:
        """Run it outside the checkout; gives its output."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=_STEP_SECONDS, check=False
        )
        if done.returncode not in ok:
            print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}, must be {ok}")
        return done.stdout

    def rows(self, *command: str) -> list[dict[str, Any]]:
        """What an airflow command lists."""
        out = self.run(*command, "-o", "json")
        return list(json.loads(out[out.index("[") :]))

    def say(self, what: str) -> None:
        """A line with the time."""
        print(f"  {time.monotonic() - self.began:5.1f} s  {what}", flush=True)


def main() -> None:
    """Check everything; the first thing that is not so ends it."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        at = Checked(Path(name))
        build(at)
        install(at)
        look(at)
        project(at)
        page(at)
        at.say("all of it holds")


def build(at: Checked) -> None:
    """The sdist, and of it alone the wheel; nothing is built where templates are missing."""
    at.run(UV, "build", "-q", "-o", str(at.folder), str(REPO))
    (wheel,) = at.folder.glob("*.whl")
    inside = {name.partition("/templates/")[2] for name in zipfile.ZipFile(wheel).namelist() if "/templates/" in name}
    wanted = {
        str(file.relative_to(REPO)) for folder, files in TEMPLATES.items() for file in (REPO / folder).glob(files)
    }
    require(inside == wanted, f"the wheel's templates differ from the checkout's: {sorted(inside ^ wanted)}")
    at.say(f"{wheel.name} is built of the sdist, with {len(inside)} templates")
    (sdist,) = at.folder.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(at.folder / "sources", filter="data")
    (sources,) = (at.folder / "sources").iterdir()
    folder = "expectations"
    rmtree(sources / folder)
    command = (UV, "build", "--wheel", "-o", str(at.folder / "nothing"), str(sources))
    refused = subprocess.run(command, env=at.env, capture_output=True, text=True, timeout=_STEP_SECONDS, check=False)
    require(
        refused.returncode != 0 and f"{folder} has no" in refused.stderr,
        f"a wheel without {folder} ended with {refused.returncode}: {refused.stderr[-500:]}",
    )
    at.say(f"without {folder} no wheel is built")


def install(at: Checked) -> None:
    """A new environment with the wheel in it, and what it asks for at the versions that are locked."""
    (wheel,) = at.folder.glob("*.whl")
    at.run(UV, "venv", "-q", "--python", sys.executable, str(at.venv))
    python = str(at.venv / "bin" / "python")
    at.run(UV, "pip", "install", "-q", "--python", python, str(wheel), "-c", str(REPO / "requirements.txt"))
    at.run(UV, "pip", "check", "--python", python)
    where = at.run(python, "-c", "import model_rollouts; print(model_rollouts.__file__)").strip()
    require(where.startswith(str(at.venv)), f"the package is imported from {where}, must be from {at.venv}")
    for tool in ("pytest", "mypy", "playwright"):
        found = at.run(python, "-c", f"import importlib.util; print(importlib.util.find_spec({tool!r}) is not None)")
        require(found.strip() == "False", f"the wheel brings {tool}, which only the checkout needs")
    at.say(f"{wheel.name} is installed")


def look(at: Checked) -> None:
    """What Airflow says of it."""
    at.home.mkdir()
    at.run("airflow", "db", "migrate")
    plugins = [row for row in at.rows("airflow", "plugins") if row["name"] == "model_rollouts"]
    require(len(plugins) == 1, f"airflow plugins lists it {len(plugins)} times, must be once")
    require("EntryPoint" in str(plugins[0]["source"]), f"the plugin's source is {plugins[0]['source']}")
    providers = {row["package_name"] for row in at.rows("airflow", "providers", "list")}
    require("model-rollouts" in providers, f"airflow providers lists {sorted(providers)}")
    at.say("airflow lists the plugin and the provider")


def project(at: Checked) -> None:
    """The commands, and the DAGs as Airflow reads them."""
    at.run("rollouts", "init", str(at.home))
    settings = [line for line in (at.home / "rollouts.env").read_text().splitlines() if line and line[0] != "#"]
    at.env |= dict(line.split("=", 1) for line in settings)
    at.run("rollouts", "db", "upgrade")
    require(at.run("rollouts", "status", "--json").strip() == "[]", "a new store must be empty")
    findings = {
        each["what"]: each for each in json.loads(at.run("rollouts", "doctor", "--json", "--seconds", "10", ok=(1,)))
    }
    healths = {what: findings[what]["health"] for what in ("store", "engine", "data checks")}
    require(healths == {"store": "warning", "engine": "ok", "data checks": "ok"}, f"rollouts doctor says {findings}")
    at.run("airflow", "dags", "reserialize")
    errors = at.run("airflow", "dags", "list-import-errors", ok=(0, 1))
    require("No data found" in errors, f"DAGs have import errors: {errors}")
    listed = {row["dag_id"] for row in at.rows("airflow", "dags", "list")}
    require(listed == DAGS, f"airflow lists {sorted(listed)}, must be {sorted(DAGS)}")
    at.say(f"{len(listed)} DAGs are read without errors, rollouts doctor finds store, engine and suites")


def page(at: Checked) -> None:
    """The page comes out of the wheel: its files to everybody, what it shows to nobody without a login."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (at.folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=at.folder, env=at.env, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
    try:
        until = time.monotonic() + _SERVER_SECONDS
        while answer(f"http://127.0.0.1:{port}/api/v2/version") != 200:
            require(server.poll() is None and time.monotonic() < until, "airflow api-server did not start")
            time.sleep(0.3)
        base = f"http://127.0.0.1:{port}{page_prefix(at)}"
        found = {path: answer(base + path) for path in ("/", "/app.js", "/api/rollouts")}
        require(found == {"/": 200, "/app.js": 200, "/api/rollouts": 401}, f"the page answers {found}")
        at.say("the page is served, and shows nothing without a login")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)


def page_prefix(at: Checked) -> str:
    """Where the package says that its page is."""
    code = (
        "from model_rollouts.airflow_plugin import RolloutsPlugin\n"
        "print(next(app['url_prefix'] for app in RolloutsPlugin.fastapi_apps if app['name'].endswith(' page')))"
    )
    return at.run(str(at.venv / "bin" / "python"), "-c", code).strip().splitlines()[-1]


def answer(url: str) -> int:
    """The HTTP status; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as got:  # noqa: S310 - our own server
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def require(holds: bool, otherwise: str) -> None:
    """End with a sentence where it does not hold."""
    if not holds:
        raise SystemExit(otherwise)


if __name__ == "__main__":
    main()
