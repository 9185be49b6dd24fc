"""A real API server of Airflow with the page in it, users of three roles, and a store with rollouts to look at.

Nothing else of Airflow runs: what a DAG run does after a person has done something is tests/e2e's.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ports import free_port

from demo.databases import kept_database
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern
from model_rollouts.core.rollout import Cause, Rollout
from model_rollouts.core.unit_evidence import UnitCounts

REPO = Path(__file__).parents[2]
PAGE = "/model-rollouts/page"
ROLES = {"ada": "admin", "uma": "user", "eve": "viewer"}
OURS = {"X-Model-Rollouts": "page", "Content-Type": "application/json"}
_START_SECONDS = 120


@dataclass
class PageServer:
    """The server, and ways to it.

    Attributes:
        url: Its address.
        store: The rollout store behind it.
        passwords: By user.
        log: What it wrote.
    """

    url: str
    store: SqlStore
    passwords: dict[str, str]
    log: Path
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def client(self, user: str | None) -> httpx.Client:
        """A client that is logged in by the cookie that a browser has; None: not at all."""
        name = user or ""
        if name not in self._clients:
            client = self._clients[name] = httpx.Client(base_url=self.url + PAGE, timeout=20)
            if user is not None:
                given = {"username": user, "password": self.passwords[user]}
                token = httpx.post(f"{self.url}/auth/token", json=given).json()["access_token"]
                client.cookies.set("_token", token)
        return self._clients[name]

    def get(self, path: str, user: str | None = "ada", **more: Any) -> httpx.Response:
        """Read something."""
        return self.client(user).get(path, **more)

    def do(self, rollout: Rollout, deed: str, user: str | None = "ada", **more: Any) -> httpx.Response:
        """Do something to a rollout, as the page does."""
        headers = OURS | {"Origin": self.url, "Sec-Fetch-Site": "same-origin"} | more.pop("headers", {})
        body = {"reason": "because", "revision": rollout.revision} | more
        return self.client(user).post(f"/api/rollouts/{rollout.id}/{deed}", content=json.dumps(body), headers=headers)

    def rollout(self, pattern: Pattern = Pattern.CANARY, looks: int = 0, **values: Any) -> Rollout:
        """A new rollout of a new model, with its first stage open for ten minutes."""
        store, name = self.store, f"m{secrets.token_hex(3)}"
        begin = datetime.now(UTC) - timedelta(minutes=10)
        run = {"run": {"dag_id": pattern.dag_id, "run_id": f"manual__{name}"}}
        store.apply(steps.adopt(name, "1", Cause("test", begin, "first seen")))
        traffic = store.traffic(name)
        assert traffic is not None
        plan = plan_from(pattern, values)
        started = Cause("anna", begin, "by hand", run)
        store.apply(steps.start(f"{name}-{pattern}", plan, "2", "salt", traffic, started))
        rollout, traffic = store.rollout(f"{name}-{pattern}"), store.traffic(name)
        assert traffic is not None
        opened = steps.open_stage(rollout, traffic, 0, Cause("anna", begin, "stage 0 opened", run))
        assert opened is not None
        store.apply(opened)
        if looks:
            store.save_looks(rollout.id, [look_of(index) for index in range(looks)])
        return store.rollout(rollout.id)


def look_of(index: int) -> Look:
    """A look of a challenger with half as many errors again."""
    histogram = {340: 500, 380: 400, 400: 60}
    arms = [RequestCounts(1000, 20, histogram), RequestCounts(1000, 30, histogram)]
    labels = [LabelCounts(980, 900, 90), LabelCounts(970, 880, 88)]
    units = [UnitCounts(new=50), UnitCounts(new=50)]
    return Look(0, index, *arms, *labels, *units)


def airflow_env(home: Path, port: int, store_url: str) -> dict[str, str]:
    """The environment of an Airflow that has nothing but an API server."""
    settings = {
        "CORE__DAGS_FOLDER": str(REPO / "dags"),
        "CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in ROLES.items()),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__WORKERS": "1",
        "API__SECRET_KEY": secrets.token_hex(32),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "MODEL_ROLLOUTS_", "MLFLOW_"))}
    return kept | {
        "AIRFLOW_HOME": str(home),
        "MODEL_ROLLOUTS_STORE_URL": store_url,
        "MODEL_ROLLOUTS_LOG_DIR": str(home / "log"),
        "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": "http://somebody:secret@127.0.0.1:9/",  # nobody listens there
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The server, started once."""
    home, port = tmp_path_factory.mktemp("page"), free_port()
    store_url = f"sqlite:///{home / 'rollouts.db'}"
    store = SqlStore(store_url)
    store.migrate()
    passwords = {name: secrets.token_hex(8) for name in ROLES}
    (home / "passwords.json").write_text(json.dumps(passwords))
    env, log = airflow_env(home, port, store_url), home / "server.log"
    airflow = [sys.executable, "-m", "airflow"]
    with kept_database(home / "airflow.db", "airflow") as there:
        if not there:
            subprocess.run([*airflow, "db", "migrate"], check=True, capture_output=True, timeout=240, env=env, cwd=home)
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*airflow, "api-server", "--host", "127.0.0.1", "--port", str(port)],
            env=env, cwd=home, stdout=out, stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip
    try:
        _wait(server, f"http://127.0.0.1:{port}/api/v2/version", log)
        yield PageServer(f"http://127.0.0.1:{port}", store, passwords, log)
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # it has nothing to save
        server.wait()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)  # nothing to wait on yet: the port is not open
    raise RuntimeError(f"the API server does not answer:\n{log.read_text()[-3000:]}")
