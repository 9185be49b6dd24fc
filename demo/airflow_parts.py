"""Airflow for the demo: its four components on this machine alone, with a password of its own.

The components are started one by one, not by `airflow standalone`: standalone's scheduler and triggerer also serve
log files to the whole network, which they do not without that wrapper.
"""

import json
import secrets
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from demo.airflow_api import AirflowApi
from demo.config import REPO, START_SECONDS, DemoConfig
from demo.databases import kept_database
from demo.processes import DemoError, Processes, Service, answers
from demo.progress import Progress

USER = "admin"
_PASSWORDS = "passwords.json"
_REGISTRY = "registry_events"
# Imported once in the scheduler, whose forks run the tasks: each is seconds in every task otherwise.
_PRELOADED = ("mlflow", "mlflow.pyfunc", "pandas", "great_expectations", "evidently", "duckdb", "deltalake")
_LOCAL_SETTINGS = '''"""Written by the demo: imports what the tasks need before the scheduler forks them."""

import contextlib
import importlib
import sys

if "scheduler" in sys.argv:
    for _name in {names!r}:
        # A task that needs a package that is not there says so itself.
        with contextlib.suppress(ImportError):
            importlib.import_module(_name)
'''


@dataclass(frozen=True, slots=True)
class Airflow:
    """A running Airflow.

    Attributes:
        api: Its REST API, logged in.
        services: Its components by name.
        env: What each of them was given.
        home: AIRFLOW_HOME.
    """

    api: AirflowApi
    services: dict[str, Service]
    env: dict[str, str]
    home: Path


def commands(config: DemoConfig) -> dict[str, list[str]]:
    """How each component is started."""
    return {
        "airflow-api-server": ["airflow", "api-server", "--host", "127.0.0.1", "--port", str(config.airflow_port)],
        "airflow-scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
        "airflow-dag-processor": ["airflow", "dag-processor"],
        "airflow-triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
    }


def start_component(config: DemoConfig, processes: Processes, name: str, env: dict[str, str], home: Path) -> Service:
    """Start one component, for the first time or again."""
    return processes.start(name, commands(config)[name], env=env, cwd=home, grace=8.0)


def start(config: DemoConfig, processes: Processes, progress: Progress) -> Airflow:
    """Start Airflow and wait until the DAG can be triggered.

    Raises:
        DemoError: A component ended, or was not there in time.
    """
    home = config.home / "airflow"
    env = _environment(config, home)
    with progress.step("Airflow database"):
        _database(config, processes, home, env)
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config" / "airflow_local_settings.py").write_text(
        _LOCAL_SETTINGS.format(names=_PRELOADED), encoding="utf-8"
    )
    with progress.step("Airflow"):
        services = {name: start_component(config, processes, name, env, home) for name in commands(config)}
        services["airflow-api-server"].wait_until(
            lambda: answers(f"{config.airflow_url}/api/v2/version"), "answer", START_SECONDS
        )
        api = AirflowApi(config.airflow_url, USER, password(config))
        services["airflow-scheduler"].wait_until(
            lambda: _healthy(config, processes, list(services.values())), "heartbeat", START_SECONDS
        )
        for dag_id in sorted({case.dag_id for case in config.cases} | ({_REGISTRY} if _by_registry(config) else set())):
            services["airflow-dag-processor"].wait_until(
                partial(api.dag_is_there, dag_id), f"DAG {dag_id}", START_SECONDS
            )
    return Airflow(api, services, env, home)


def _by_registry(config: DemoConfig) -> bool:
    return any(case.by_registry for case in config.cases)


def password(config: DemoConfig) -> str:
    """The login's password, made by Airflow for this run.

    Raises:
        DemoError: Airflow has not written it.
    """
    file = config.home / "airflow" / _PASSWORDS
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))[USER])
    except (OSError, ValueError, KeyError) as error:
        raise DemoError(f"{file} does not hold the password of {USER}: {error}") from None


def _login(home: Path) -> dict[str, str]:
    """A password for this run, written where Airflow looks for it; and for the tasks, which write notes on runs."""
    home.mkdir(parents=True, exist_ok=True)
    file, made = home / _PASSWORDS, secrets.token_urlsafe(16)
    file.touch(mode=0o600)
    file.write_text(json.dumps({USER: made}), encoding="utf-8")
    return {"MODEL_ROLLOUTS_AIRFLOW_USER": USER, "MODEL_ROLLOUTS_AIRFLOW_PASSWORD": made}


def _environment(config: DemoConfig, home: Path) -> dict[str, str]:
    settings = {
        "CORE__DAGS_FOLDER": str(REPO / "dags"),
        "CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / _PASSWORDS),
        "CORE__EXECUTION_API_SERVER_URL": f"{config.airflow_url}/execution/",
        "CORE__FERNET_KEY": "",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__BASE_URL": config.airflow_url,
        "API__HOST": "127.0.0.1",
        "API__PORT": str(config.airflow_port),
        "API__WORKERS": "1",
        # One secret for all components of this run, forgotten with it.
        "API__SECRET_KEY": secrets.token_hex(32),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "LOGGING__LOGGING_LEVEL": "INFO",
    }
    return {
        **config.environment(),
        **_login(home),
        "MODEL_ROLLOUTS_AIRFLOW_URL": config.airflow_url,
        "AIRFLOW_HOME": str(home),
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }


def _database(config: DemoConfig, processes: Processes, home: Path, env: dict[str, str]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with kept_database(home / "airflow.db", "airflow", config.cache) as there:
        if not there:
            processes.start("airflow-db-migrate", ["airflow", "db", "migrate"], env=env, cwd=home).finish(START_SECONDS)


def _healthy(config: DemoConfig, processes: Processes, services: list[Service]) -> bool:
    """Whether all components have sent a heartbeat."""
    import urllib.request

    processes.check(*services)
    try:
        with urllib.request.urlopen(f"{config.airflow_url}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
            health = json.load(answer)
    except OSError:
        return False
    return all(health[part]["status"] == "healthy" for part in ("scheduler", "triggerer", "dag_processor"))
